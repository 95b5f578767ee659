"""A fleet under steady mixed load for a length of time: is what each process holds flat?"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from scripts.benchmark.machine import machine
from scripts.benchmark.peers import loop_factory
from scripts.benchmark.processes import raise_open_files_limit
from scripts.endurance import soak_page
from scripts.endurance.flat import Verdict, judge
from scripts.endurance.load import Load, Noticed, Shape, settings
from scripts.endurance.picture import svg
from scripts.endurance.samples import Sample, Sampler, sample, series
from tests.fleet.fleet import Fleet

_MEMORY, _FILES = 4e6, 8
"""What a process may grow by in any case: bytes, open files."""
_CLIENTS = 60
"""So many that what each process keeps a bounded number of is full long before the first third of half an hour is over,
which is warming up: nothing but a leak grows behind it."""
_TELL_EACH = 12
"""Samples of which one is printed."""
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


async def soak(shape: Shape, seconds: float, every: float, told: Callable[[str], None]) -> tuple[list[Sample], Noticed]:
    """Run two gateways, two workers and a store under load; return the samples, and what clients noticed."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        async with Fleet(Path(folder), 2, 2, settings(shape.clients), base={}) as fleet:
            load, sampler = Load(fleet, shape), Sampler(fleet)
            async with asyncio.TaskGroup() as group:
                running = group.create_task(load.run())
                loop = asyncio.get_running_loop()
                begun = loop.time()
                for number in range(round(seconds / every) + 1):
                    await asyncio.sleep(begun + number * every - loop.time())
                    seen = await sampler.look()
                    if number % _TELL_EACH == 0:
                        told(_line(seen))
                load.stop()
                noticed = await running
    return sampler.samples, noticed


def _line(sample: Sample) -> str:
    memory = ", ".join(f"{name} {held.memory / 1e6:.0f}" for name, held in sample.processes.items())
    return f"{sample.at:6.0f} s, MB: {memory}"


def verdicts(samples: list[Sample]) -> list[Verdict]:
    """Judge every process; not the store's memory: it keeps the threads, as it should."""
    memory, files = series(samples, "memory"), series(samples, "files")
    return [
        *(judge(name, "memory", points, _MEMORY) for name, points in memory.items() if name != "store"),
        *(judge(name, "files", points, _FILES) for name, points in files.items()),
    ]


def show(judged: Sequence[Verdict], kept: dict[str, Any], console: Console) -> None:
    """Print who grew by how much, and what does not hold."""
    table = Table(title="growth over the last two thirds")
    for name in ("process", "what", "grew by", "may grow by", "result"):
        table.add_column(name, justify="right" if "by" in name else "left")
    for one in judged:
        scale, unit = (1e6, " MB") if one.what == "memory" else (1, "")
        figures = (f"{value / scale:.1f}{unit}" for value in (one.growth, one.allowed))
        table.add_row(one.process, one.what, *figures, "flat" if one.flat else "grows")
    console.print(table)
    console.print(soak_page.told(kept), markup=False)
    for wrong in kept["wrong"]:
        console.print(f"wrong: {wrong}", markup=False)


@app.command()
def main(
    minutes: Annotated[float, typer.Option(min=0.2, help="How long; below 10, much of it is warming up.")] = 30.0,
    clients: Annotated[int, typer.Option(min=1, help="Threads that are talked in at once.")] = _CLIENTS,
    watchers: Annotated[int, typer.Option(min=1, help="Clients that follow each thread.")] = 3,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two samples.")] = 5.0,
    output: Annotated[Path, typer.Option(help="Folder for soak.json and soak.svg.")] = Path(".threadline"),
    write_docs: Annotated[bool, typer.Option("--write-docs", help="Renew docs/reliability.md and its plot.")] = False,
    given: Annotated[Path | None, typer.Option("--from", help="Run nothing: take the figures of a soak.json.")] = None,
) -> None:
    """Leave a fleet under mixed load, plot what each process holds, and say whether it is flat."""
    console = Console(soft_wrap=True)
    if given is None:
        raise_open_files_limit()
        output.mkdir(parents=True, exist_ok=True)
        kept = _run(minutes, Shape(clients, watchers, mixed=True), every, console)
        (output / "soak.json").write_text(json.dumps(kept, indent=1) + "\n")
        console.print(f"written: {output / 'soak.json'}, {output / 'soak.svg'}", markup=False)
    else:
        kept = json.loads(given.read_text())
        output = given.parent
    samples = [sample(plain) for plain in kept["samples"]]
    judged = verdicts(samples)
    (output / "soak.svg").write_text(svg(samples, soak_page.about(kept)))
    show(judged, kept, console)
    if write_docs:
        soak_page.write(kept, samples, judged)
    if kept["wrong"] or not all(one.flat for one in judged):
        raise typer.Exit(1)


def _run(minutes: float, shape: Shape, every: float, console: Console) -> dict[str, Any]:
    """Run it, and return all that is kept of it, as JSON takes it."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        samples, noticed = runner.run(soak(shape, minutes * 60, every, lambda said: console.print(said, markup=False)))
    return {
        "machine": machine(),
        "minutes": minutes,
        "clients": shape.clients,
        "watchers": shape.watchers,
        "noticed": {name: getattr(noticed, name) for name in ("threads", "turns", "events", "reconnects")},
        "wrong": noticed.wrong,
        "samples": [one.plain() for one in samples],
    }


if __name__ == "__main__":
    sys.exit(app())
