"""One fleet for all tests with real processes: each test finds it whole, and may break what it likes."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
import pytest_asyncio

from backplane.embedded import Program, find_bundled, find_on_path
from backplane.ids import new_id
from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet

collect_ignore_glob = ["test_*.py"] if sys.platform == "win32" else []  # no SIGSTOP, no SIGKILL there


def find_kept() -> Program | None:
    """Return a server that a `kill -9` costs nothing: its file is written before each answer, and left to the system.

    One that syncs it each second writes up to two seconds late, while the disk is slow.
    """
    found = find_bundled() or find_on_path()
    return found and replace(found, argv=tuple("no" if word == "everysec" else word for word in found.argv))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """Return two gateways and two workers, each with a proxy before a real store with its append-only file."""
    settings = {"agent": "tests.processes.holding:agent"}
    async with Fleet(tmp_path_factory.mktemp("fleet"), settings=settings, proxied=True, finders=[find_kept]) as fleet:
        yield fleet


@pytest_asyncio.fixture(loop_scope="session")
async def fleet(shared_fleet: Fleet) -> Fleet:
    """Return the fleet, whole again after whatever the test before did to it."""
    await shared_fleet.heal()
    return shared_fleet


@pytest.fixture
def talk(fleet: Fleet) -> Callable[[], Conversation]:
    """Return a way to begin a thread of this test alone, whose end is held up to the invariants."""
    return lambda: Conversation(fleet, f"t-{new_id()}")
