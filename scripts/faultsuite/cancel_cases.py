"""Rows 11 and 12: the same start ten times, and cancels while the way to the worker is broken."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from backplane.ids import new_id
from scripts.faultsuite.case import PATIENCE, Case, Settled, now, thread
from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet
from tests.fleet.watcher import acknowledged, caller

_DUPLICATES = 10
_MARGIN = 0.5
"""Seconds on top of what the settings say, for a machine that is busy."""


async def duplicates(fleet: Fleet) -> list[Settled]:
    """Send one message ten times at once, by way of every node."""
    talk = Conversation(fleet, f"t-{new_id()}", patience=PATIENCE)
    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(caller(fleet.urls[n % len(fleet.urls)])) for n in range(_DUPLICATES)]
        begun = now()
        starts = (by.start(talk.thread_id, "say 30 words", delay_ms=5, client_message_id="once") for by in callers)
        answers = await asyncio.gather(*starts)
        settled = now() - begun
    async with talk:
        talk.acknowledged = [acknowledged("say 30 words", answer) for answer in answers]
    assert all(answer == answers[0] for answer in answers), f"ten equal answers were expected, got {answers}"
    assert len(await talk.accepted()) == 1, f"one turn was expected, got {await talk.accepted()}"
    return [Settled("ten equal answers", settled, 1.0)]


async def _cancelled(fleet: Fleet, talk: Conversation, turn: str, bound: float, what: str) -> list[Settled]:
    """Cancel at the second node, and wait until the first one's client knows."""
    begun = now()
    answer = await talk.cancel(turn, node=1)
    assert (answer["cancelled"], answer["request_id"]) == (True, turn), f"the cancel was to be taken: {answer}"
    end = await talk.watchers[0].ended(turn, PATIENCE)
    told = now() - begun
    assert (end["event"], end["error_type"]) == ("chat_error", "cancelled"), f"expected a cancelled turn, got {end}"
    took = (end["cancel_stopped_ms"] - end["cancel_requested_ms"]) / 1000
    return [
        Settled(f"{what}: stopped ({end['stopped']})", took, bound),
        Settled("told to a client elsewhere", told, bound + fleet.settings.poll_interval),
    ]


async def _silent(talk: Conversation) -> str:
    """Start a turn that is busy with a tool, and says nothing."""
    turn = await talk.say("sleep 30", node=0)
    await talk.watchers[0].event(turn, "tool_call")
    return turn


async def elsewhere(fleet: Fleet) -> list[Settled]:
    """Cancel a silent turn from another node."""
    async with thread(fleet) as talk:
        turn = await _silent(talk)
        return await _cancelled(fleet, talk, turn, _MARGIN, "asked on another node")


@contextmanager
def deaf(fleet: Fleet) -> Iterator[None]:
    """Lose everything that is published but the canaries: no process can know that it is deaf."""
    for member in fleet.members:
        assert member.proxy is not None
        member.proxy.lose = lambda channel, message: b":canary:" not in channel
    try:
        yield
    finally:
        for member in fleet.members:
            assert member.proxy is not None
            member.proxy.lose = None


async def without_pushes(fleet: Fleet) -> list[Settled]:
    """Cancel a silent turn while nothing that is published arrives anywhere."""
    async with thread(fleet) as talk:
        turn = await _silent(talk)
        with deaf(fleet):
            return await _cancelled(fleet, talk, turn, 1.0, "pub/sub lost")


async def dead_worker(fleet: Fleet) -> list[Settled]:
    """Cancel a turn whose worker was killed."""
    async with thread(fleet) as talk:
        turn = await _silent(talk)
        await (await fleet.owner(talk.thread_id, turn)).kill()
        return await _cancelled(fleet, talk, turn, _by_recoverer(fleet), "worker dead")


async def stopped_worker(fleet: Fleet) -> list[Settled]:
    """Cancel a turn whose worker is stopped, and let it go on afterwards."""
    async with thread(fleet) as talk:
        turn = await _silent(talk)
        worker = await fleet.owner(talk.thread_id, turn)
        worker.signal(signal.SIGSTOP)
        settled = await _cancelled(fleet, talk, turn, _by_recoverer(fleet), "worker stopped")
        worker.signal(signal.SIGCONT)
        await worker.says("turn lost to another owner", turn)
        return settled


async def before_any_claim(fleet: Fleet) -> list[Settled]:
    """Cancel a turn that no worker has claimed; then workers come."""
    for worker in fleet.workers:
        await worker.kill()
    async with thread(fleet) as talk:
        turn = await talk.say("say 20 words", node=0)
        settled = await _cancelled(fleet, talk, turn, _MARGIN, "never claimed")
        await fleet.heal()
        after = await talk.say("how many messages?", node=1)
        assert "number 2" in (await talk.ended(after, PATIENCE))["full_response"]
        assert await talk.events(turn) == ["chat_accepted", "chat_error"], "a cancelled turn was to never run"
    return settled


def _by_recoverer(fleet: Fleet) -> float:
    """Return how long it may take until a turn is ended for a worker that cannot."""
    return fleet.settings.cancel_grace + fleet.settings.recover_interval + _MARGIN


CASES = (
    Case("11", "ten duplicate starts at once through both nodes", duplicates),
    Case("12a", "cancel a silent turn from another node", elsewhere),
    Case("12b", "cancel while pub/sub loses everything", without_pushes),
    Case("12c", "cancel while the worker is dead", dead_worker),
    Case("12d", "cancel while the worker is stopped", stopped_worker),
    Case("12e", "cancel before any worker has claimed", before_any_claim),
)
