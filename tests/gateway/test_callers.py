"""A user and the tenant are counted by one call, and by none that is refused."""

from __future__ import annotations

from backplane.connection import Backplane
from gateway.allowances import BURST
from gateway.auth import ANONYMOUS
from tests.gateway.peers import ANN, BOB, Clock, peer


async def test_a_call_that_the_tenant_is_refused_costs_the_user_nothing(backplane: Backplane) -> None:
    node = peer(backplane, user_calls_per_second=2, tenant_calls_per_second=1)
    assert node.calls(BOB, 5) == BURST
    assert node.calls(ANN, 50) == 0
    told = {each.key: each.report().calls for each in node.callers.users.due()}
    assert told.get(backplane.keys.user_calls("default", "ann"), 0) == 0


async def test_nobody_is_counted_while_no_key_is_configured_or_no_limit_is_set(backplane: Backplane) -> None:
    assert peer(backplane, user_calls_per_second=1, tenant_calls_per_second=1).calls(ANONYMOUS, 500) == 500
    assert peer(backplane).calls(ANN, 500) == 500


async def test_calls_that_came_as_one_are_waited_for_afterwards(backplane: Backplane) -> None:
    clock = Clock()
    node = peer(backplane, clock, user_calls_per_second=1)
    assert node.calls(ANN, 1) == 1
    node.callers.charge(ANN, 99)
    clock.now += 90
    assert node.calls(ANN, 1) == 0
    clock.now += 10
    assert node.calls(ANN, 10) == BURST
    assert sum(each.report().calls for each in node.callers.users.due()) == 1 + 99 + BURST, "the other nodes hear of it"
    node.callers.charge(ANONYMOUS, 99)
    assert node.calls(ANONYMOUS, 1) == 1
