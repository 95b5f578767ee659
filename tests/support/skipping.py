"""Skipping a test that cannot run on this machine, which CI does not allow."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def unable(reason: str) -> NoReturn:
    """Skip, saying why; where CI=true nothing may be skipped, so fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
