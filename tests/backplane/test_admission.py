"""Admission: a user's budget of turns, which nothing can leave used up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from backplane.admission import Admission
from backplane.connection import Backplane
from backplane.errors import RateLimited
from backplane.ids import ThreadRef, new_id, thread_ref
from backplane.turns import Start


@pytest.fixture
async def backplane(open_backplane: Any) -> AsyncIterator[Backplane]:
    """Return a backplane on which a user may have three turns under way."""
    async with open_backplane(max_turns_per_user=3) as opened:
        yield opened


async def start(backplane: Backplane, thread_id: str, subject: str = "ann", tenant: str = "default") -> None:
    ref = ThreadRef(tenant, thread_id)
    asked = Start("q", subject, "sid")
    await backplane.admission.admit(ref, subject, asked.request_id)
    await backplane.turns.start(ref, asked)


async def test_one_turn_too_many_is_refused_with_when_to_come_back(backplane: Backplane) -> None:
    for number in range(3):
        await start(backplane, f"t{number}")
    with pytest.raises(RateLimited) as caught:
        await start(backplane, "t3")
    assert caught.value.details["retry_after_ms"] > 0
    assert not await backplane.redis.exists(backplane.keys.thread(thread_ref("t3")).thread)


async def test_others_are_undisturbed(backplane: Backplane) -> None:
    for number in range(3):
        await start(backplane, f"t{number}")
    await start(backplane, "theirs", subject="bob")
    await start(backplane, "elsewhere", tenant="other")


async def test_a_turn_that_has_ended_makes_room(backplane: Backplane) -> None:
    """Whoever ended it told nobody: the turns themselves are asked."""
    for number in range(3):
        await start(backplane, f"t{number}")
    await backplane.turns.cancel(thread_ref("t1"), "ann")
    await start(backplane, "t3")
    with pytest.raises(RateLimited):
        await start(backplane, "t4")


async def test_what_was_admitted_and_never_started_is_forgotten(backplane: Backplane) -> None:
    """A node may die between the two."""
    for _ in range(3):
        await backplane.admission.admit(thread_ref("t"), "ann", new_id())
    with pytest.raises(RateLimited):  # they may still be on their way
        await start(backplane, "t")
    later = time.time() + 60
    backplane.admission = Admission(backplane, clock=lambda: later)
    await start(backplane, "t")


async def test_a_refused_turn_is_not_counted(backplane: Backplane) -> None:
    for number in range(3):
        await start(backplane, f"t{number}")
    for _ in range(5):
        with pytest.raises(RateLimited):
            await start(backplane, "more")
    await backplane.turns.cancel(thread_ref("t0"), "ann")
    await start(backplane, "more")


async def test_many_at_once_are_never_more_than_the_budget(backplane: Backplane) -> None:
    outcomes = await asyncio.gather(*(start(backplane, f"t{n}") for n in range(12)), return_exceptions=True)
    assert 1 <= sum(outcome is None for outcome in outcomes) <= 3
    assert all(outcome is None or isinstance(outcome, RateLimited) for outcome in outcomes)
