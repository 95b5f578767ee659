"""The command line: which rows, the mutants or a random run, and where the figures go."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from scripts.benchmark.peers import loop_factory
from scripts.faultsuite import page, record
from scripts.faultsuite.case import Case
from scripts.faultsuite.chaos import chaos
from scripts.faultsuite.mutants import MUTANTS, red
from scripts.faultsuite.suite import CASES, Result, run
from scripts.faultsuite.table import show

_WIDTH = 180
"""Columns of the table, where no terminal says how many there are."""
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_Value = TypeVar("_Value")


def _listed() -> str:
    return "\n\n".join(f"{case.name}: {case.fault}" for case in CASES)


@app.command(help="Break the product on purpose, and see what holds.\n\n" + _listed())
def main(
    rows: Annotated[list[str] | None, typer.Argument(metavar="[ROW]...", help="Rows to run; all without any.")] = None,
    mutants: Annotated[bool, typer.Option("--mutants", help="Run the mutants, which must go red.")] = False,
    chance: Annotated[bool, typer.Option("--random", help="Mix faults under load, by a seeded schedule.")] = False,
    seconds: Annotated[float, typer.Option(min=5, help="How long --random runs.")] = 120.0,
    seed: Annotated[int | None, typer.Option(help="Repeats a schedule of --random; without, it is drawn.")] = None,
    json: Annotated[Path | None, typer.Option(help="Keep the figures there, beside those of other parts.")] = None,
    write_docs: Annotated[bool, typer.Option("--write-docs", help="Renew docs/reliability.md.")] = False,
    given: Annotated[Path | None, typer.Option("--from", help="Run nothing: take the figures of --json.")] = None,
) -> None:
    """Run what was asked for."""
    console = Console(soft_wrap=True) if sys.stdout.isatty() else Console(soft_wrap=True, width=_WIDTH)
    well = True
    if given is not None:
        kept = record.read(given)
    elif mutants:
        kept, well = _mutants(console)
    elif chance:
        kept, well = _random(console, random.SystemRandom().randrange(10**6) if seed is None else seed, seconds)
    else:
        kept, well = _rows(console, _chosen(rows))
    if json is not None:
        record.write(kept, json)
    if write_docs:
        page.write(kept)
    if not well:
        raise typer.Exit(1)


def _rows(console: Console, cases: Sequence[Case]) -> tuple[record.Record, bool]:
    def told(result: Result) -> None:
        console.print(f"{result.case.name}: {result.verdict} ({result.seconds:.0f} s) {result.wrong}", markup=False)

    results = _wait_for(run(cases, told))
    show(results, console)
    return record.kept(results), not any(result.wrong or result.late for result in results)


def _mutants(console: Console) -> tuple[record.Record, bool]:
    found = []
    for mutant in MUTANTS:
        said = _wait_for(red(mutant))
        console.print(f"{mutant.name}: row {mutant.case.name} is {'red: ' + said if said else 'GREEN'}", markup=False)
        found.append((mutant.name, mutant.case.name, said))
    return record.kept(mutants=found), all(said for _, _, said in found)


def _random(console: Console, seed: int, seconds: float) -> tuple[record.Record, bool]:
    outcome = _wait_for(chaos(seed, seconds, lambda line: console.print(line, markup=False, highlight=False)))
    for wrong in outcome.wrong:
        console.print(f"wrong: {wrong}", markup=False)
    console.print(str(outcome), markup=False)
    return record.kept(runs=[outcome]), not outcome.wrong


def _chosen(rows: list[str] | None) -> list[Case]:
    names = {name for case in CASES for name in (case.name, str(case.row))}
    for row in rows or ():
        if row not in names:
            raise typer.BadParameter(f"expected some of {', '.join(case.name for case in CASES)}, got {row!r}")
    return [case for case in CASES if not rows or {case.name, str(case.row)} & set(rows)]


def _wait_for(work: Coroutine[Any, Any, _Value]) -> _Value:
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(work)
    except KeyboardInterrupt:
        typer.echo("stopped; every process that was started has been ended")
        raise typer.Exit(130) from None


if __name__ == "__main__":
    sys.exit(app())
