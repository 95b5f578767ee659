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


async def keys_of(backplane: Backplane, beginning: str) -> list[bytes]:
    """Return the keys that begin so."""
    return [key async for key in backplane.redis.scan_iter(match=f"{beginning}*")]


async def test_a_turn_that_meets_an_empty_line_goes_to_the_worker_directly(backplane: Backplane) -> None:
    assert await ring(backplane.doorbell, "a", 1) == [1]
    assert await ring(backplane.doorbell, "a", 1) == [1]
    assert await backplane.redis.lrange(backplane.keys.doorbell, 0, -1) == [b"a/ann/0"]
    assert await backplane.redis.ttl(backplane.keys.doorbell) > 0
    assert await backplane.doorbell.wait() == "a/ann/0"
    assert await keys_of(backplane, f"{backplane.keys.prefix}:{{doorbell}}") == []


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


@pytest.mark.parametrize(
    ("waits", "comes_back", "share"), [("a/ann", "b/bob", 5), ("b/ann", "a/bob", 15), ("a/ann", "a/bob", 10)]
)
async def test_who_comes_back_with_one_turn_after_the_other_gets_no_more_than_a_share(
    weighted: Backplane, waits: str, comes_back: str, share: int
) -> None:
    """A tenant, or a user, that has left the line must not come before everybody when it returns, nor behind."""
    await ring(weighted.doorbell, waits[0], 20)
    whom: Counter[str] = Counter()
    for _ in range(20):
        if await weighted.doorbell.place(f"{comes_back}/0", "bob") == 0:
            await ring(weighted.doorbell, comes_back[0], 1, "bob")
        whom.update(await served(weighted.doorbell, 1))
    assert share - 1 <= whom[comes_back] <= share + 1


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
    await served(backplane.doorbell, 2)
    assert await backplane.doorbell.ring(Ring("a/ann/4", "ann")) == 3
    assert await backplane.redis.llen(backplane.keys.doorbell) == 3


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


async def test_a_ring_that_was_lost_is_made_good_for_whoever_is_next(backplane: Backplane) -> None:
    """Also when a newcomer makes it good: it does not come before those who wait."""
    await ring(backplane.doorbell, "a", 3)
    await backplane.redis.delete(backplane.keys.doorbell)
    await backplane.doorbell.ring(Ring("a/ann/1", "ann", again=True))
    assert await backplane.doorbell.wait() == "a/ann/1"
    assert await ring(backplane.doorbell, "b", 1, "bob") == [2]
    assert await backplane.doorbell.wait() == "a/ann/2"


async def test_the_line_leaves_nothing_behind_when_nobody_waits(backplane: Backplane) -> None:
    await ring(backplane.doorbell, "a", 3)
    await ring(backplane.doorbell, "b", 3, "bob")
    await served(backplane.doorbell, 6)
    assert await keys_of(backplane, f"{backplane.keys.prefix}:{{doorbell}}") == []


@pytest.mark.parametrize("gone", ["line_users", "line_turns", "line"])
async def test_the_line_goes_on_when_a_part_of_it_was_lost(backplane: Backplane, gone: str) -> None:
    """What is ready is rung for again by the recoverer; the line must only not stand still."""
    await ring(backplane.doorbell, "a", 3)
    await ring(backplane.doorbell, "b", 3, "bob")
    await backplane.redis.delete(*await keys_of(backplane, getattr(backplane.keys, gone)))
    await ring(backplane.doorbell, "a", 3)
    await ring(backplane.doorbell, "b", 3, "bob")
    found = set()
    while await backplane.redis.llen(backplane.keys.doorbell):
        found.add(await backplane.doorbell.wait())
    assert found - {None} == {f"{who}/{n}" for who in ("a/ann", "b/bob") for n in range(3)}


async def test_whose_place_in_the_line_was_lost_is_not_waited_for_and_comes_back_when_rung_for(
    backplane: Backplane,
) -> None:
    await ring(backplane.doorbell, "a", 3)
    await backplane.redis.delete(*await keys_of(backplane, backplane.keys.line_users))
    assert [await backplane.doorbell.wait() for _ in range(3)] == ["a/ann/0", None, None]
    await backplane.doorbell.ring(Ring("a/ann/2", "ann", again=True))
    assert await backplane.doorbell.wait() == "a/ann/1"


async def test_what_is_counted_anew_is_no_nonsense_and_lives_no_longer_than_the_line(backplane: Backplane) -> None:
    doorbell = backplane.doorbell
    await ring(doorbell, "a", 8)
    await ring(doorbell, "b", 8, "bob")
    await backplane.redis.delete(backplane.keys.line)
    assert await doorbell.place("a/ann/1", "ann") == 2
    await served(doorbell, 4)
    assert await doorbell.place("a/ann/3", "ann") == 1
    assert await doorbell.place("b/bob/7", "bob") >= 1
    assert await backplane.redis.ttl(backplane.keys.line) > 0
    await ring(doorbell, "c", 1, "cid")
    assert "c/cid" in await served(doorbell, 4)


@pytest.mark.parametrize("way", ["served", "lost"])
async def test_a_tenant_that_leaves_the_line_takes_along_what_was_counted_of_it(weighted: Backplane, way: str) -> None:
    await ring(weighted.doorbell, "a", 20)
    await ring(weighted.doorbell, "b", 3, "bob")
    if way == "lost":
        await weighted.redis.delete(*await keys_of(weighted, weighted.keys.line_users + "b"))
    while await weighted.redis.zscore(weighted.keys.line_tenants, "b"):
        await weighted.doorbell.wait()
    counted = await weighted.redis.hgetall(weighted.keys.line)
    assert set(counted) == {b"clock", b"number", b"waiting", b"weights", b"waiting:a", b"weight:a", b"clock:a"}
    assert counted[b"waiting"] == counted[b"waiting:a"]
    assert counted[b"weights"] == b"3"


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


async def test_a_place_counts_the_other_users_of_the_tenant_as_far_as_they_have_turns(backplane: Backplane) -> None:
    doorbell = backplane.doorbell
    await ring(doorbell, "a", 4)
    for subject in ("bob", "cid"):
        await ring(doorbell, "a", 3, subject)
    # a/ann/0, then three rounds of three
    assert await doorbell.place("a/bob/2", "bob") == 9
    await ring(doorbell, "a", 10)
    assert await doorbell.place("a/ann/9", "ann") == 16
    await served(doorbell, 2)
    assert await doorbell.place("a/ann/9", "ann") == 14


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
