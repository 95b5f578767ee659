"""The command line: which rows, how often, and where the figures go."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from backplane.embedded import find_bundled, find_on_path
from scripts.benchmark import page
from scripts.benchmark.bench import SYSTEMS, Bench
from scripts.benchmark.peers import PeerFailed, loop_factory
from scripts.benchmark.processes import NotReady, raise_open_files_limit
from scripts.benchmark.results import Results, facts
from scripts.benchmark.rows import ROWS, Row
from scripts.benchmark.self_test import ENOUGH, client_joins, client_rate
from scripts.benchmark.systems import Missing, on_path
from scripts.benchmark.table import show
from scripts.benchmark.threadline import Threadline

_FILES = 9_000
"""Open files that the storm needs in the client and in the node."""
_MOST = 240.0
"""Seconds that one row may take on one system, with all its nodes and waits."""
_WIDTH = 180
"""Columns of the table, where no terminal says how many there are."""
_ROWS = {row.name: row for row in ROWS}
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _listed() -> str:
    return "\n\n".join(f"{row.name}: {row.says}" for row in ROWS)


@app.command(help="Compare Threadline with stock python-socketio and Node's socket.io, side by side.\n\n" + _listed())
def main(
    rows: Annotated[list[str] | None, typer.Argument(metavar="[ROW]...", help="Rows to run; all without any.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Alternations: each runs every row on every system once.")] = 1,
    systems: Annotated[str, typer.Option(help="Systems, separated by commas.")] = ",".join(SYSTEMS),
    scale: Annotated[float, typer.Option(min=0.001, max=1, help="Part of the full sizes; for trying out.")] = 1.0,
    clients: Annotated[int, typer.Option(min=1, max=8, help="Processes of the client.")] = 1,
    json: Annotated[Path | None, typer.Option(help="Write every value there.")] = None,
    write_docs: Annotated[bool, typer.Option("--write-docs", help="Renew docs/performance.md and its plot.")] = False,
    read: Annotated[Path | None, typer.Option("--from", help="Measure nothing: take the values of --json.")] = None,
) -> None:
    """Run what was asked for."""
    console = Console(soft_wrap=True) if sys.stdout.isatty() else Console(soft_wrap=True, width=_WIDTH)
    if read is not None:
        results = Results.read(read)
    else:
        chosen = [_known(name) for name in rows or _ROWS]
        results = Results(facts=facts(rounds, scale))
        work = _run(Bench(scale, clients), chosen, _systems(systems), rounds, results, console)
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(work)
        except KeyboardInterrupt:
            console.print("stopped; every process that was started has been ended")
            raise typer.Exit(130) from None
        finally:
            if json is not None:
                results.write(json)
    show(results, console)
    if write_docs:
        page.write(results)


def _known(name: str) -> Row:
    if name not in _ROWS:
        raise typer.BadParameter(f"expected one of {', '.join(_ROWS)}, got {name!r}", param_hint="ROW")
    return _ROWS[name]


def _systems(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in SYSTEMS:
            raise typer.BadParameter(f"expected some of {', '.join(SYSTEMS)}, got {name!r}", param_hint="--systems")
    return names


async def _run(
    bench: Bench, rows: list[Row], systems: list[str], rounds: int, results: Results, console: Console
) -> None:
    files = raise_open_files_limit()
    if files < _FILES:
        console.print(f"note: {files} open files are allowed, the storm needs {_FILES}; raise the limit (ulimit -n)")
    rate = await client_rate(bench.load_processes)
    verdict = "enough" if rate >= ENOUGH else f"too few: {ENOUGH:,} expected, use --clients 2 or a quieter machine"
    joins = await client_joins(bench.load_processes)
    console.print(f"self-test: the client takes {rate:,.0f} events/s ({verdict}), and opens {joins:,.0f} sockets/s")
    here = await _present(systems, console)
    results.facts |= {"client_events_per_second": rate, "client_joins_per_second": joins, "programs": _programs()}
    for number in range(rounds):
        for row in rows:
            # the order turns with the rounds: nobody always comes first on a machine that warms up
            turned = here[number % len(here) :] + here[: number % len(here)]
            for system in turned:
                if system in row.systems:
                    await _measure(bench, row, system, results, console)


async def _present(systems: list[str], console: Console) -> list[str]:
    here = []
    for name in systems:
        missing = await SYSTEMS[name].missing()
        if missing is None:
            here.append(name)
        else:
            console.print(f"{name} is left out: {missing}")
    return here


async def _measure(bench: Bench, row: Row, system: str, results: Results, console: Console) -> None:
    begin = time.monotonic()
    try:
        async with asyncio.timeout(_MOST):
            measured = await row.run(bench, system)
    except (Missing, NotReady, PeerFailed, ExceptionGroup, TimeoutError) as error:
        if system == Threadline.name or isinstance(error, Missing):
            raise
        console.print(f"{row.name} on {system} failed: {error}")  # a rival that breaks down is a finding, too
        return
    results.add(row.name, system, measured)
    said = ", ".join(
        f"{key} {value:,.3g}" if abs(value) < 100 else f"{key} {value:,.0f}" for key, value in measured.items()
    )
    console.print(f"{row.name} on {system} ({time.monotonic() - begin:.0f} s): {said}", highlight=False)


def _programs() -> dict[str, str]:
    store = find_bundled() or find_on_path()
    asked = {"store": [store.argv[0], "--version"] if store else [], "node": ["node", "--version"]}
    if not on_path("node"):
        del asked["node"]
    said = {
        name: subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603  our own finding
        for name, argv in asked.items()
        if argv
    }
    return {name: f"Node {text}" if name == "node" else " ".join(text.split()[:3]) for name, text in said.items()}


if __name__ == "__main__":
    sys.exit(app())
