"""Row 24 on the command line: a rolling restart, its table, and its figures in docs/reliability.md."""

from __future__ import annotations

import asyncio
import math
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from scripts.benchmark.peers import loop_factory
from scripts.benchmark.processes import raise_open_files_limit
from scripts.endurance import rolling_page
from scripts.endurance.load import PACE, Shape
from scripts.endurance.restarts import Outcome, needs, roll
from scripts.faultsuite import record

_HEAD = ("restarted", "round", "ended", "ready", "reconnects", "handed back", "silence", "start", "p99")
_WIDE = 120
"""Characters of a line that goes to a file: the table fits."""
_FULL = 2
"""Clients of a thread that keep every word. Each costs several times as much as one that counts."""
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def show(outcome: Outcome, console: Console) -> None:
    """Print the table, the sums, and what does not hold."""
    table = Table(title="a rolling restart under load")
    for name in _HEAD:
        table.add_column(name, justify="left" if name == "restarted" else "right")
    for one in outcome.restarts:
        table.add_row(*one.line())
    console.print(table)
    console.print(outcome.summary(), markup=False)
    for wrong in outcome.noticed.wrong:
        console.print(f"wrong: {wrong}", markup=False)


@app.command()
def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often every member is restarted.")] = 1,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Go round and round for so long, in place of --rounds.")
    ] = None,
    clients: Annotated[int, typer.Option(min=1, help="Threads that are talked in at once.")] = 20,
    watchers: Annotated[
        int, typer.Option(min=1, help="Clients that follow each thread: two keep every word, the others count.")
    ] = 2,
    turns: Annotated[int, typer.Option(min=1, help="Turns of a thread; then another one begins.")] = 4,
    pace: Annotated[float, typer.Option(min=1, help="Milliseconds between two words of an answer.")] = PACE,
    output: Annotated[Path, typer.Option(help="Folder for rolling.json.")] = Path(".threadline"),
    write_docs: Annotated[bool, typer.Option("--write-docs", help="Put the figures into docs/reliability.md.")] = False,
) -> None:
    """Restart every gateway and every worker of a fleet behind HAProxy under load, and see that nothing is lost."""
    if (why := needs()) is not None:
        typer.echo(f"skipped: {why}")
        return
    raise_open_files_limit()
    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE)
    full = min(watchers, _FULL)
    shape = Shape(clients, full, turns, counting=watchers - full, pace=pace)
    limit = (sys.maxsize, minutes * 60) if minutes else (rounds, math.inf)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        outcome = runner.run(
            roll(shape, limit[0], lambda line: console.print(line, markup=False, highlight=False), limit[1])
        )
    show(outcome, console)
    output.mkdir(parents=True, exist_ok=True)
    record.write(rolling_page.kept(outcome, shape), output / "rolling.json")
    if write_docs:
        rolling_page.write(rolling_page.kept(outcome, shape))
    if outcome.noticed.wrong:
        raise typer.Exit(1)


if __name__ == "__main__":
    sys.exit(app())
