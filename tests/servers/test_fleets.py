"""A whole fleet that loses a primary of its store: row 16 of the faults, with real gateways and a real worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fleet.failovers import ReplicatedFleet, lost_primary
from tests.servers.deployments import Watched

pytestmark = pytest.mark.processes


async def test_clients_of_a_fleet_that_lost_a_primary_are_told_what_is_lost_and_get_the_rest(tmp_path: Path) -> None:
    async with ReplicatedFleet(tmp_path / "fleet", Watched(tmp_path / "servers"), workers=1) as fleet:
        assert await lost_primary(fleet) == []
