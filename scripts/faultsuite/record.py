"""What is kept of a run: every figure as JSON, so that the page can be renewed without running anything again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.benchmark.machine import machine
from scripts.faultsuite.chaos import Outcome
from scripts.faultsuite.suite import Result
from scripts.faultsuite.table import lines

Record = dict[str, Any]
"""`machine`; and what was run of `rows` (lines of the table), `mutants` (name, row, what it said), `random` (lines)."""


def kept(
    results: Sequence[Result] = (), mutants: Sequence[tuple[str, str, str]] = (), runs: Sequence[Outcome] = ()
) -> Record:
    """Return a record of what was run; what was not run is left out."""
    record: Record = {"machine": machine()}
    if results:
        record["rows"] = [list(line) for line in lines(results)]
    if mutants:
        record["mutants"] = [list(mutant) for mutant in mutants]
    if runs:
        record["random"] = [str(run) for run in runs]
    return record


def write(record: Record, path: Path) -> None:
    """Write a record, on top of what the file has of other parts."""
    before: Record = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | record, indent=1) + "\n")


def read(path: Path) -> Record:
    """Return what `write` wrote."""
    record: Record = json.loads(path.read_text())
    return record
