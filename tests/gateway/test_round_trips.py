"""What a call costs: round trips to Redis, counted at the connections, so that no change adds one unseen.

Each task waits for its answers before it sends again, so what one task sends are trips one after the other; a pipeline
is one. What another task does meanwhile, side by side, costs no further trip.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio.connection import AbstractConnection

from backplane.connection import Backplane
from backplane.events import Event
from backplane.ids import thread_ref
from backplane.turns import Claim, Start
from gateway.auth import Identity
from gateway.metrics import Metrics
from gateway.payloads import ChatStart
from gateway.room import Room
from gateway.rooms import Rooms
from gateway.verbs import Verbs
from worker.appender import Appender
from worker.outbox import Outbox

ANN = Identity("ann", "default", None, None)


class Trips:
    """Counts round trips, for each task."""

    def __init__(self) -> None:
        self._of: Counter[object] = Counter()

    def sent(self) -> None:
        """Count one of the task that runs now."""
        self._of[asyncio.current_task()] += 1

    def taken(self) -> int:
        """Return how many the busiest task has made since the last look."""
        most = max(self._of.values(), default=0)
        self._of.clear()
        return most


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> Trips:
    """Return the count of round trips."""
    counted = Trips()
    send = AbstractConnection.send_packed_command

    async def sending(self: AbstractConnection, *args: Any, **options: Any) -> None:
        counted.sent()
        await send(self, *args, **options)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", sending)
    return counted


@pytest.fixture
async def quiet(open_backplane: Any) -> AsyncIterator[Backplane]:
    """Return a backplane whose own roles say nothing meanwhile."""
    async with open_backplane(canary_interval=3600.0, max_turns_per_tenant=100) as backplane:
        yield backplane


class Member:
    """A member of rooms that reads everything at once."""

    def __init__(self) -> None:
        self.rooms: set[Room] = set()
        self.gone = False

    def send(self, event: Event) -> bool:
        return True

    async def drained(self) -> bool:
        return True

    def lose(self, reason: str) -> None:
        pass


@pytest.mark.parametrize("mode", ["interrupt", "followup", "steer", "collect"])
async def test_a_start_costs_three_round_trips_at_most(quiet: Backplane, trips: Trips, mode: str) -> None:
    """Admission, the start itself, and the doorbell: with every budget counted, and a turn that runs."""
    verbs, member = Verbs(quiet, Rooms(quiet, Metrics())), Member()
    begin = ChatStart(thread_id="t", message="go")
    await verbs.start(ANN, begin, "sid", member)
    trips.taken()
    ack = await verbs.start(ANN, begin.model_copy(update={"queue_mode": mode}), "sid", member)
    assert ack["ok"] is True
    assert 2 <= trips.taken() <= 3


async def test_the_first_start_of_a_thread_costs_three_too_when_nobody_watches(quiet: Backplane, trips: Trips) -> None:
    verbs = Verbs(quiet, Rooms(quiet, Metrics()))
    await verbs.start(ANN, ChatStart(thread_id="warm", message="go"), "http", None)
    trips.taken()
    await verbs.start(ANN, ChatStart(thread_id="new", message="go"), "http", None)
    assert 2 <= trips.taken() <= 3


async def claimed(backplane: Backplane, thread_id: str) -> Claim:
    """Start a turn, and take it as a worker does."""
    await backplane.turns.start(thread_ref(thread_id), Start("go", "ann", "sid"))
    claim = await backplane.turns.claim(await backplane.doorbell.wait() or "", "worker")
    assert claim is not None
    return claim


async def test_an_append_costs_one_round_trip_and_so_do_those_of_many_turns(quiet: Backplane, trips: Trips) -> None:
    appender = Appender(quiet)
    running = asyncio.create_task(appender.run())
    try:
        boxes = [Outbox(await claimed(quiet, f"t{n}"), appender, lambda verdict: None) for n in range(5)]
        for box in boxes[:1], boxes:
            trips.taken()
            for outbox in box:
                outbox.put_delta("text_delta", "a word ", 1, '"round":1')
            for outbox in box:
                await outbox.flush()
            assert trips.taken() == 1
    finally:
        running.cancel()


async def test_a_claim_costs_two_round_trips_where_turns_wait_and_one_where_none_does(
    quiet: Backplane, trips: Trips
) -> None:
    """Beside the one that it was blocked in."""
    await claimed(quiet, "warm")  # so that all connections are made
    for waiting, most in ((1, 1), (3, 2)):
        for number in range(waiting):
            await quiet.turns.start(thread_ref(f"{waiting}-{number}"), Start("go", "ann", "sid"))
        for _ in range(waiting):
            trips.taken()
            member = await quiet.doorbell.wait()
            assert member is not None
            assert await quiet.turns.claim(member, "worker") is not None
            assert trips.taken() <= 1 + most
