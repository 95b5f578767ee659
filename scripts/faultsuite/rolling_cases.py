"""Row 24: a rolling restart of everything, under load, behind a real load balancer."""

from __future__ import annotations

from scripts.endurance.load import Shape
from scripts.endurance.restarts import needs, roll
from scripts.faultsuite.case import Case, Settled
from tests.fleet.fleet import Fleet

_SHAPE = Shape(clients=10)
_ELSEWHERE = 5.0
"""Seconds within which a turn goes on: those of a worker that is killed, though here nobody is."""


async def rolling(fleet: Fleet) -> list[Settled]:
    """Restart every member once, of a fleet of its own: it takes three gateways and a load balancer."""
    outcome = await roll(_SHAPE, rounds=1)
    assert not outcome.noticed.wrong, "; ".join(outcome.noticed.wrong)
    silence = max(one.silence for one in outcome.restarts)
    return [Settled("longest silence in an answer", silence, _ELSEWHERE)]


CASES = (Case("24", "rolling restart of all gateways and workers under load, behind HAProxy", rolling, needs=needs),)
