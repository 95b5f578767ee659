"""The doorbell: who is next when turns wait, where one stands, and that nothing is woken for nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from backplane.connection import Backplane
from backplane.doorbell import Doorbell, Ring
from backplane.ids import ThreadRef


@pytest.fixture
async def weighted(open_backplane: Any) -> AsyncIterator[Backplane]:
    """Return a backplane on which the tenant `a` has three times the weight of others."""
    async with open_backplane(tenant_weights={"a": 3}) as opened:
        yield opened


async def ring(doorbell: Doorbell, tenant: str, count: int, subject: str = "ann") -> list[int]:
    """Ring for turns of a user; return their places."""
    return [await doorbell.ring(Ring(f"{tenant}/{subject}/{number}", subject)) for number in range(count)]


async def served(doorbell: Doorbell, count: int) -> list[str]:
    """Return whom the next workers get: `tenant/subject` of each."""
    return [(await doorbell.wait() or "nobody").rpartition("/")[0] for _ in range(count)]


async def test_a_turn_that_meets_an_empty_line_goes_to_the_worker_directly(backplane: Backplane) -> None:
    assert await ring(backplane.doorbell, "a", 1) == [1]
    assert await backplane.redis.lrange(backplane.keys.doorbell, 0, -1) == [b"a/ann/0"]
    assert await backplane.doorbell.wait() == "a/ann/0"


async def test_a_thousand_turns_of_one_tenant_do_not_hold_up_the_one_of_another(backplane: Backplane) -> None:
    await ring(backplane.doorbell, "a", 200)
    assert await ring(backplane.doorbell, "b", 1) == [3]
    assert "b/ann" in await served(backplane.doorbell, 3)


async def test_tenants_with_waiting_turns_are_served_by_their_weights(weighted: Backplane) -> None:
    await ring(weighted.doorbell, "a", 60)
    await ring(weighted.doorbell, "b", 60)
    whom = Counter(await served(weighted.doorbell, 41))
    assert 29 <= whom["a/ann"] <= 32
    assert whom["a/ann"] + whom["b/ann"] == 41


async def test_who_comes_back_with_one_turn_after_the_other_gets_no_more_than_a_share(weighted: Backplane) -> None:
    """A tenant that has left the line must not come before everybody when it returns."""
    await ring(weighted.doorbell, "a", 60)
    whom: Counter[str] = Counter()
    for number in range(40):
        await weighted.doorbell.ring(Ring(f"b/bob/{number}", "bob"))
        whom.update(await served(weighted.doorbell, 1))
    assert 8 <= whom["b/bob"] <= 12


async def test_the_users_of_a_tenant_take_turns(backplane: Backplane) -> None:
    await ring(backplane.doorbell, "a", 50)
    await ring(backplane.doorbell, "a", 5, "bob")
    whom = Counter(await served(backplane.doorbell, 12))
    assert whom["a/bob"] == 5


async def test_the_turns_of_one_user_keep_their_order(backplane: Backplane) -> None:
    await ring(backplane.doorbell, "a", 20)
    assert [await backplane.doorbell.wait() for _ in range(20)] == [f"a/ann/{number}" for number in range(20)]


async def test_a_turn_that_had_a_worker_before_goes_in_front_of_its_users_others(backplane: Backplane) -> None:
    await ring(backplane.doorbell, "a", 5)
    await backplane.doorbell.ring(Ring("a/ann/before", "ann", again=True))
    first_two = [await backplane.doorbell.wait() for _ in range(2)]
    assert first_two == ["a/ann/0", "a/ann/before"]


async def test_a_turn_that_is_rung_for_again_keeps_its_place_and_wakes_nobody(backplane: Backplane) -> None:
    await ring(backplane.doorbell, "a", 5)
    places = await ring(backplane.doorbell, "a", 5)
    assert places == [1, 2, 3, 4, 5]
    assert await backplane.redis.llen(backplane.keys.doorbell) == 5


async def test_every_turn_that_waits_wakes_one_worker(backplane: Backplane) -> None:
    await ring(backplane.doorbell, "a", 30)
    await ring(backplane.doorbell, "b", 30, "bob")
    woken = [await backplane.doorbell.wait() for _ in range(60)]
    assert len(set(woken)) == 60
    assert await backplane.redis.llen(backplane.keys.doorbell) == 0


async def test_a_ring_that_a_dying_worker_took_is_made_good_by_the_next(backplane: Backplane) -> None:
    await ring(backplane.doorbell, "a", 3)
    await backplane.redis.lpop(backplane.keys.doorbell, 2)
    await backplane.doorbell.ring(Ring("a/ann/0", "ann", again=True))
    await backplane.doorbell.ring(Ring("a/ann/1", "ann", again=True))
    assert {await backplane.doorbell.wait() for _ in range(3)} == {f"a/ann/{number}" for number in range(3)}


async def test_the_line_leaves_nothing_behind_when_nobody_waits(backplane: Backplane) -> None:
    await ring(backplane.doorbell, "a", 3)
    await ring(backplane.doorbell, "b", 3, "bob")
    await served(backplane.doorbell, 6)
    keys = [key async for key in backplane.redis.scan_iter(match=f"{backplane.keys.prefix}:{{doorbell}}*")]
    assert keys == []


@pytest.mark.parametrize("gone", ["line_users", "line_turns", "line"])
async def test_the_line_goes_on_when_a_part_of_it_was_lost(backplane: Backplane, gone: str) -> None:
    """What is ready is rung for again by the recoverer; the line must only not stand still."""
    await ring(backplane.doorbell, "a", 3)
    await ring(backplane.doorbell, "b", 3, "bob")
    async for key in backplane.redis.scan_iter(match=f"{getattr(backplane.keys, gone)}*"):
        await backplane.redis.delete(key)
    await ring(backplane.doorbell, "a", 3)
    await ring(backplane.doorbell, "b", 3, "bob")
    found = set()
    while await backplane.redis.llen(backplane.keys.doorbell):
        found.add(await backplane.doorbell.wait())
    assert found - {None} == {f"{who}/{n}" for who in ("a/ann", "b/bob") for n in range(3)}


async def test_the_turns_of_a_deleted_thread_leave_the_line(backplane: Backplane) -> None:
    await ring(backplane.doorbell, "a", 1)
    for number in range(3):
        await backplane.doorbell.ring(Ring(f"b/gone/{number}", "bob"))
        await backplane.doorbell.ring(Ring(f"a/stays/{number}", "ann"))
    await backplane.doorbell.forget(ThreadRef("a", "ann"), "ann")
    await backplane.doorbell.forget(ThreadRef("b", "gone"), "bob")
    assert await backplane.doorbell.place("a/stays/2", "ann") == 3
    found = {await backplane.doorbell.wait() for _ in range(await backplane.redis.llen(backplane.keys.doorbell))}
    assert found - {None} == {f"a/stays/{number}" for number in range(3)}


# --- places --------------------------------------------------------------------------------------------


async def test_a_place_counts_those_that_come_before_by_the_fair_order(backplane: Backplane) -> None:
    doorbell = backplane.doorbell
    assert await ring(doorbell, "a", 11) == list(range(1, 12))
    # two tenants: each of ours comes behind one of theirs
    assert await ring(doorbell, "b", 4, "bob") == [3, 5, 7, 9]
    assert await doorbell.place("a/ann/10", "ann") == 15
    await served(doorbell, 9)
    assert await doorbell.place("b/bob/3", "bob") == 0
    assert await doorbell.place("a/ann/10", "ann") == 6


async def test_a_place_is_about_right(weighted: Backplane) -> None:
    """Told beforehand, and then counted: with weights, and with several users, within a third of the line."""
    doorbell = weighted.doorbell
    await ring(doorbell, "b", 1, "nobody")  # so that nobody meets an empty line
    for tenant, subject, count in (("a", "ann", 12), ("a", "abe", 4), ("b", "bob", 9), ("c", "cid", 2)):
        await ring(doorbell, tenant, count, subject)
    told = {
        f"{tenant}/{subject}/{number}": await doorbell.place(f"{tenant}/{subject}/{number}", subject)
        for tenant, subject, count in (("a", "ann", 12), ("a", "abe", 4), ("b", "bob", 9), ("c", "cid", 2))
        for number in range(count)
    }
    await doorbell.wait()
    order = [await doorbell.wait() for _ in told]
    off = {member: told[str(member)] - place for place, member in enumerate(order, 1)}
    assert all(abs(error) <= len(told) / 3 for error in off.values()), sorted(off.values())
