"""What the tests of the backplane share: a live path that nothing but the test cuts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from backplane.connection import Backplane


@pytest.fixture
async def backplane(open_backplane: Any) -> AsyncIterator[Backplane]:
    """Return a backplane whose canary sings once on each connection.

    One that is heard late costs the connection, and what is published meanwhile; on a busy machine any may be late.
    """
    async with open_backplane(canary_interval=3600.0) as opened:
        yield opened
