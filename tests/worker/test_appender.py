"""The appender: what goes at once, what waits for the beat, and that nothing is lost when Redis does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backplane.connection import Backplane
from backplane.errors import Unavailable
from backplane.ids import thread_ref
from backplane.turns import Batch, Claim
from tests.support.waiting import wait_until
from worker.appender import Appender
from worker.outbox import Outbox

CLAIM = Claim(thread_ref("t"), "r", 1, 1, "e", "hello", {}, "ann", 0, 1, 0, "")
Sent = tuple[str, Batch]


class Store:
    """A backplane that keeps what is appended, round trip by round trip."""

    def __init__(self, coalesce: float) -> None:
        self.settings = SimpleNamespace(coalesce=coalesce)
        self.turns = self
        self.trips: list[list[Sent]] = []
        self.fails: list[Exception] = []
        self.refused: list[Exception] = []

    def append_call(self, claim: Claim, batch: Batch) -> Sent:
        return claim.request_id, batch

    async def run_many(self, calls: Sequence[Sent]) -> list[Any]:
        await asyncio.sleep(0)
        if self.fails:
            raise self.fails.pop()
        answers: list[Any] = [(b"ok", 1)] * len(calls)
        if self.refused:
            answers[0] = self.refused.pop()
        else:
            self.trips.append(list(calls))
        return answers

    @property
    def said(self) -> list[tuple[str, str]]:
        return [(request, batch.text) for trip in self.trips for request, batch in trip]


@pytest.fixture
async def store() -> Store:
    return Store(coalesce=3600)


@pytest.fixture
async def appender(store: Store) -> Any:
    made = Appender(cast(Backplane, store))
    running = asyncio.create_task(made.run())
    yield made
    running.cancel()


def outboxes(appender: Appender, count: int) -> list[Outbox]:
    return [Outbox(replace(CLAIM, request_id=str(n)), appender, lambda verdict: None) for n in range(count)]


def say(outbox: Outbox, text: str) -> None:
    outbox.put_delta("text_delta", text, 1, '"round":1')


def beat(appender: Appender) -> None:
    """Let the time of the next beat come."""
    handle = appender._beat
    assert handle is not None
    handle.cancel()
    appender._send_gathered()


async def test_the_first_delta_goes_at_once_and_what_follows_waits_for_the_beat(
    store: Store, appender: Appender
) -> None:
    (outbox,) = outboxes(appender, 1)
    say(outbox, "a")
    await wait_until(lambda: store.said == [("0", "a")], "the first word is sent without waiting")
    await wait_until(lambda: not outbox._on_its_way, "and answered")
    for text in "bcd":
        say(outbox, text)
    await asyncio.sleep(0)
    assert store.said == [("0", "a")]
    beat(appender)
    await wait_until(lambda: store.said == [("0", "a"), ("0", "bcd")], "the beat takes what was gathered")


async def test_what_is_no_delta_does_not_wait_for_the_beat(store: Store, appender: Appender) -> None:
    (outbox,) = outboxes(appender, 1)
    say(outbox, "a")
    await wait_until(lambda: len(store.trips) == 1 and not outbox._on_its_way, "first")
    say(outbox, "b")
    outbox.put("tool_call", {"tool_name": "t"})
    await wait_until(lambda: len(store.trips) == 2, "what is no delta goes at once")
    assert [name for name, _ in store.trips[1][0][1].events] == ["text_delta", "tool_call"]
    beat(appender)
    await asyncio.sleep(0)
    assert len(store.trips) == 2


async def test_turns_that_talk_at_once_share_a_round_trip(store: Store, appender: Appender) -> None:
    talking = outboxes(appender, 3)
    for text in "ab":
        for outbox in talking:
            say(outbox, text)
        if text == "a":
            await wait_until(lambda: len(store.said) == 3 and not talking[-1]._on_its_way, "the first words")
    beat(appender)
    await wait_until(lambda: len(store.said) == 6, "the second words")
    assert [request for request, _ in store.trips[-1]] == ["0", "1", "2"]


@pytest.mark.parametrize(("turns", "slower"), [(1, 1.0), (3, 1.0), (6, 2.0), (8, 2.5), (100, 2.5)])
async def test_the_beat_is_slower_while_many_talk_at_once(
    store: Store, appender: Appender, turns: int, slower: float
) -> None:
    """Up to a bound, and only as long as they do."""
    talking = outboxes(appender, turns)
    for outbox in talking:
        say(outbox, "a")
    await wait_until(lambda: len(store.said) == turns and not talking[-1]._on_its_way, "the first words are sent")
    for outbox in talking:
        say(outbox, "b")
    beat(appender)
    assert appender.window == 3600 * slower
    await wait_until(lambda: len(store.said) == 2 * turns, "all is sent")
    await wait_until(lambda: not talking[0]._on_its_way, "and answered")
    say(talking[0], "alone")
    beat(appender)
    assert appender.window == 3600


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.appender._BACKOFF_FIRST", 0.001)


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize("kind", ["fails", "refused"])
async def test_a_batch_that_was_not_taken_is_sent_again_under_its_number(
    store: Store, appender: Appender, kind: str
) -> None:
    """Else it could be written twice, or not at all. What comes meanwhile waits behind it."""
    (outbox,) = outboxes(appender, 1)
    getattr(store, kind).extend([Unavailable("down"), Unavailable("down")])
    say(outbox, "a")
    await asyncio.sleep(0)
    assert not outbox.is_due
    say(outbox, "b")
    outbox.put("iteration_start", {"round": 2})
    await wait_until(lambda: len(store.said) == 2, "both are there")
    assert [(batch.number, batch.text) for trip in store.trips for _, batch in trip] == [(1, "a"), (2, "b")]


@pytest.fixture
def long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.appender._BACKOFF_FIRST", 3600.0)


@pytest.mark.usefixtures("long_pause")
async def test_what_was_not_taken_holds_up_no_other_turn(store: Store, appender: Appender) -> None:
    """Mutant: whoever sleeps until it is sent again lets the threads of all other shards wait."""
    refused, other = outboxes(appender, 2)
    store.refused.append(Unavailable("this shard is away"))
    say(refused, "a")
    await wait_until(lambda: bool(appender._again), "it was refused, and is to be sent again")
    say(other, "b")
    await wait_until(lambda: store.said == [("1", "b")], "the other goes on")
    assert appender._pause is not None
    appender._pause.cancel()
    appender._pause_is_over()
    await wait_until(lambda: store.said == [("1", "b"), ("0", "a")], "the pause is over")


async def test_more_than_one_round_trip_may_be_sent_again(
    store: Store, appender: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.appender._AT_ONCE", 2)
    talking = outboxes(appender, 5)
    store.fails.extend([Unavailable("down")] * 3)
    for outbox in talking:
        say(outbox, "a")
    await wait_until(lambda: len(store.said) == 5, "all of it arrives")
    assert sorted(store.said) == [(str(n), "a") for n in range(5)]
    assert max(map(len, store.trips)) <= 2


async def test_what_was_closed_is_not_sent(store: Store, appender: Appender) -> None:
    """Its last batch belongs to the end of the turn."""
    (outbox,) = outboxes(appender, 1)
    say(outbox, "a")
    await outbox.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert store.trips == []
    assert outbox.take().text == "a"
