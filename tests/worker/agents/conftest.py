"""What the tests of agents share: the store that their workers run on."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.worker.agents.contract")  # so that its assertions say what they got


@pytest.fixture
def redis_url(valkey: str) -> str:
    """Return the real store's: whole workers on fakeredis would test fakeredis' speed."""
    return valkey
