"""Row 24: every gateway and every worker is restarted under load, one after the other, behind a load balancer."""

from __future__ import annotations

import asyncio
import math
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.table import Table

from scripts.benchmark.peers import loop_factory
from scripts.benchmark.processes import raise_open_files_limit
from scripts.endurance.latency import Histograms, quantile
from scripts.endurance.load import PATIENCE, Load, Noticed, Shape
from tests.deploy.balancers import BALANCERS, balanced
from tests.fleet.fleet import Fleet, Member

GATEWAYS, WORKERS = 3, 2
_SETTINGS = {"calls_per_second": 1000, "calls_burst": 1000}
"""On top of the product's defaults: the load comes from few sockets."""
_HEAD = ("restarted", "round", "had ended", "ready again", "reconnects", "longest silence", "slowest start")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Restart:
    """One member, and what clients noticed from its SIGTERM until the next one's. Times in seconds."""

    name: str
    round: int
    ended: float
    ready: float
    reconnects: int
    silence: float
    start: float

    def line(self) -> tuple[str, ...]:
        """Return it as a line of the table."""
        times = (self.ended, self.ready, self.silence, self.start)
        ended, ready, silence, start = (f"{seconds:.2f} s" if seconds else "-" for seconds in times)
        return (self.name, str(self.round), ended, ready, str(self.reconnects), silence, start)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    restarts: Sequence[Restart]
    noticed: Noticed
    p99: float
    """From append to socket, in seconds; NaN when nothing was counted."""

    def summary(self) -> str:
        """Return it in one sentence."""
        seen = self.noticed
        p99 = "not counted" if math.isnan(self.p99) else f"{self.p99 * 1000:.0f} ms"
        return (
            f"{len(self.restarts)} restarts: {seen.threads} threads, {seen.turns} turns, {seen.events} events, "
            f"{seen.handed_on} turns handed on, {seen.reconnects} reconnects; append to socket p99 {p99}; "
            f"{len(seen.wrong)} things wrong"
        )


def needs() -> str | None:
    """Return why this cannot run here; None when it can."""
    return None if BALANCERS[0].path else "haproxy is not installed (Debian: apt-get install haproxy)"


@asynccontextmanager
async def _fleet(folder: Path, told: Callable[[str], None]) -> AsyncIterator[tuple[Fleet, Fleet]]:
    """Start a fleet; yield it as it is, and as it looks from in front of HAProxy."""
    async with (
        Fleet(folder / "fleet", GATEWAYS, WORKERS, _SETTINGS, base={}) as fleet,
        balanced(BALANCERS[0], fleet, folder) as front,
    ):
        told(f"{GATEWAYS} gateways and {WORKERS} workers behind HAProxy")
        yield fleet, cast("Fleet", front)


async def roll(shape: Shape, rounds: int, told: Callable[[str], None] = lambda line: None) -> Outcome:
    """Restart every member under load, so many times, and hold every thread up to the invariants."""
    restarts: list[Restart] = []
    with tempfile.TemporaryDirectory(prefix="rolling-") as folder:
        async with _fleet(Path(folder), told) as (fleet, front):
            load, histograms = Load(front, shape), Histograms(fleet)
            async with asyncio.TaskGroup() as group:
                looking = group.create_task(histograms.keep_looking())
                running = group.create_task(load.run())
                await asyncio.sleep(2)  # everybody talks
                try:
                    for number, member in product(range(1, rounds + 1), fleet.members):
                        restarts.append(await restart(member, number, load))
                        told(" · ".join(restarts[-1].line()))
                except (AssertionError, TimeoutError) as error:  # the others are whole, and their threads come to rest
                    load.noticed.wrong.append(f"{member.name}: {error or 'it goes on behind its SIGTERM'}")
                load.stop()
                noticed = await running
                looking.cancel()
            p99 = quantile(await histograms.look(), 0.99)
    return Outcome(restarts, noticed, p99)


async def restart(member: Member, number: int, load: Load) -> Restart:
    """Stop one member by SIGTERM, and start it anew; its clients have two seconds more to notice."""
    loop = asyncio.get_running_loop()
    reconnects, begun = load.reconnects, loop.time()
    member.signal(signal.SIGTERM)
    code = await member.ended(PATIENCE)
    assert code == 0, f"expected {member.name} to stop in order, got exit code {code}; it said:\n{member.said[-2000:]}"
    ended = loop.time()
    await member.start()
    await member.ready()
    ready = loop.time()
    await asyncio.sleep(2)
    now = loop.time()
    silence, start = load.longest_silence(begun, now), load.slowest_start(begun, now)
    return Restart(member.name, number, ended - begun, ready - ended, load.reconnects - reconnects, silence, start)


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
    clients: Annotated[int, typer.Option(min=1, help="Threads that are talked in at once.")] = 20,
    watchers: Annotated[int, typer.Option(min=1, help="Clients that follow each thread.")] = 2,
    turns: Annotated[int, typer.Option(min=1, help="Turns of a thread; then another one begins.")] = 4,
) -> None:
    """Restart every gateway and every worker of a fleet behind HAProxy under load, and see that nothing is lost."""
    if (why := needs()) is not None:
        typer.echo(f"skipped: {why}")
        return
    raise_open_files_limit()
    console = Console(soft_wrap=True)
    shape = Shape(clients, watchers, turns)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        outcome = runner.run(roll(shape, rounds, lambda line: console.print(line, markup=False, highlight=False)))
    show(outcome, console)
    if outcome.noticed.wrong:
        raise typer.Exit(1)


if __name__ == "__main__":
    sys.exit(app())
