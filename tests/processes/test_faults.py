"""Rows of the fault suite that are short enough for every run; `scripts/faults` runs them all, and measures."""

from __future__ import annotations

import pytest

from scripts.faultsuite.case import Case
from scripts.faultsuite.suite import CASES
from tests.fleet.fleet import Fleet

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="session")]
SHORT = ("9a", "9d", "9e", "9f", "10a", "10b", "12b", "16b", "17b", "18", "22")


@pytest.mark.parametrize("case", [case for case in CASES if case.name in SHORT], ids=lambda case: case.name)
async def test_a_row_of_the_table_of_faults_holds(fleet: Fleet, case: Case) -> None:
    """Its thread keeps every invariant; how long that took is not judged here."""
    await case.run(fleet)
