"""Buckets of whoever calls: what they tell, what they remember, and what they forget."""

from __future__ import annotations

from gateway.allowances import BURST, IDLE, Allowances
from tests.gateway.peers import Clock, calls


def test_who_calls_now_and_then_costs_redis_nothing() -> None:
    users: Allowances[str] = Allowances(100, "calls", str, Clock())
    calls(lambda: users.take("ann"), 15)
    assert users.due() == []
    calls(lambda: users.take("ann"), 1)
    assert [each.report().calls for each in users.due()] == [16]
    assert users.due() == []


def test_who_calls_at_the_rate_is_never_held_up() -> None:
    """What Redis says is left is never less than what the one node that was used knows itself."""
    clock = Clock()
    users: Allowances[str] = Allowances(10, "calls", str, clock)
    left, at = 50.0, clock.now
    for _ in range(600):
        for _ in range(10):
            users.take("ann")
            clock.now += 0.1
        for allowance in users.due():
            told = allowance.report()
            left, at = min(told.most, left + (clock.now - at) * told.rate - told.calls), clock.now
            allowance.settled(left)


def test_the_memory_is_bounded_and_who_is_silent_is_forgotten() -> None:
    clock = Clock()
    users: Allowances[str] = Allowances(1, "calls", str, clock, most=3)
    for name in "abcd":
        calls(lambda name=name: users.take(name), BURST)  # type: ignore[misc]  # a lambda's default
    assert len(users) == 3
    assert calls(lambda: users.take("d"), 1) == 0
    (debtor,) = [each for each in users.due() if each.key == "d"]
    debtor.settled(-100.0)
    clock.now += IDLE + 1
    users.due()
    assert len(users) == 1, "who owes something is remembered"
    clock.now += 100
    users.due()
    assert len(users) == 0
