"""Whole fleets that lose a primary of their store: rows 16 and 17 of the faults, with real gateways and workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fleet.failovers import ReplicatedFleet, lost_primary
from tests.servers.deployments import Cluster, Watched

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("kind", [Watched, Cluster], ids=["sentinel", "cluster"])
async def test_clients_of_a_fleet_that_lost_a_primary_are_told_what_is_lost_and_get_the_rest(
    tmp_path: Path, kind: type[Watched] | type[Cluster]
) -> None:
    async with ReplicatedFleet(tmp_path / "fleet", kind(tmp_path / "servers"), workers=1) as fleet:
        assert await lost_primary(fleet) == []
