"""Cancel, from any node, whatever the turn and its worker are doing."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import pytest

from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet
from tests.fleet.invariants import Fields
from tests.fleet.watcher import Ack, Caller, acknowledged, caller

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="session")]
Begin = Callable[[], Conversation]
BOUND = 20.0
"""Seconds: cancel_grace, a pass of the recoverer, a poll, and much for a slow machine; no tool's 30 seconds."""


async def cancelled(thread: Conversation, turn: str) -> Fields:
    """Cancel at the second node; every client hears of it within the bound."""
    answer = await thread.cancel(turn, node=1)
    assert (answer["cancelled"], answer["request_id"]) == (True, turn)
    end = await thread.ended(turn, BOUND)
    assert (end["event"], end["error_type"]) == ("chat_error", "cancelled")
    again = await thread.cancel(turn, node=0)
    assert (again["cancelled"], again["state"]) == (False, "cancelled")
    return answer


async def test_a_talking_agent_is_cancelled_from_another_node(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        turn = await thread.say("say 20000 words", node=0)
        await thread.words(turn, 20)
        assert (await cancelled(thread, turn))["state"] == "running"


async def test_a_silent_agent_is_cancelled_from_another_node(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        turn = await thread.say("sleep 30", node=0)
        await thread.watchers[0].event(turn, "tool_call")
        assert (await cancelled(thread, turn))["state"] == "running"


async def test_a_silent_agent_is_cancelled_although_the_push_is_lost(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        turn = await thread.say("sleep 30", node=0)
        await thread.watchers[0].event(turn, "tool_call")
        async with caller(fleet.urls[1]) as by:
            _, answer = await asyncio.gather(fleet.cut_live(), by.cancel(thread.thread_id, turn))
        assert answer["cancelled"] is True
        assert (await thread.ended(turn, BOUND))["error_type"] == "cancelled"


async def test_a_turn_is_cancelled_before_any_worker_exists_and_never_runs(fleet: Fleet, talk: Begin) -> None:
    for worker in fleet.workers:
        await worker.kill()
    async with talk() as thread:
        turn = await thread.say("say 20 words", node=0)
        assert (await cancelled(thread, turn))["state"] == "ready"
        await fleet.heal()
        after = await thread.say("what did I say first?", node=1)
        assert "say 20 words" in (await thread.ended(after))["full_response"]
        assert await thread.events(turn) == ["chat_accepted", "chat_error"]


async def test_the_turn_of_a_killed_worker_is_cancelled(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        turn = await thread.say("say 20000 words", node=0)
        await thread.words(turn, 20)
        await (await fleet.owner(thread.thread_id, turn)).kill()
        await cancelled(thread, turn)
        after = await thread.say("how many messages?", node=0)
        assert "number 2" in (await thread.ended(after))["full_response"]


async def test_the_turn_of_a_stopped_worker_is_cancelled_and_stays_so_when_it_goes_on(
    fleet: Fleet, talk: Begin
) -> None:
    async with talk() as thread:
        turn = await thread.say("say 20000 words", node=0)
        await thread.words(turn, 20)
        worker = await fleet.owner(thread.thread_id, turn)
        worker.signal(signal.SIGSTOP)
        await cancelled(thread, turn)
        worker.signal(signal.SIGCONT)
        await worker.says("turn lost to another owner", turn)


async def test_a_cancel_drops_what_waits_and_frees_the_thread(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        turn = await thread.say("sleep 30", node=0)
        await thread.watchers[0].event(turn, "tool_call")
        waiting = await thread.say("say 5 words", node=1, queue_mode="followup")
        answer = await thread.cancel(node=1)
        assert (answer["request_id"], answer["dropped"]) == (turn, [waiting])
        assert (await thread.ended(turn, BOUND))["error_type"] == "cancelled"
        assert await thread.events(waiting) == ["queue_item_queued", "queue_item_removed"]


async def test_starts_and_cancels_sent_back_to_back_leave_nothing_running(fleet: Fleet, talk: Begin) -> None:
    """Half of the cancels follow on the same socket before the start is answered, half come by the other node."""

    async def once(number: int, by: Caller, other: Caller) -> tuple[Conversation, Ack, Ack]:
        thread = talk()
        starting = asyncio.create_task(by.start(thread.thread_id, "say 20000 words", delay_ms=20))
        if number % 2:
            ack, answer = await asyncio.gather(starting, by.cancel(thread.thread_id))
        else:
            ack = await starting
            answer = await other.cancel(thread.thread_id, ack["request_id"])
        return thread, ack, answer

    async with caller(fleet.urls[0]) as one, caller(fleet.urls[1]) as two:
        pairs = [(one, two), (two, one)]
        done = await asyncio.gather(*(once(number, *pairs[number // 2 % 2]) for number in range(50)))

    async def checked(thread: Conversation, ack: Ack, answer: Ack) -> None:
        assert (answer["cancelled"], answer["request_id"]) == (True, ack["request_id"])
        async with thread:
            thread.acknowledged.append(acknowledged("say 20000 words", ack))
            await fleet.idle(thread.thread_id)
            assert (await thread.log())[-1].fields["error_type"] == "cancelled"

    await asyncio.gather(*(checked(*one) for one in done))
