"""The canceller, with a heartbeat that writes down what it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from backplane.connection import Backplane
from backplane.ids import thread_ref
from backplane.sessions import SessionCache
from tests.support.waiting import wait_until
from worker.canceller import Canceller
from worker.heartbeat import Heartbeat


class Beats:
    """In place of a heartbeat."""

    def __init__(self) -> None:
        self.asked: list[list[Any]] = []

    async def beat(self, slots: list[Any]) -> None:
        self.asked.append(slots)


@pytest.fixture
async def backplane(open_backplane: Any) -> AsyncIterator[Backplane]:
    """Return a backplane whose canary sings once: where it is heard late, the connection is lost another time."""
    async with open_backplane(canary_interval=3600.0) as opened:
        yield opened


async def test_a_lost_connection_costs_one_heartbeat_however_many_partitions_there_are(backplane: Backplane) -> None:
    """Each channel tells that it may have missed something; 64 heartbeats at once would take 64 connections."""
    beats, slot = Beats(), object()
    cache = SessionCache(1)
    cache.put(thread_ref("deleted"), "e", 1, [])
    canceller = Canceller(backplane, {"r1": cast("Any", slot)}, cast("Heartbeat", beats), cache.invalidate, cache.clear)
    await canceller.listen()
    try:
        backplane.live.reconnect()
        await wait_until(lambda: bool(beats.asked), "the verdict is asked for")
        for _ in range(5):
            await asyncio.sleep(0)
        assert beats.asked == [[slot]]
        assert len(cache) == 0, "a delete may have been among what was lost"
        canceller.missed()
        await wait_until(lambda: len(beats.asked) == 2, "the next loss is noticed as well")
    finally:
        canceller.close()
