"""Admission: a user's budget of turns, which nothing can leave used up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from backplane import admission
from backplane.admission import Admission
from backplane.connection import Backplane
from backplane.errors import RateLimited
from backplane.ids import ThreadRef, new_id, thread_ref
from backplane.turns import Batch, Ending, QueueMode, Start


@pytest.fixture
async def backplane(open_backplane: Any) -> AsyncIterator[Backplane]:
    """Return a backplane on which a user may have three turns under way."""
    async with open_backplane(max_turns_per_user=3) as opened:
        yield opened


async def start(
    backplane: Backplane, thread_id: str, subject: str = "ann", tenant: str = "default", mode: QueueMode = "interrupt"
) -> None:
    ref = ThreadRef(tenant, thread_id)
    asked = Start("q", subject, "sid", queue_mode=mode)
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


async def test_collected_context_does_not_shut_its_user_out(backplane: Backplane) -> None:
    """It waits until a turn takes it, for as long as its thread lives: the turn must be able to start."""
    for number in range(9):
        await start(backplane, f"t{number}", mode="collect")
    for number in range(3):
        await start(backplane, f"t{number}")
    with pytest.raises(RateLimited):
        await start(backplane, "t3")
    with pytest.raises(RateLimited):
        await start(backplane, "t3", mode="collect")


async def test_what_waits_in_another_lane_is_counted(backplane: Backplane) -> None:
    await start(backplane, "t0")
    await start(backplane, "t0", mode="followup")
    await start(backplane, "t0", mode="steer")
    with pytest.raises(RateLimited):
        await start(backplane, "t1")


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


# --- tenants -------------------------------------------------------------------------------------------


async def test_the_users_of_a_tenant_share_its_budget(open_backplane: Any) -> None:
    async with open_backplane(max_turns_per_tenant=3) as backplane:
        for number, subject in enumerate(("ann", "bob", "cid")):
            await start(backplane, f"t{number}", subject)
        with pytest.raises(RateLimited) as caught:
            await start(backplane, "t3", "dan")
        assert "of your tenant" in caught.value.message
        assert caught.value.details["retry_after_ms"] > 0
        await start(backplane, "t0", "dan", tenant="other")
        await backplane.turns.cancel(thread_ref("t1"), "bob")
        await start(backplane, "t3", "dan")


async def test_a_tenant_may_have_a_budget_of_its_own(open_backplane: Any) -> None:
    async with open_backplane(max_turns_per_tenant=1, tenant_max_turns={"acme": 2}) as backplane:
        for number in range(2):
            await start(backplane, f"t{number}", tenant="acme")
        await start(backplane, "t0", tenant="free")
        for tenant in ("acme", "free"):
            with pytest.raises(RateLimited):
                await start(backplane, "more", tenant=tenant)


async def test_whoever_is_refused_for_the_tenant_is_not_counted_for_the_user(open_backplane: Any) -> None:
    async with open_backplane(max_turns_per_tenant=1, max_turns_per_user=1) as backplane:
        await start(backplane, "t0", "ann")
        with pytest.raises(RateLimited):
            await start(backplane, "t1", "bob")
        assert not await backplane.redis.exists(backplane.keys.user("default", "bob"))


async def test_a_turn_that_its_worker_ended_leaves_the_count_of_its_tenant(open_backplane: Any) -> None:
    async with open_backplane(max_turns_per_tenant=3) as backplane:
        await start(backplane, "t0")
        member = await backplane.doorbell.wait()
        assert member is not None
        claim = await backplane.turns.claim(member, "worker")
        assert claim is not None
        await backplane.turns.finish(claim, Batch(1, []), Ending("done", "chat_done", '"full_response":""', ""))
        assert await backplane.redis.zcard(backplane.keys.tenant("default")) == 0


async def test_a_large_budget_is_asked_for_in_parts_until_all_is_true_again(
    open_backplane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One refused start costs a bounded number of looks, however many turns a tenant may have."""
    monkeypatch.setattr(admission, "_LOOK_AT", 4)
    async with open_backplane(max_turns_per_tenant=12) as backplane:
        for number in range(12):
            await start(backplane, f"t{number}")
        await backplane.turns.cancel(thread_ref("t11"), "ann")
        refused = 0
        for _ in range(4):
            try:
                await start(backplane, "more")
                break
            except RateLimited:
                refused += 1
        assert 1 <= refused <= 3
