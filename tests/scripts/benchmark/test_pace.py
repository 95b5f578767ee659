"""The pace of the benchmark: every plan says exactly what it counts on."""

from __future__ import annotations

import json

import pytest

from scripts.benchmark.pace import Plan, due, word


@pytest.mark.parametrize("steps", [((100.0, 0.1),), ((7.0, 0.3), (2000.0, 0.05)), (), ((0.0, 0.01), (50.0, 0.1))])
async def test_as_many_deltas_are_due_as_the_plan_has(steps: tuple[tuple[float, float], ...]) -> None:
    plan = Plan(steps)
    assert sum([count async for count in due(plan)]) == plan.deltas


async def test_a_plan_that_began_long_ago_is_caught_up_at_once() -> None:
    plan = Plan(((10.0, 5.0),), start_at=1.0)
    assert [count async for count in due(plan)] == [50]


@pytest.mark.parametrize("timed", [True, False])
def test_all_deltas_of_a_plan_are_equally_long(timed: bool) -> None:
    plan = Plan((), timed=timed)
    assert {len(word(plan, number)) for number in (0, 9, 123_456)} == {plan.letters}


def test_a_plan_survives_its_way_through_json() -> None:
    plan = Plan(((3.0, 2.0),), timed=True, apart=True, pipelined=True, hold=4.0, start_at=5.0)
    assert Plan.of(json.loads(json.dumps(plan.as_dict()))) == plan
