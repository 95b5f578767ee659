"""Rows 3, 4, 5, 14, 20, 21 and 23: workers die, freeze, leave, have a wrong clock, race, and are poisoned."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backplane.connection import Backplane
from backplane.doorbell import Doorbell, Ring
from backplane.ids import ThreadRef, new_id, thread_ref
from backplane.settings import Settings
from backplane.turns import Start
from scripts.faultsuite.case import AN_APPEND, PATIENCE, Case, Settled, now, thread
from tests.fleet.conditions import eventually
from tests.fleet.fleet import Fleet, Member
from tests.fleet.invariants import check

_KILLS = 5
"""Times that a worker is killed; the slowest counts."""
ELSEWHERE = 5.0
"""Seconds within which the turn of a lost worker runs elsewhere, at the defaults."""
_LONG = "say 1500 words"
"""Twelve seconds at the pace of a conversation: longer than any fault here lasts."""


async def killed(fleet: Fleet) -> list[Settled]:
    """Kill the worker that holds the turn, several times."""
    slowest = 0.0
    for _ in range(_KILLS):
        async with thread(fleet) as talk:
            turn = await talk.say(_LONG)
            await talk.words(turn, 20)
            dead = await fleet.owner(talk.thread_id, turn)
            begun = now()
            await dead.kill()
            await fleet.attempt(talk.thread_id, turn, 2)
            slowest = max(slowest, now() - begun)
            assert await fleet.owner(talk.thread_id, turn) is not dead
            for watcher in talk.watchers:
                await watcher.event(turn, "turn_restarted")
            await talk.cancel(turn)
        await fleet.heal()
    return [Settled(f"running elsewhere, slowest of {_KILLS}", slowest, ELSEWHERE)]


async def stopped(fleet: Fleet) -> list[Settled]:
    """Stop a worker with an append on its way; it arrives when the turn runs elsewhere."""
    async with thread(fleet) as talk:
        turn = await talk.say("say 500 words")
        await talk.words(turn, 40)
        worker = await fleet.owner(talk.thread_id, turn)
        assert worker.proxy is not None
        worker.proxy.hold(AN_APPEND)
        async with asyncio.timeout(PATIENCE):
            await worker.proxy.caught()
        begun = now()
        worker.signal(signal.SIGSTOP)
        await fleet.attempt(talk.thread_id, turn, 2)
        settled = now() - begun
        worker.proxy.let_go()
        await talk.watchers[0].event(turn, "turn_restarted")
        worker.signal(signal.SIGCONT)
        await worker.says("turn lost to another owner", turn)
        # to its end: only a whole answer shows a word too much
        assert (await talk.ended(turn, PATIENCE))["event"] == "chat_done"
    return [Settled("running elsewhere", settled, ELSEWHERE)]


async def told_to_stop_short(fleet: Fleet) -> list[Settled]:
    """SIGTERM a worker whose turn ends within the grace."""
    async with thread(fleet) as talk:
        turn = await talk.say("say 300 words")
        await talk.words(turn, 10)
        worker = await fleet.owner(talk.thread_id, turn)
        begun = now()
        worker.signal(signal.SIGTERM)
        assert (await talk.ended(turn, PATIENCE))["event"] == "chat_done"
        assert await worker.ended() == 0
        assert "turn_restarted" not in await talk.events(turn), "it was to finish its turn, and handed it back"
    return [Settled("finished by the same worker, process gone", now() - begun, fleet.settings.drain_grace)]


async def told_to_stop_long(fleet: Fleet) -> list[Settled]:
    """SIGTERM a worker whose turn lasts longer than the grace."""
    async with thread(fleet) as talk:
        turn = await talk.say("say 3000 words")
        await talk.words(turn, 10)
        worker = await fleet.owner(talk.thread_id, turn)
        begun = now()
        worker.signal(signal.SIGTERM)
        await eventually(lambda: _is_at(fleet, talk.thread_id, turn, 2), "the turn to run elsewhere", PATIENCE)
        elsewhere = now() - begun - fleet.settings.drain_grace
        assert await worker.ended() == 0
        assert (await fleet.turn(talk.thread_id, turn))["lost"] == "0", "handing back is no loss"
        await talk.watchers[0].event(turn, "turn_restarted")
        await talk.cancel(turn)
    return [Settled("running elsewhere, behind the grace", elsewhere, 1.0)]


async def _is_at(fleet: Fleet, thread_id: str, turn: str, attempt: int) -> bool:
    return int((await fleet.turn(thread_id, turn)).get("attempt", 0)) >= attempt


async def followups(fleet: Fleet) -> list[Settled]:
    """Kill the worker in the first of four turns; the other three wait."""
    async with thread(fleet) as talk:
        first = await talk.say("say 100 words")
        said = ["my name is Ada", "what is my name?", "how many messages?"]
        waiting = [await talk.say(text, node=n % 2, queue_mode="followup") for n, text in enumerate(said)]
        await talk.words(first, 10)
        begun = now()
        await (await fleet.owner(talk.thread_id, first)).kill()
        ends = [await talk.ended(turn, PATIENCE) for turn in (first, *waiting)]
        settled = now() - begun
        assert await talk.accepted() == ["say 100 words", *said], "the follow-ups were to keep their order"
        assert ends[2]["full_response"] == "Your name is Ada."
    return [Settled("all four turns done", settled, 2 * ELSEWHERE)]


# --- row 20 --------------------------------------------------------------------------------------------------

_OFF = 300
"""Seconds by which a clock is wrong."""
_FAKETIME = "libfaketimeMT.so.1"


def _faketime() -> Path | None:
    return next(iter(sorted(Path("/usr/lib").glob(f"*/faketime/{_FAKETIME}"))), None)


def _without_faketime() -> str | None:
    return None if _faketime() else f"{_FAKETIME} is not installed (Debian: apt-get install faketime)"


@asynccontextmanager
async def _clock_off(member: Member, seconds: int) -> AsyncIterator[None]:
    """Start a member again with another wall clock, for the length of this block."""
    library = _faketime()
    assert library is not None
    # a clock that is set wrong does not change the one that only counts seconds
    member.environment = {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{seconds:+d}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    await member.kill()
    await member.start()
    await member.ready()
    line = await member.says("ready", member.node_id)
    off = (datetime.fromisoformat(line.split()[0]) - datetime.now(UTC)).total_seconds()
    assert abs(off - seconds) < abs(seconds) / 2, f"{member.name}'s clock was to be {seconds} s off, and is {off:.0f}"
    try:
        yield
    finally:
        member.environment = {}
        if member.living:
            await member.kill()
        await member.start()
        await member.ready()


async def wrong_clock(fleet: Fleet) -> list[Settled]:
    """Run and take over turns while a worker's clock is five minutes ahead and a gateway's five minutes behind."""
    ahead, other = fleet.workers[0], fleet.workers[1]
    settled = []
    async with _clock_off(ahead, _OFF), _clock_off(fleet.gateways[0], -_OFF):
        for holder, heir in ((other, ahead), (ahead, other)):
            await heir.kill()
            async with thread(fleet) as talk:
                turn = await talk.say(_LONG)
                await talk.words(turn, round(1.5 * fleet.settings.lease * 100))  # half a lease longer than a lease
                assert (await fleet.turn(talk.thread_id, turn))["attempt"] == "1", "a lease lapsed under its owner"
                await heir.start()
                await heir.ready()
                begun = now()
                await holder.kill()
                await fleet.attempt(talk.thread_id, turn, 2)
                settled.append(now() - begun)
                await talk.watchers[0].event(turn, "turn_restarted")
                await talk.cancel(turn, node=1)
            await fleet.heal()
    return [
        Settled("taken over by the one that is ahead", settled[0], ELSEWHERE),
        Settled("taken over from it", settled[1], ELSEWHERE),
    ]


# --- row 21 --------------------------------------------------------------------------------------------------

_RACES = 1000
_RACES_PER_THREAD = 100


class _RingsTwice(Doorbell):
    """Wakes both workers for each turn, in the same moment."""

    async def ring(self, ring: Ring) -> int:
        name = self._keys[0]
        rung: Any = self._redis.rpush(name, ring.member, ring.member)
        await rung
        await self._redis.expire(name, self._TTL)
        return 1


async def race(fleet: Fleet) -> list[Settled]:
    """Ring twice for each turn, so that two idle workers claim it at once."""
    begun, winners = now(), Counter[str]()
    settings = Settings(**fleet.settings.model_dump() | {"node_id": f"race-{new_id()}"})
    async with Backplane.open(settings) as backplane:
        backplane.doorbell = _RingsTwice(
            backplane.keys, backplane.redis, backplane.redis, settings.redis_timeout, settings.tenant_weights
        )
        for _ in range(_RACES // _RACES_PER_THREAD):
            winners += await _races(fleet, backplane, thread_ref(f"t-{new_id()}"))
    assert len(winners) == len(fleet.workers), f"every worker was to win some of the races: {dict(winners)}"
    assert winners.total() == _RACES
    least = min(winners.values())
    return [Settled(f"{_RACES} races, each won once (one worker won {least})", now() - begun, 4 * PATIENCE)]


async def _races(fleet: Fleet, backplane: Backplane, ref: ThreadRef) -> Counter[str]:
    winners = Counter[str]()
    for _ in range(_RACES_PER_THREAD):
        start = Start("say 1 words", "anonymous", "race", metadata={"delay_ms": 0})
        started = await backplane.turns.start(ref, start)

        async def ended(request_id: str = started.request_id) -> bool:
            return (await fleet.turn(ref.thread_id, request_id))["state"] == "done"

        await eventually(ended, f"the end of {started.request_id}", PATIENCE)
        winners[(await fleet.turn(ref.thread_id, started.request_id))["worker"]] += 1
    log = await fleet.log(ref.thread_id)
    check(log, [], [], await fleet.session(ref.thread_id))
    starts = [entry.fields["attempt"] for entry in log if entry.name == "inference_start"]
    assert starts == [1] * _RACES_PER_THREAD, f"each turn was to be claimed once, got attempts {starts}"
    return winners


# --- row 23 --------------------------------------------------------------------------------------------------


async def poison(fleet: Fleet) -> list[Settled]:
    """Start a turn that kills each worker that runs it, and one behind it."""
    async with thread(fleet) as talk, _kept_alive(fleet):
        begun = now()
        turn = await talk.say("die")
        behind = await talk.say("how many messages?", queue_mode="followup")
        end = await talk.ended(turn, PATIENCE)
        settled = now() - begun
        assert end.get("error_type") == "worker_lost", f"expected one error worker_lost, got {end}"
        assert "number 2" in (await talk.ended(behind, PATIENCE))["full_response"]
    most = fleet.settings
    bound = most.max_attempts * ELSEWHERE + most.retry_backoff
    return [Settled(f"given up after {most.max_attempts} workers, the next turn done", settled, bound)]


@asynccontextmanager
async def _kept_alive(fleet: Fleet) -> AsyncIterator[None]:
    """Start workers again that have died, as whatever runs them does, for the length of this block."""

    async def keep(member: Member) -> None:
        while True:
            await member.process.wait()
            await member.start()

    keepers = [asyncio.create_task(keep(member)) for member in fleet.workers]
    try:
        yield
    finally:
        for keeper in keepers:
            keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*keepers, return_exceptions=True)


CASES = (
    Case("3", "kill -9 the worker that holds the turn", killed),
    Case("4", "SIGSTOP a worker beyond its lease, an append on its way; then SIGCONT", stopped),
    Case("5a", "SIGTERM a worker, its turn shorter than the grace", told_to_stop_short),
    Case("5b", "SIGTERM a worker, its turn longer than the grace", told_to_stop_long),
    Case("14", "three follow-ups queued, the worker killed in the first turn", followups),
    Case("20", "a worker's clock 5 minutes ahead, a gateway's 5 minutes behind", wrong_clock, needs=_without_faketime),
    Case("21", "two workers race for one thread, 1,000 times", race),
    Case("23", "a turn that kills the process of its worker", poison),
)
