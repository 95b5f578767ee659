"""One slot on a real store: how a turn ends when something else happens at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from backplane.connection import Backplane
from backplane.errors import Unavailable
from backplane.ids import thread_ref
from backplane.scripts import Call
from backplane.sessions import SessionCache
from backplane.turns import Start
from tests.support.waiting import wait_until
from worker.appender import Appender
from worker.slot import Slot, StopReason
from worker.turn import Agent, Turn

REF = thread_ref("slot")


@pytest.fixture
def redis_url(valkey: str) -> str:
    """Return the real store's: a slot asks nothing of it that the tests of the scripts do not ask of fakeredis."""
    return valkey


@pytest.fixture
async def appender(backplane: Backplane) -> AsyncIterator[Appender]:
    made = Appender(backplane)
    running = asyncio.create_task(made.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
def slot(backplane: Backplane, appender: Appender) -> Callable[..., Any]:
    """Return what claims a new turn for an agent. All its slots share one copy of the session."""
    cache = SessionCache()

    async def of(agent: Agent, **given: Any) -> Slot:
        started = await backplane.turns.start(REF, Start("go", "ann", "sid", **given))
        claim = await backplane.turns.claim(backplane.keys.thread(REF).member(started.request_id), "w")
        assert claim is not None
        return Slot(backplane, appender, cache, agent, claim)

    return of


async def names(backplane: Backplane) -> list[str]:
    return [event.name for event in (await backplane.log.read(REF)).events]


async def test_the_end_waits_for_the_words_that_are_on_their_way(
    backplane: Backplane, slot: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An end that overtakes them would be refused for the hole in front of it, and the turn be run again."""
    real, on_its_way, arrives = backplane.run_many, asyncio.Event(), asyncio.Event()

    async def run_many(calls: list[Call]) -> list[Any]:
        if calls[0].name == "append":
            on_its_way.set()
            await arrives.wait()
        return await real(calls)

    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        await on_its_way.wait()
        yield "b"
        said_all.set()

    said_all = asyncio.Event()
    monkeypatch.setattr(backplane, "run_many", run_many)
    mine = await slot(agent)
    running = asyncio.create_task(mine.run())
    await wait_until(said_all.is_set, "the agent has ended")
    for _ in range(5):
        await backplane.redis.ping()  # an end that waited for nothing would have come to the store by now
    arrives.set()
    await running
    assert mine.outcome == "done"
    _, messages = await backplane.sessions.history(REF)
    assert messages[-1]["content"] == "ab"
    assert (await names(backplane))[-3:] == ["text_delta", "text_delta", "chat_done"]


@pytest.mark.parametrize("reason", ["stopping", "parked"])
async def test_an_answer_that_is_whole_counts_although_its_turn_was_to_be_given_up(
    slot: Callable[..., Any], reason: StopReason
) -> None:
    """Nobody runs the agent again for what it has said already."""

    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield "all of it"
        mine.stop(reason)

    mine: Slot = await slot(agent)
    await mine.run()
    assert mine.outcome == "done"


@pytest.mark.parametrize(("name", "outcome"), [("history", "done"), ("finish", "done"), ("park", "parked")])
async def test_a_store_that_is_away_for_a_moment_costs_no_turn(
    backplane: Backplane, slot: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str, outcome: str
) -> None:
    """What a turn reads at its beginning, and how it ends, is asked for until there is an answer."""
    run, run_many, failed = backplane.run, backplane.run_many, 0

    def fails(call: Call) -> None:
        nonlocal failed
        if call.name == name and failed < 2:
            failed += 1
            raise Unavailable("Redis did not answer; send the same call again in a moment")

    async def one(call: Call) -> Any:
        fails(call)
        return await run(call)

    async def many(calls: list[Call]) -> list[Any]:
        fails(calls[0])
        return await run_many(calls)

    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield "answer"
        if outcome == "parked":
            await turn.ask("and now?")

    mine: Slot = await slot(agent, policy="resume")
    monkeypatch.setattr("worker.slot._RETRY_PAUSE", 0.001)
    monkeypatch.setattr(backplane, "run", one)
    monkeypatch.setattr(backplane, "run_many", many)
    await mine.run()
    assert (mine.outcome, failed) == (outcome, 2)
    assert (await backplane.turns.lanes(REF, "ann"))[1] == ("waiting" if outcome == "parked" else "idle")


async def test_an_answer_that_was_cancelled_at_the_door_is_remembered_as_the_session_has_it(
    backplane: Backplane, slot: Callable[..., Any]
) -> None:
    """The worker's own copy must not hold for whole what the session keeps as interrupted."""

    async def said() -> bool:
        return "text_delta" in await names(backplane)

    async def cancelled_at_the_door(turn: Turn) -> AsyncIterator[str]:
        yield "half"
        await wait_until(said, "the words are in the log")
        await backplane.turns.cancel(REF, "ann", turn.request_id)

    async def listening(turn: Turn) -> AsyncIterator[str]:
        heard.extend((message.content, message.interrupted) for message in turn.history)
        yield "ok"

    heard: list[tuple[str, bool]] = []
    first: Slot = await slot(cancelled_at_the_door)
    await first.run()
    assert first.outcome == "cancelled"
    await (await slot(listening)).run()
    assert heard == [("go", False), ("half", True)]
