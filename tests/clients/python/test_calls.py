"""What a program asks of a thread, answered by a real gateway: lanes, approvals, cancels, turns beside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fleet.fleet import Fleet
from threadline_client import Client, Event, NotFound, Refused, Snapshot, Thread, ThreadState, connect

pytestmark = pytest.mark.processes
PACE = {"delay_ms": 10}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """Return a gateway and a worker for all tests of this file."""
    folder: Path = tmp_path_factory.mktemp("fleet")
    async with Fleet(folder, gateways=1, workers=1) as running:
        yield running


@pytest.fixture
async def client(fleet: Fleet) -> AsyncIterator[Client]:
    """Return a client of the fleet."""
    async with asyncio.timeout(40), connect(fleet.urls) as opened:
        yield opened


async def asked(thread: Thread) -> ThreadState:
    """Return the state of a thread as of the next question in it, or at once when it has one that waits."""
    state = ThreadState()
    async with thread.events() as events:
        async for item in events:
            state.apply(item)
            if state.approvals if isinstance(item, Snapshot) else item.name == "approval_request":
                break
    return state


async def test_what_waits_is_seen_and_taken_out(client: Client) -> None:
    thread = client.thread("lanes")
    running = await thread.send("say 5000 words", metadata=PACE)
    second = await thread.send("two", queue_mode="followup")
    third = await thread.send("three", queue_mode="followup")
    status = await thread.queue_status()
    assert (status.running, [item["item_id"] for item in status.lanes["followup"]]) == (
        running.request_id,
        [second.request_id, third.request_id],
    )
    state = ThreadState()
    state.lanes(status.lanes)
    assert [(item.preview, item.position) for item in state.queue] == [("two", 1), ("three", 2)]
    await thread.queue_remove(second.request_id)
    with pytest.raises(NotFound):
        await thread.queue_remove(second.request_id)
    assert (await second.wait()).error_type == "removed"
    assert await thread.queue_clear() == [third.request_id]
    assert (await running.cancel()).cancelled


async def test_a_cancel_proves_itself(client: Client) -> None:
    thread = client.thread("proof")
    turn = await thread.send("say 5000 words", metadata=PACE)
    waiting = await thread.send("two", queue_mode="followup")
    result = await thread.cancel()
    assert (result.cancelled, result.request_id, result.dropped) == (True, turn.request_id, (waiting.request_id,))
    assert result.cancel_requested_ms is not None
    assert (await turn.wait()).error_type == "cancelled"
    proof = await turn.cancel()
    assert (proof.cancelled, proof.state) == (False, "cancelled")
    assert proof.cancel_stopped_ms is not None
    assert proof.stopped is not None


async def test_an_approval_is_decided_once(client: Client) -> None:
    thread = client.thread("asks")
    turn = await thread.send("order three cups of tea", metadata=PACE)
    (question,) = (await asked(thread)).approvals
    assert (question.kind, question.tool_name, question.request_id) == ("approval", "order", turn.request_id)
    with pytest.raises(Refused, match="expected"):
        await thread.decide(question.approval_id, "perhaps")
    first = await thread.decide(question.approval_id, "approved")
    second = await thread.decide(question.approval_id, "denied")
    assert (first.decided, first.decision) == (True, "approved")
    assert (second.decided, second.state, second.decision) == (False, "decided", "approved")
    assert "I have ordered three cups of tea" in (await turn.wait()).text


async def test_a_turn_that_runs_beside_is_kept_apart(client: Client) -> None:
    thread = client.thread("beside")
    state = ThreadState()
    async with thread.events() as events:
        state.apply(await anext(events))  # before the short turn, which could be over by then
        main = await thread.send("say 5000 words", metadata=PACE)
        beside = await thread.send("say 3 words", queue_mode="parallel", metadata=PACE)
        async for item in events:
            state.apply(item)
            if isinstance(item, Event) and item.name == "chat_done":
                break
    assert [turn.request_id for turn in state.parallel] == [beside.request_id]
    assert state.turn is not None
    assert state.turn.request_id == main.request_id
    assert (await beside.wait()).text == state.parallel[0].text
    await main.cancel()
