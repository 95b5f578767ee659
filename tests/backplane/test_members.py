"""What processes say of themselves, and who still counts."""

from __future__ import annotations

from typing import Any

import pytest

from backplane import members
from backplane.connection import Backplane
from backplane.members import Clock


async def test_everybody_sees_what_each_member_said_last(open_backplane: Any) -> None:
    async with open_backplane(node_id="b") as one, open_backplane(node_id="a") as other:
        await one.members.report("worker", {"slots": 1})
        await one.members.report("worker", {"slots": 2})
        await other.members.report("gateway", {"sockets": 3})
        found = await one.members.all()
    assert [(member.node_id, member.facts["kind"]) for member in found] == [("a", "gateway"), ("b", "worker")]
    assert found[1].facts["slots"] == 2
    assert all(0 <= member.silent < 5 and member.facts["pid"] for member in found)


async def test_who_says_nothing_for_long_is_left_out_and_later_forgotten(
    backplane: Backplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = backplane.keys.members
    await backplane.redis.hset(key, "gone", '1000 {"kind":"worker"}')
    await backplane.members.report("worker", {})
    assert [member.node_id for member in await backplane.members.all()] == [backplane.settings.node_id]
    for _ in range(2_000):  # it is looked for now and then
        await backplane.members.report("worker", {})
        if not await backplane.redis.hexists(key, "gone"):
            return
    raise AssertionError("a member that is gone stays for ever")


async def test_a_member_is_told_that_somebody_looks(backplane: Backplane, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not await backplane.members.report("worker", {})
    await backplane.members.all()
    assert await backplane.members.report("worker", {})
    monkeypatch.setattr(members, "WATCHED_FOR", 0.0)
    assert not await backplane.members.report("worker", {})


def test_the_clock_believes_the_fastest_round_trip() -> None:
    clock = Clock()
    clock.read(sent=100.0, redis=90.0, answered=100.002)
    assert clock._ahead == pytest.approx(10.001)
    clock.read(sent=100.0, redis=80.0, answered=104.0)
    assert clock._ahead == pytest.approx(10.001)


def test_the_clock_follows_a_drift_in_the_end() -> None:
    clock = Clock()
    clock.read(sent=100.0, redis=90.0, answered=100.002)
    for _ in range(100):
        clock.read(sent=100.0, redis=80.0, answered=100.004)
    assert clock._ahead == pytest.approx(20.002)
