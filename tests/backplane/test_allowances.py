"""Allowances in Redis: what is left over all nodes, and what becomes of nonsense that lies there."""

from __future__ import annotations

from typing import Any

import pytest

from backplane.allowances import KEPT, Spent
from backplane.connection import Backplane
from tests.conftest import REAL
from tests.support.waiting import wait_until

SLOW = 0.001
"""Calls a second: in the length of a test nothing comes back."""


def spent(backplane: Backplane, calls: int, subject: str = "ann", **given: Any) -> Spent:
    key = backplane.keys.user_calls("default", subject)
    fields: dict[str, Any] = {"key": key, "calls": calls, "seconds": 0.0, "rate": SLOW, "most": 10}
    return Spent(**(fields | given))


async def left(backplane: Backplane, *settled: Spent) -> list[float]:
    """Return what is left, to the whole call."""
    return [round(rest) for rest in await backplane.allowances.settle(settled) if rest is not None]


async def test_what_nodes_let_pass_is_added_up_and_may_overdraw(backplane: Backplane) -> None:
    assert await left(backplane, spent(backplane, 4)) == [6]
    assert await left(backplane, spent(backplane, 6)) == [0]
    assert await left(backplane, spent(backplane, 10)) == [-10]


async def test_each_has_an_allowance_of_its_own(backplane: Backplane) -> None:
    other = spent(backplane, 1, key=backplane.keys.user_calls("elsewhere", "ann"))
    tenant = spent(backplane, 5, key=backplane.keys.tenant_calls("default"))
    assert await left(backplane, spent(backplane, 3), spent(backplane, 2, "bob"), other, tenant) == [7, 8, 9, 5]


async def test_no_two_allowances_share_a_key(backplane: Backplane) -> None:
    keys = backplane.keys
    names = [
        keys.user_calls("a", "b"), keys.user_calls("a:b", "b"), keys.user_calls("a", "b:b"), keys.tenant_calls("a"),
        keys.tenant_calls("user:a"), keys.address_connects("1.2.3.4"), keys.address_calls("1.2.3.4"),
    ]  # fmt: skip
    assert len(set(names)) == len(names)


async def test_the_rate_comes_back_and_never_more_than_a_burst(backplane: Backplane) -> None:
    assert await left(backplane, spent(backplane, 10)) == [0]

    async def full() -> bool:
        return await left(backplane, spent(backplane, 0, rate=1e6)) == [10]

    await wait_until(full, "it is full again, and no more than that")


async def test_a_new_one_was_full_when_the_calls_began(backplane: Backplane) -> None:
    """What came back while they passed is theirs: who calls at the rate is not held up when it is first told of."""
    assert await left(backplane, spent(backplane, 12, seconds=2.0, rate=2)) == [2]


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "nonsense",
        "nan 5",
        "5",
        "1e300 1e300",
        "9" * 400 + " " + "9" * 400,
        "5 99999999999999",
        "--. 7",
        "-" + "9" * 400 + " 5",
    ],
)
async def test_nonsense_gives_no_more_than_a_burst_and_is_replaced(backplane: Backplane, stored: str) -> None:
    await backplane.redis.set(backplane.keys.user_calls("default", "ann"), stored, ex=60)
    (first,) = await backplane.allowances.settle([spent(backplane, 1)])
    assert first is not None
    assert -1000 * 10 <= first <= 10
    (second,) = await backplane.allowances.settle([spent(backplane, 0)])
    assert second == pytest.approx(first, abs=0.1)


async def test_a_debt_is_kept_until_it_is_paid_but_no_longer_than_an_hour(backplane: Backplane) -> None:
    key = backplane.keys.user_calls("default", "ann")
    for calls, least, most in ((0, KEPT - 5, KEPT), (30, 25, 30), (10**9, 3590, 3600)):
        await backplane.allowances.settle([spent(backplane, calls, rate=1)])
        assert least <= await backplane.redis.ttl(key) <= most


# fakeredis' TCP server closes the connection at the first error of a pipeline
@pytest.mark.parametrize("redis_url", [REAL], indirect=True)
async def test_one_that_is_broken_does_not_stop_the_others(backplane: Backplane) -> None:
    await backplane.redis.hset(backplane.keys.user_calls("default", "ann"), "not", "text")
    await backplane.redis.expire(backplane.keys.user_calls("default", "ann"), 60)
    answers = await backplane.allowances.settle([spent(backplane, 1), spent(backplane, 1, "bob")])
    assert answers == [None, pytest.approx(9, abs=0.1)]


async def test_many_are_settled_in_pages(backplane: Backplane) -> None:
    many = [spent(backplane, 1, f"user {number}") for number in range(1200)]
    assert await left(backplane, *many) == [9] * 1200
