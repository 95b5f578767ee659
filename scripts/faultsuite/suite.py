"""The suite: runs cases on a fleet, holds the fleet up to its base line after each, and collects what came out."""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from backplane.embedded import Finder, Program, find_bundled, find_on_path
from scripts.faultsuite import (
    cancel_cases,
    client_cases,
    failover_cases,
    gateway_cases,
    rolling_cases,
    store_cases,
    worker_cases,
)
from scripts.faultsuite.case import Case, Settled, thread
from scripts.faultsuite.vitals import Vitals, back_to, baseline
from scripts.faultsuite.waits import bounded
from tests.fleet.fleet import CODE, Fleet
from threadline_client.errors import ClientError

_MODULES = (
    gateway_cases,
    worker_cases,
    store_cases,
    cancel_cases,
    client_cases,
    failover_cases,
    rolling_cases,
)
CASES: tuple[Case, ...] = tuple(
    sorted((case for module in _MODULES for case in module.CASES), key=lambda case: (case.row, case.name))
)
SETTINGS: dict[str, object] = {
    "calls_per_second": 1000,
    "calls_burst": 1000,
    "agent": "scripts.faultsuite.agent:agent",
}
"""On top of the product's defaults: how often one client may call, and who answers."""
MOST = 150.0
"""Seconds that one case may take; then it is given up, with what it waited for."""
_AFTERWARDS = 60.0
"""Seconds until the fleet is whole again, and until it is back to its base line."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one case."""

    case: Case
    seconds: float
    settled: Sequence[Settled] = ()
    wrong: str = ""
    """What does not hold, in words; empty when all does."""
    skipped: str = ""
    """Why it was not run; empty when it was."""

    @property
    def late(self) -> list[Settled]:
        """What took longer than its bound."""
        return [one for one in self.settled if one.seconds > one.bound]

    @property
    def verdict(self) -> str:
        """One word, or more when something is wrong."""
        if self.skipped:
            return "skipped"
        if self.wrong:
            return "broken"
        return "late" if self.late else "holds"


def _synced() -> Program | None:
    """Return the server with its append-only file synced before each answer, so that nothing it said yes to is lost."""
    found = find_bundled() or find_on_path()
    if found is None:
        return None
    return Program(found.kind, tuple("always" if word == "everysec" else word for word in found.argv), found.durable)


SYNCED: tuple[Finder, ...] = (_synced,)


@asynccontextmanager
async def fleet_for(
    folder: Path,
    *,
    gateways: int = 2,
    workers: int = 2,
    settings: Mapping[str, object] | None = None,
    code: Path = CODE,
) -> AsyncIterator[Fleet]:
    """Start a fleet at the product's defaults, each member with a proxy before the store, and warm it up."""
    given = {**SETTINGS, **(settings or {})}
    async with Fleet(folder, gateways, workers, given, code, base={}, proxied=True, finders=SYNCED) as fleet:
        await warm_up(fleet)
        yield fleet


async def warm_up(fleet: Fleet) -> None:
    """Have every process do what it does, so that its base line is that of one that has worked."""
    for _ in range(2):
        async with thread(fleet) as talk:
            turns = [await talk.say("say 60 words", node=n % 2, queue_mode="followup") for n in range(3)]
            await talk.ended(turns[-1])


async def run(cases: Sequence[Case], told: Callable[[Result], None]) -> list[Result]:
    """Run cases one after the other, and tell of each when it is done."""
    results = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        async with fleet_for(Path(folder) / "fleet") as fleet:
            before = await baseline(fleet)
            for case in cases:
                result = await _run_one(fleet, case, before)
                told(result)
                results.append(result)
    return results


async def _run_one(fleet: Fleet, case: Case, before: Mapping[str, Vitals]) -> Result:
    if (why := case.needs()) is not None:
        return Result(case, 0.0, skipped=why)
    begun = time.monotonic()
    settled: Sequence[Settled] = ()
    wrong = ""
    try:
        settled = await bounded(case.run(fleet), MOST, f"row {case.name}")
    except (AssertionError, ClientError) as error:
        wrong = str(error) or repr(error)
    except Exception as error:  # a row that cannot be run is a finding, and the others run
        wrong = "".join(traceback.format_exception(error))
    try:
        await bounded(fleet.heal(), _AFTERWARDS, "healing")
        grown = await bounded(back_to(fleet, before), _AFTERWARDS, "coming back to the base line")
    except (AssertionError, TimeoutError) as error:
        grown = [str(error) or "a process that was told to stop goes on"]
    if grown and not wrong:
        wrong = "not back to the base line: " + "; ".join(grown)
    return Result(case, time.monotonic() - begun, settled, wrong)
