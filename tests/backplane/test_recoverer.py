"""The recoverer: in every process, at work in one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError
from structlog.testing import capture_logs

from backplane.connection import Backplane
from backplane.errors import Misconfigured
from backplane.ids import thread_ref
from backplane.pipeline import pipelined
from backplane.recoverer import Recoverer
from backplane.settings import Policy
from backplane.turns import Claim, Start
from tests.support.waiting import wait_until

REF = thread_ref("recover")


async def test_only_one_of_two_processes_works(open_backplane: Any) -> None:
    rarely = {"recover_interval": 100.0}  # else the first one's lease could be over before it is asked again
    async with open_backplane(node_id="one", **rarely) as one, open_backplane(node_id="two", **rarely) as two:
        first, second = Recoverer(one), Recoverer(two)
        assert await first._elect() is None
        left = await second._elect()
        assert left is not None
        assert 0 < left <= 400.0  # four passes
        assert await first._elect() is None


async def test_a_store_that_lost_everything_is_told_the_number_of_partitions_again(open_backplane: Any) -> None:
    """Else the next process to start would record its default, and half of the fleet would look in other places."""
    async with open_backplane(partitions=5) as backplane:
        await backplane.redis.flushdb()
        assert await Recoverer(backplane)._elect() is None
        assert await backplane.redis.hget(backplane.keys.meta, "partitions") == b"5"


async def test_who_differs_from_the_recorded_number_does_not_work_and_says_so(open_backplane: Any) -> None:
    async with open_backplane(partitions=5) as backplane:
        await backplane.redis.hset(backplane.keys.meta, "partitions", 6)
        with pytest.raises(Misconfigured, match="partitions=6"):
            await Recoverer(backplane)._elect()


async def test_another_takes_over_when_the_one_is_gone(open_backplane: Any) -> None:
    async with open_backplane(recover_interval=0.01) as backplane:
        await backplane.redis.set(backplane.keys.recoverer, "a dead process", px=30)
        recoverer = Recoverer(backplane)

        async def elected() -> bool:
            return await recoverer._elect() is None

        await wait_until(elected, "the lease lapses, and this one takes it")


async def test_one_that_was_stopped_and_goes_on_does_not_take_the_lease_back(open_backplane: Any) -> None:
    async with open_backplane(node_id="one") as one:
        recoverer = Recoverer(one)
        assert await recoverer._elect() is None
        await one.redis.set(one.keys.recoverer, "another process", px=60_000)
        assert await recoverer._elect() is not None
        assert await one.redis.get(one.keys.recoverer) == b"another process"


async def test_a_lapsed_lease_is_found_and_the_turn_claimed_elsewhere(open_backplane: Any) -> None:
    async with open_backplane(lease=0.5, recover_interval=0.01) as backplane:
        started = await backplane.turns.start(REF, Start("q", "ann", "sid"))
        member = await backplane.doorbell.wait()
        assert await backplane.turns.claim(member, "dies") is not None
        running = asyncio.create_task(Recoverer(backplane).run())
        try:
            assert await backplane.doorbell.wait() == member
            claim = await backplane.turns.claim(member, "lives")
            assert claim is not None
            assert (claim.fence, claim.request_id) == (2, started.request_id)
        finally:
            running.cancel()


class Asked:
    """Counts which partitions a recoverer asks."""

    def __init__(self, recoverer: Recoverer) -> None:
        self.numbers: list[int] = []
        self._ask = recoverer._ask
        recoverer._ask = self.ask  # type: ignore[method-assign]

    def ask(self, number: int, now: int) -> Any:
        self.numbers.append(number)
        return self._ask(number, now)


class Clock:
    """Redis' clock as a recoverer sees it: it moves when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, now: int) -> None:
        self.now = now
        """Milliseconds."""
        monkeypatch.setattr("backplane.recoverer.pipelined", self._answer)

    async def _answer(self, redis: Any, commands: Any, **options: Any) -> Any:
        if commands == [("TIME",)]:
            return [(self.now // 1000, self.now % 1000 * 1000)]
        return await pipelined(redis, commands, **options)


async def test_a_partition_without_anything_due_soon_is_left_alone_for_a_while(
    open_backplane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a pass costs the same with many partitions as with few; each is asked within a second all the same."""
    async with open_backplane(partitions=8) as backplane:
        clock = Clock(monkeypatch, now := 1_000_000)
        recoverer = Recoverer(backplane)
        asked = Asked(recoverer)
        await recoverer.look()
        assert asked.numbers == list(range(8)), "nothing is known at first"
        asked.numbers.clear()
        clock.now += 100
        await recoverer.look()
        assert asked.numbers == []
        assert all(now < at <= now + 1000 for at in recoverer._ask_at)
        assert len({round(at) for at in recoverer._ask_at}) > 4, "not all in the same pass"


async def test_a_turn_is_looked_at_when_it_is_due_and_not_before(
    open_backplane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_backplane(lease=0.9, recover_interval=0.01) as backplane:
        await backplane.turns.start(REF, Start("q", "ann", "sid"))
        member = await backplane.doorbell.wait()
        claim = await backplane.turns.claim(member, "dies")
        assert claim is not None
        partition = backplane.keys.thread(REF).partition
        due = await backplane.redis.zscore(partition.due, member)
        assert due is not None
        recoverer = Recoverer(backplane)
        with monkeypatch.context() as patched:
            Clock(patched, int(due) - 1)
            assert await recoverer.look() == 0
        assert due in recoverer._ask_at, "it is known when somebody must look"

        async def recovered() -> bool:
            return await recoverer.look() == 1

        await wait_until(recovered, "the lease lapses")
        seconds, micros = await backplane.redis.time()
        assert seconds * 1000 + micros // 1000 >= due


async def test_a_clock_that_is_set_back_hides_no_turn(backplane: Backplane) -> None:
    _, member = await lapsed(backplane)
    recoverer = Recoverer(backplane)
    recoverer._ask_at = [4e12] * len(recoverer._ask_at)
    assert await recoverer.look() == 1
    assert await backplane.doorbell.wait() == member


async def test_an_error_of_redis_ends_the_pass_and_not_the_recoverer(open_backplane: Any) -> None:
    async with open_backplane(recover_interval=0.01) as backplane:
        await backplane.redis.lpush(backplane.keys.recoverer, "a list where a string is expected")
        await backplane.redis.expire(backplane.keys.recoverer, 60)
        running = asyncio.create_task(Recoverer(backplane).run())
        try:
            started = await backplane.turns.start(REF, Start("q", "ann", "sid"))
            key = backplane.keys.thread(REF)
            assert await backplane.doorbell.wait() is not None
            await backplane.redis.hset(key.turn(started.request_id), mapping={"ready_at": 1})
            await backplane.redis.zadd(key.partition.due, {key.member(started.request_id): 1})
            await backplane.redis.delete(backplane.keys.recoverer)
            assert await backplane.doorbell.wait() is not None
        finally:
            running.cancel()


async def test_a_turn_that_cannot_be_looked_at_holds_up_no_other(open_backplane: Any) -> None:
    """Else one turn that is broken in the store would keep the whole fleet's lost turns lost."""
    async with open_backplane(partitions=1) as backplane:
        _, member = await lapsed(backplane)
        keys = backplane.keys.thread(thread_ref("broken"))
        await backplane.redis.set(keys.turn("r"), "no hash", px=60_000)
        await backplane.redis.zadd(keys.partition.due, {keys.member("r"): 0})
        with capture_logs() as lines:
            assert await Recoverer(backplane).look() == 1
        (line,) = [line for line in lines if line["log_level"] == "error"]
        assert (line["thread_id"], line["request_id"]) == ("broken", "r")
        assert await backplane.doorbell.wait() == member


# --- when Redis itself was away ------------------------------------------------------------------------


async def lapsed(backplane: Backplane, policy: Policy = "retry") -> tuple[Claim, str]:
    """Return a claim whose lease has lapsed, and its member."""
    await backplane.turns.start(REF, Start("q", "ann", "sid", policy=policy))
    member = await backplane.doorbell.wait()
    assert member is not None
    claim = await backplane.turns.claim(member, "owner")
    assert claim is not None
    key = backplane.keys.thread(REF)
    await backplane.redis.hset(key.turn(claim.request_id), mapping={"lease_until": 1})
    await backplane.redis.zadd(key.partition.due, {member: 1})
    return claim, member


async def test_an_owner_gets_time_to_come_back_after_an_outage(backplane: Backplane) -> None:
    """Its lease lapsed while nobody could renew it: a recoverer, which looks more often, would win the race."""
    claim, _ = await lapsed(backplane)
    recoverer = Recoverer(backplane)
    recoverer._answered -= 10
    recoverer._note_outage(recoverer._answered)
    assert await recoverer.look() == 0
    assert await backplane.turns.heartbeat([claim]) == ["ok"]
    assert await Recoverer(backplane).look() == 0, "it has renewed its lease"


async def test_an_owner_that_does_not_come_back_after_an_outage_is_lost(backplane: Backplane) -> None:
    claim, member = await lapsed(backplane)
    assert await backplane.turns.recover(member, grace=5) == "none"
    due = await backplane.redis.zscore(backplane.keys.thread(REF).partition.due, member)
    seconds, _ = await backplane.redis.time()
    assert due is not None
    assert 3 < due / 1000 - seconds < 6, "somebody looks again when its time is up"
    assert await backplane.turns.recover(member) == "taken_over"
    assert await backplane.turns.heartbeat([claim]) == ["fenced"]


async def test_an_owner_gets_time_to_come_back_when_redis_hung_while_it_was_asked(
    backplane: Backplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: no connection breaks, the question is answered in the end, and all leases have lapsed meanwhile."""
    claim, _ = await lapsed(backplane)
    recoverer = Recoverer(backplane)
    clock = recoverer._clock

    async def hanging(redis: Any, commands: Any, **options: Any) -> Any:
        if commands == [("TIME",)]:
            hung = clock() + backplane.settings.lease
            recoverer._clock = lambda: hung
        return await pipelined(redis, commands, **options)

    monkeypatch.setattr("backplane.recoverer.pipelined", hanging)
    assert await recoverer.look() == 0
    assert await backplane.turns.heartbeat([claim]) == ["ok"]


async def test_owners_get_time_to_come_back_when_their_shard_alone_was_away(
    backplane: Backplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, member = await lapsed(backplane)
    recoverer = Recoverer(backplane)

    async def away(redis: Any, commands: Any, **options: Any) -> Any:
        answers = await pipelined(redis, commands, **options)
        return answers if commands == [("TIME",)] else [RedisTimeoutError("hangs")] * len(answers)

    with monkeypatch.context() as patched:
        patched.setattr("backplane.recoverer.pipelined", away)
        assert await recoverer.look() == 0
    assert await recoverer.look() == 0
    assert await backplane.turns.heartbeat([claim]) == ["ok"]
    await backplane.redis.hset(backplane.keys.thread(REF).turn(claim.request_id), mapping={"lease_until": 1})
    await backplane.redis.zadd(backplane.keys.thread(REF).partition.due, {member: 1})
    recoverer._ask_at = [0.0] * len(recoverer._ask_at)
    recoverer._clock = lambda: asyncio.get_running_loop().time() + backplane.settings.lease
    assert await recoverer.look() == 1, "and no longer than a lease"


async def test_a_slow_pass_is_no_outage(backplane: Backplane) -> None:
    _, member = await lapsed(backplane)
    recoverer = Recoverer(backplane)
    recoverer._answered -= backplane.settings.lease / 4
    recoverer._note_outage(recoverer._answered)
    assert await recoverer.look() == 1
    assert await backplane.doorbell.wait() == member


@pytest.mark.parametrize("policy", ["retry", "fail"])
async def test_a_turn_that_lost_its_worker_is_counted_whatever_becomes_of_it(
    open_backplane: Any, policy: Policy
) -> None:
    counted: list[None] = []
    async with open_backplane() as backplane:
        await lapsed(backplane, policy)
        assert await Recoverer(backplane, lambda: counted.append(None)).look() == 1
    assert len(counted) == 1


async def test_a_turn_that_was_handed_back_has_lost_no_worker(open_backplane: Any) -> None:
    counted: list[None] = []
    async with open_backplane() as backplane:
        await backplane.turns.start(REF, Start("q", "ann", "sid"))
        member = await backplane.doorbell.wait()
        claim = await backplane.turns.claim(member, "stops")
        await backplane.turns.release(claim)
        recoverer = Recoverer(backplane, lambda: counted.append(None))
        assert await backplane.turns.claim(member, "another") is not None
        await recoverer.look()
    assert counted == []
