"""The rows that must go red when the product is broken on purpose; a row that cannot is worth nothing."""

from __future__ import annotations

import pytest

from scripts.faultsuite.mutants import MUTANTS, Mutant, red
from tests.fleet.fleet import QUICK

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]  # some need a deployment of their own


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
async def test_a_row_goes_red_without_its_defence(mutant: Mutant) -> None:
    assert await red(mutant, QUICK), f"row {mutant.case.name} stays green although {mutant.file} defends nothing"
