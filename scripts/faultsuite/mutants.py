"""Mutants: copies of the product that lack one defence each. The row that watches over it must go red.

A row that stays green on its mutant sees nothing, and is worth nothing.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.faultsuite import cancel_cases, failover_cases, store_cases, worker_cases
from scripts.faultsuite.case import Case
from scripts.faultsuite.suite import MOST, fleet_for
from scripts.faultsuite.waits import bounded
from tests.fleet.fleet import CODE

_PACKAGES = ("backplane", "gateway", "worker", "cli", "clients/python/threadline_client", "scripts/faultsuite")
_TRIES = 3
"""Times that a row may stay green: a defence that is missing does not harm every run."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A defence that is taken out, and the row that must notice."""

    name: str
    file: str
    defence: str
    gone: str
    case: Case


def _case(cases: tuple[Case, ...], name: str) -> Case:
    return next(case for case in cases if case.name == name)


MUTANTS = (
    Mutant(
        "fencing off",
        "backplane/lua/append.lua",
        "if turn[1] ~= 'running' or turn[2] ~= arg(2) or tonumber(batch) > turn[3] + 1 then",
        "if not turn[1] then",
        _case(worker_cases.CASES, "4"),
    ),
    Mutant(
        "idempotency off",
        "backplane/lua/start.lua",
        "if seen then",
        "if false then",
        _case(cancel_cases.CASES, "11"),
    ),
    Mutant(
        "poll off",
        "gateway/rooms.py",
        "                await self.poll_once()\n",
        "                pass\n",
        _case(store_cases.CASES, "10a"),
    ),
    Mutant(
        "epoch behind a failover off",
        "backplane/lua/lib/emit.lua",
        "if lineage() ~= '' and head[3] ~= lineage() then",
        "if false then",
        _case(failover_cases.CASES, "16c"),
    ),
)


def broken(mutant: Mutant, folder: Path) -> Path:
    """Return a copy of the product without the defence.

    Raises:
        AssertionError: when it is not where it was; then find what does its work now.
    """
    for package in _PACKAGES:
        shutil.copytree(CODE / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / mutant.file
    text = file.read_text()
    assert text.count(mutant.defence) == 1, f"{mutant.defence!r} is not in {mutant.file} any more; find its successor"
    file.write_text(text.replace(mutant.defence, mutant.gone))
    return folder


async def red(mutant: Mutant, settings: Mapping[str, Any] | None = None) -> str:
    """Run a mutant's row until it goes red; return what it said, or nothing when it stayed green.

    Args:
        mutant: what is broken, and its row.
        settings: of the fleet, on top of the product's defaults.
    """
    with tempfile.TemporaryDirectory(prefix="faults-mutant-") as name:
        folder = Path(name)
        async with fleet_for(folder / "fleet", settings=settings, code=broken(mutant, folder / "code")) as fleet:
            for _ in range(_TRIES):
                try:
                    await bounded(mutant.case.run(fleet), MOST, f"row {mutant.case.name}")
                except (AssertionError, TimeoutError) as error:
                    return str(error) or "it did not come to its end"
                await fleet.heal()
    return ""
