"""A primary behind Sentinels is killed, or cut off: who has lost something is told, and nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from backplane.addresses import parse
from backplane.embedded import HOST
from backplane.turns import Start
from tests.fleet.conditions import eventually
from tests.servers.deployments import PASSWORD, Watched
from tests.servers.thread import Thread, hearing, opened

pytestmark = pytest.mark.processes


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    """Return a deployment that the test may break."""
    async with Watched(tmp_path) as deployment:
        yield deployment


async def test_a_primary_that_is_killed_with_words_that_nobody_else_had(watched: Watched) -> None:
    """Row 16 of the faults: the end of one thread's log is lost, and its offsets are given to other events."""
    async with opened(watched.url) as backplane:
        whole, torn = Thread(backplane, "whole"), Thread(backplane, "torn")
        await whole.begin()
        await torn.begin()
        assert [await whole.say(), await torn.say()] == [("ok", 3), ("ok", 3)]
        await eventually(watched.primary.caught_up, "the replica to have all of it")
        await watched.primary.shut_out("replication")
        assert await torn.say("lost") == ("ok", 4)
        await torn.hears(4)
        await watched.primary.kill()
        await watched.failed_over()
        assert await whole.said() == 4, "a turn that has lost nothing goes on"

        async def told() -> bool:
            return whole.ear.misses > 0

        await eventually(told, "the listener to be told")
        assert await whole.said() == 5
        await whole.hears(5)
        page = await backplane.log.read(whole.ref, epoch=whole.claim.epoch, after=3)
        assert (page.reached, page.ancestry) == (True, {whole.claim.epoch: 3})
        assert not (await backplane.log.read(torn.ref, epoch=torn.claim.epoch, after=4)).reached
        assert (await torn.say("behind"))[0] == "fenced", "its owner would leave a hole"
        for n in range(3):
            await backplane.turns.start(torn.ref, Start(f"m{n}", "ann", "sid", queue_mode="followup"))
        page = await backplane.log.read(torn.ref, epoch=torn.claim.epoch, after=4)
        assert (page.top, page.reached) == (6, False), "its offset was given to another event"
        assert (await backplane.log.read(torn.ref, epoch=torn.claim.epoch, after=3)).reached
        await hearing(backplane)


async def test_an_old_primary_that_is_cut_off_takes_writes_that_are_lost_and_told(watched: Watched) -> None:
    """Row 16 of the faults, split brain: a node and a worker are cut off together with the old primary."""
    alone = f"redis://app:{PASSWORD}@{HOST}:{watched.primary.port}"
    async with opened(watched.url) as backplane, opened(alone) as cut_off:
        thread = Thread(backplane, "t")
        await thread.begin()
        await thread.say()
        started = await backplane.turns.start(thread.ref, Start("next", "ann", "sid", queue_mode="followup"))
        await eventually(watched.primary.caught_up, "the replica to have all of it")
        await watched.primary.shut_out("replication", "sentinel")
        await watched.failed_over()
        assert await thread.say("on the old side", through=cut_off) == ("ok", 5)
        old, phantom = thread.claim, 5
        await hearing(backplane)

        async def moved() -> bool:
            return [server.port for server in backplane.servers.primaries] == [watched.replica.port]

        await eventually(moved, "the connected process to follow the Sentinels")
        await backplane.turns.cancel(thread.ref, "ann", old.request_id)
        await backplane.redis.hset(thread.keys.turn(old.request_id), "lease_until", 1)
        await backplane.turns.recover(thread.keys.member(old.request_id))
        assert await backplane.turns.heartbeat([old]) == ["fenced"], "the old owner comes back"
        assert (await thread.say("late"))[0] == "fenced"
        await thread.take(started.request_id)
        page = await backplane.log.read(thread.ref, epoch=old.epoch, after=phantom)
        assert not page.reached, "what was seen on the old side is told as lost"
        assert (await backplane.log.read(thread.ref, epoch=old.epoch, after=4)).reached
        assert page.epoch != old.epoch


async def test_the_newest_word_of_the_sentinels_counts(watched: Watched) -> None:
    """One Sentinel is cut off, and goes on naming the old primary."""
    address = parse(watched.url)
    assert [server.port for server in address.servers] == [node.port for node in watched.sentinels]
    async with opened(watched.url) as backplane:
        blind, seeing = watched.sentinels[0], watched.sentinels[1]
        await blind.kill()

        async def ordered() -> bool:
            try:
                await seeing.redis.execute_command("SENTINEL FAILOVER", "main")  # type: ignore[no-untyped-call]
            except ResponseError as error:
                if "NOGOODSLAVE" not in str(error):  # it has not heard of the replica itself yet
                    raise
                return False
            return True

        await eventually(ordered, "the order to be taken")

        async def moved() -> bool:
            return [server.port for server in backplane.servers.primaries] == [watched.replica.port]

        await eventually(moved, "the process to follow")
        await hearing(backplane)
        thread = Thread(backplane, "t")
        await thread.begin()
        assert await thread.said() == 3
