"""Workers die, freeze and leave, and their turns go on elsewhere."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from backplane.ids import new_id
from cli.exits import Exit
from scripts.faultsuite import worker_cases
from scripts.faultsuite.case import AN_APPEND
from tests.fleet.conditions import eventually
from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet
from tests.fleet.watcher import caller

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="session")]
Begin = Callable[[], Conversation]


async def test_the_turn_of_a_killed_worker_runs_again_elsewhere(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        turn = await thread.say("say 100 words", held_at=40)
        await thread.words(turn, 30)
        dead = await fleet.owner(thread.thread_id, turn)
        await dead.kill()
        end = await thread.ended(turn)
        assert end["event"] == "chat_done"
        assert (await fleet.turn(thread.thread_id, turn))["worker"] != dead.node_id
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
    await worker_cases.stopped(fleet)


async def test_a_worker_that_is_told_to_stop_finishes_a_short_turn(tmp_path: Path) -> None:
    # the grace and the lease are far longer than the turn takes on any machine
    settings = {"agent": "tests.processes.holding:agent", "drain_grace": 600, "lease": 60}
    async with Fleet(tmp_path, 1, 1, settings) as fleet, Conversation(fleet, f"t-{new_id()}") as thread:
        turn = await thread.say("say 60 words", held_at=20)
        await thread.words(turn, 10)
        worker = await fleet.owner(thread.thread_id, turn)
        worker.signal(signal.SIGTERM)
        await worker.says("draining")
        thread.let_go()
        assert (await thread.ended(turn))["event"] == "chat_done"
        assert await worker.ended() == 0
        assert "turn_restarted" not in await thread.events(turn)


async def test_a_worker_that_is_told_to_stop_hands_a_long_turn_back(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        turn = await thread.say("say 60 words", held_at=20)
        await thread.words(turn, 10)
        worker = await fleet.owner(thread.thread_id, turn)
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        assert (await thread.ended(turn))["event"] == "chat_done"
        assert "turn_restarted" in await thread.events(turn)
        assert (await fleet.turn(thread.thread_id, turn))["lost"] == "0", "handing back is no loss"


async def test_a_worker_that_is_told_to_stop_hands_a_turn_back_with_its_finished_steps(fleet: Fleet) -> None:
    """Whoever goes on is given what the first one has done: no step is done twice."""
    # unchecked: a turn that was parked goes on without an event, which the invariants of a takeover ask for
    async with Conversation(fleet, f"t-{new_id()}", checked=False) as thread:
        turn = await thread.say("order three cups of tea", held_at=1, policy="resume")
        watcher = thread.watchers[0]
        await watcher.event(turn, "text_delta")
        worker = await fleet.owner(thread.thread_id, turn)
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        restarted = await watcher.event(turn, "turn_restarted")
        assert restarted["kept_offset"] == (await watcher.event(turn, "step_done"))["offset"]
        approval = (await watcher.event(turn, "approval_request"))["approval_id"]
        async with caller(fleet.urls[0]) as by:
            await by.call("approval:decide", thread_id=thread.thread_id, approval_id=approval, decision="approved")
        assert (await watcher.ended(turn))["event"] == "chat_done"
        steps = [entry.fields["step"] for entry in await thread.log() if entry.name == "step_done"]
        assert steps == ["price", "order"]
        assert (await fleet.turn(thread.thread_id, turn))["lost"] == "0", "handing back is no loss"


async def test_a_worker_that_has_taken_its_turns_ends_them_and_stops_in_order(tmp_path: Path) -> None:
    """Exit code 0, so that whoever keeps it starts it again; what it did not take is taken by the next life."""
    async with Fleet(tmp_path, gateways=1, workers=1, settings={"max_turns": 2, "lease": 60}) as fleet:
        (worker,) = fleet.workers
        threads = [Conversation(fleet, f"t-{number}") for number in range(3)]
        async with AsyncExitStack() as stack:
            for thread in threads:
                await stack.enter_async_context(thread)
            turns = [await thread.say("say 20 words") for thread in threads]
            assert await worker.ended() == 0
            assert "claims_won=2" in await worker.says("worker stopped")
            await worker.start()
            for thread, turn in zip(threads, turns, strict=True):
                assert (await thread.ended(turn))["event"] == "chat_done"
                assert "turn_restarted" not in await thread.events(turn)


async def test_a_second_signal_ends_a_worker_whose_batch_the_store_does_not_answer(fleet: Fleet, talk: Begin) -> None:
    """It was told to hurry: it must not wait for what only a role that has ended could tell it."""
    async with talk() as thread:
        turn = await thread.say("say 20000 words")
        await thread.words(turn, 10)
        worker = await fleet.owner(thread.thread_id, turn)
        assert worker.proxy is not None
        worker.proxy.hold(AN_APPEND)
        await worker.proxy.caught()
        lives = len(worker.said)
        worker.signal(signal.SIGTERM)

        async def drains() -> bool:
            return "draining" in worker.said[lives:]

        await eventually(drains, "the worker to drain")
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == Exit.INTERRUPTED
        await fleet.attempt(thread.thread_id, turn, 2)
        await thread.cancel(turn)
        assert (await thread.ended(turn))["error_type"] == "cancelled"


async def test_followups_keep_their_order_when_the_worker_dies_in_the_first_turn(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        first = await thread.say("say 60 words", held_at=20)
        said = ["my name is Ada", "what is my name?", "how many messages?"]
        waiting = [await thread.say(text, node=n % 2, queue_mode="followup") for n, text in enumerate(said)]
        await thread.words(first, 10)
        await (await fleet.owner(thread.thread_id, first)).kill()
        ends = [await thread.ended(turn) for turn in (first, *waiting)]
        assert await thread.accepted() == ["say 60 words", *said]
        assert ends[2]["full_response"] == "Your name is Ada."
        assert "number 4" in ends[3]["full_response"]
