"""The command line: which rows, and where the figures go."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from scripts.faultsuite.case import Case
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
) -> None:
    """Run what was asked for."""
    console = Console(soft_wrap=True) if sys.stdout.isatty() else Console(soft_wrap=True, width=_WIDTH)

    def told(result: Result) -> None:
        console.print(f"{result.case.name}: {result.verdict} ({result.seconds:.0f} s) {result.wrong}", markup=False)

    results = _wait_for(run(_chosen(rows), told))
    show(results, console)
    if any(result.wrong or result.late for result in results):
        raise typer.Exit(1)


def _chosen(rows: list[str] | None) -> list[Case]:
    names = {name for case in CASES for name in (case.name, str(case.row))}
    for row in rows or ():
        if row not in names:
            raise typer.BadParameter(f"expected one of {', '.join(c.name for c in CASES)}, got {row!r}")
    return [case for case in CASES if not rows or {case.name, str(case.row)} & set(rows)]


def _wait_for(work: Coroutine[Any, Any, _Value]) -> _Value:
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        typer.echo("stopped; every process that was started has been ended")
        raise typer.Exit(130) from None


if __name__ == "__main__":
    sys.exit(app())
