"""A short random run with a fixed seed; `scripts/faults --random` runs longer ones."""

from __future__ import annotations

import pytest

from scripts.faultsuite.chaos import chaos
from scripts.faultsuite.schedule import schedule
from tests.fleet.fleet import QUICK

SEED, SECONDS = 5, 8.0


@pytest.mark.processes
@pytest.mark.timeout(300)  # it has bounds of its own, and says what was waited for
async def test_faults_at_random_under_load_break_no_promise() -> None:
    said: list[str] = []
    outcome = await chaos(SEED, SECONDS, said.append, size=2, talkers=3, settings=dict(QUICK))
    assert outcome.wrong == []
    assert outcome.faults
    assert outcome.tally.turns
    assert len(said) > 1, "the schedule is told, so that a failure can be repeated"


def test_a_seed_gives_the_same_schedule_again_and_another_seed_another_one() -> None:
    names = (["gateway-0"], ["worker-0"])
    assert schedule(1, 60, *names) == schedule(1, 60, *names)
    assert schedule(1, 60, *names) != schedule(2, 60, *names)


def test_a_schedule_leaves_some_quiet_before_its_end() -> None:
    plan = schedule(1, 60, ["gateway-0"], ["worker-0"])
    assert all(2 <= planned.at <= 58 for planned in plan)
    assert len({planned.fault for planned in plan}) > 8
