"""Readings that come together share round trips, and each gets its own answer or its own error."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backplane.connection import Backplane
from backplane.errors import Internal, NotFound, Unavailable
from backplane.ids import thread_ref
from backplane.scripts import Call
from backplane.turns import Start


class Counting:
    """Counts the round trips of a backplane, and holds them up until it is told to go on."""

    def __init__(self, backplane: Backplane, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.go = asyncio.Event()
        self.error: Exception | None = None
        ask = backplane.run_many

        async def counted(calls: list[Call]) -> list[Any]:
            self.sizes.append(len(calls))
            await self.go.wait()
            if self.error is not None:
                raise self.error
            return await ask(calls)

        monkeypatch.setattr(backplane, "run_many", counted)


@pytest.fixture
def redis_url(valkey: str) -> str:
    """Return the real store's: fakeredis closes the connection at the first script that fails."""
    return valkey


@pytest.fixture
def counting(backplane: Backplane, monkeypatch: pytest.MonkeyPatch) -> Counting:
    return Counting(backplane, monkeypatch)


async def test_those_who_come_while_others_are_under_way_go_together(backplane: Backplane, counting: Counting) -> None:
    refs = [thread_ref(f"t{number}") for number in range(100)]
    for ref in refs[:50]:
        await backplane.turns.start(ref, Start("q", "ann", "sid"))
    asking = [asyncio.create_task(backplane.log.read(ref)) for ref in refs]
    await asyncio.sleep(0)
    assert counting.sizes == [1, 1]
    counting.go.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [getattr(page, "top", None) for page in answers[:50]] == [1] * 50
    assert all(isinstance(error, NotFound) for error in answers[50:])
    assert sum(counting.sizes) == 100
    assert len(counting.sizes) <= 6


async def test_who_gives_up_is_not_asked_for(backplane: Backplane, counting: Counting) -> None:
    asking = [asyncio.create_task(backplane.log.read(thread_ref(f"t{number}"))) for number in range(4)]
    await asyncio.sleep(0)
    for task in asking[2:]:
        task.cancel()
    counting.go.set()
    await asyncio.gather(*asking, return_exceptions=True)
    assert counting.sizes == [1, 1]


async def test_a_refused_call_is_an_error_of_its_own(backplane: Backplane, counting: Counting) -> None:
    refs = [thread_ref(name) for name in ("a", "b", "c", "broken", "d")]
    await backplane.redis.set(backplane.keys.thread(refs[3]).thread, "no hash", ex=60)
    asking = [asyncio.create_task(backplane.log.read(ref)) for ref in refs]
    counting.go.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(answer) for answer in answers] == [NotFound, NotFound, NotFound, Internal, NotFound]


async def test_all_are_told_when_redis_does_not_answer(backplane: Backplane, counting: Counting) -> None:
    counting.error = Unavailable("no answer; try again")
    asking = [asyncio.create_task(backplane.log.read(thread_ref(f"t{number}"))) for number in range(10)]
    counting.go.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(error, Unavailable) for error in answers)
