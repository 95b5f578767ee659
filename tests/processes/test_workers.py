"""Workers die, freeze and leave, and their turns go on elsewhere."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet
from tests.fleet.rows import stopped_worker

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="session")]
Begin = Callable[[], Conversation]


async def test_the_turn_of_a_killed_worker_runs_again_elsewhere(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        turn = await thread.say("say 100 words")
        await thread.words(turn, 30)
        dead = await fleet.owner(thread.thread_id, turn)
        await dead.kill()
        await fleet.attempt(thread.thread_id, turn, 2)
        assert await fleet.owner(thread.thread_id, turn) is not dead
        end = await thread.ended(turn)
        assert end["event"] == "chat_done"
        assert end["full_response"].split()[-1].endswith("-100")
        assert [await watcher.event(turn, "turn_restarted") for watcher in thread.watchers]
        assert all(watcher.text(turn) == end["full_response"] for watcher in thread.watchers)


async def test_a_turn_that_outlives_every_worker_ends_once_when_its_attempts_are_used_up(
    fleet: Fleet, talk: Begin
) -> None:
    async with talk() as thread:
        turn = await thread.say("say 20000 words")
        for attempt in (1, 2, 3):
            await fleet.attempt(thread.thread_id, turn, attempt)
            await (await fleet.owner(thread.thread_id, turn)).kill()
            await fleet.heal()
        assert (await thread.ended(turn))["error_type"] == "worker_lost"


async def test_what_a_stopped_worker_writes_too_late_is_refused(fleet: Fleet) -> None:
    assert await stopped_worker(fleet) == []


async def test_a_worker_that_is_told_to_stop_finishes_a_short_turn(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        turn = await thread.say("say 60 words")
        await thread.words(turn, 10)
        worker = await fleet.owner(thread.thread_id, turn)
        worker.signal(signal.SIGTERM)
        assert (await thread.ended(turn))["event"] == "chat_done"
        assert await worker.ended() == 0
        assert "turn_restarted" not in await thread.events(turn)


async def test_a_worker_that_is_told_to_stop_hands_a_long_turn_back(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        turn = await thread.say("say 250 words")
        await thread.words(turn, 10)
        worker = await fleet.owner(thread.thread_id, turn)
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        assert (await thread.ended(turn))["event"] == "chat_done"
        assert "turn_restarted" in await thread.events(turn)
        assert (await fleet.turn(thread.thread_id, turn))["lost"] == "0", "handing back is no loss"


async def test_followups_keep_their_order_when_the_worker_dies_in_the_first_turn(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        first = await thread.say("say 60 words")
        said = ["my name is Ada", "what is my name?", "how many messages?"]
        waiting = [await thread.say(text, node=n % 2, queue_mode="followup") for n, text in enumerate(said)]
        await thread.words(first, 10)
        await (await fleet.owner(thread.thread_id, first)).kill()
        ends = [await thread.ended(turn) for turn in (first, *waiting)]
        assert await thread.accepted() == ["say 60 words", *said]
        assert ends[2]["full_response"] == "Your name is Ada."
        assert "number 4" in ends[3]["full_response"]
