"""Processes of the version before and of this one, side by side on one store, as they are while a fleet is upgraded."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from backplane.ids import new_id
from tests.fleet.conversation import Conversation
from tests.fleet.fleet import CODE, Fleet

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]


def _git(*words: str) -> bytes | None:
    """Return what git says; None where it is not installed, or says no."""
    try:
        return subprocess.run(["git", "-C", str(CODE), *words], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def _before() -> str | None:
    """Return the newest release behind this commit, or the commit behind it while there is no release."""
    found = _git("describe", "--tags", "--abbrev=0", "HEAD~1") or _git("rev-parse", "--verify", "HEAD~1")
    return found.decode().strip() if found else None


@pytest.fixture(scope="module")
def old_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tree of the version before."""
    version = _before()
    packed = _git("archive", version) if version else None
    if packed is None:
        pytest.skip("git or the commit before this one is not here (a shallow clone?)")
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(packed)) as tree:
        tree.extractall(folder, filter="data")
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mixed(old_code: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """Return a gateway and a worker of the version before (the first of each), and of this one (the second)."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    for old in (fleet.gateways[0], fleet.workers[0]):
        old.code = old_code
    async with fleet:
        yield fleet


async def test_a_thread_is_the_same_through_gateways_of_both_versions(mixed: Fleet) -> None:
    async with Conversation(mixed, f"t-{new_id()}") as thread:
        turns = [await thread.say("say 40 words", node=node, queue_mode="followup") for node in (0, 1, 0, 1)]
        await thread.words(turns[0], 10)
        for watcher in thread.watchers:  # in the middle of its answer, to the gateway of the other version
            watcher.move()
        for turn in turns:
            assert (await thread.ended(turn))["event"] == "chat_done"
        assert {url for watcher in thread.watchers for url in watcher.arrivals} == set(mixed.urls)
        cancelled = await thread.say("say 20000 words", node=0)
        await thread.words(cancelled, 5)
        await thread.cancel(cancelled, node=1)
        assert (await thread.ended(cancelled))["event"] == "chat_error"


@pytest.mark.parametrize("holder", [0, 1], ids=["from old to new", "from new to old"])
async def test_a_worker_of_one_version_takes_over_from_one_of_the_other(mixed: Fleet, holder: int) -> None:
    first, heir = mixed.workers[holder], mixed.workers[1 - holder]
    await heir.kill()
    async with Conversation(mixed, f"t-{new_id()}") as thread:
        turn = await thread.say("say 400 words", node=holder)
        await thread.words(turn, 20)
        await first.kill()
        await heir.start()
        end = await thread.ended(turn)
        assert end["event"] == "chat_done"
        assert [await watcher.event(turn, "turn_restarted") for watcher in thread.watchers]
        assert (await mixed.turn(thread.thread_id, turn))["worker"] == heir.node_id
        assert all(watcher.text(turn) == end["full_response"] for watcher in thread.watchers)
    await mixed.heal()
