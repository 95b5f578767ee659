"""A rolling restart: every gateway and every worker goes and comes, one after the other, under load behind HAProxy."""

from __future__ import annotations

import asyncio
import math
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from scripts.endurance.crowd import Crowd
from scripts.endurance.latency import Histograms, quantile, since
from scripts.endurance.load import Load, Noticed, Shape, settings
from scripts.endurance.newcomers import Newcomers
from scripts.faultsuite.case import PATIENCE
from tests.deploy.balancers import BALANCERS, balanced
from tests.fleet.fleet import Fleet, Member

GATEWAYS, WORKERS = 3, 2


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
    handed_back: int = 0
    """Turns that a worker did not end within its grace, and another one took up."""
    p99: float = math.nan
    """From append to socket; NaN when nothing was counted."""

    def line(self) -> tuple[str, ...]:
        """Return it as a line of the table."""
        times = (self.ended, self.ready, self.silence, self.start)
        ended, ready, silence, start = (f"{seconds:.2f} s" if seconds else "-" for seconds in times)
        handed_back = str(self.handed_back) if self.name.startswith("worker") else "-"
        counted = (str(self.round), ended, ready, str(self.reconnects), handed_back)
        return self.name, *counted, silence, start, "-" if math.isnan(self.p99) else _ms(self.p99)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    restarts: Sequence[Restart]
    noticed: Noticed
    p99: float
    """From append to socket, in seconds; NaN when nothing was counted."""
    seconds: float = 0.0
    clients: int = 0

    @property
    def handed_back(self) -> int:
        """How many turns were handed back by workers that stopped."""
        return sum(one.handed_back for one in self.restarts)

    def summary(self) -> str:
        """Return it in one sentence."""
        seen = self.noticed
        return (
            f"{len(self.restarts)} restarts in {self.seconds:.0f} s: {self.clients} clients, {seen.threads} threads, "
            f"{seen.turns} turns, {seen.events} events, {seen.frames} frames at clients, {self.handed_back} turns "
            f"handed back, {seen.reconnects} reconnects; append to socket p99 {_ms(self.p99)}; "
            f"{len(seen.wrong)} things wrong"
        )


def _ms(seconds: float) -> str:
    return "not counted" if math.isnan(seconds) else f"{seconds * 1000:.0f} ms"


def needs() -> str | None:
    """Return why this cannot run here; None when it can."""
    return None if BALANCERS[0].path else "haproxy is not installed (Debian: apt-get install haproxy)"


@asynccontextmanager
async def _fleet(folder: Path, turns: int, told: Callable[[str], None]) -> AsyncIterator[tuple[Fleet, Fleet]]:
    """Start a fleet; yield it as it is, and as it looks from in front of HAProxy."""
    async with (
        Fleet(folder / "fleet", GATEWAYS, WORKERS, settings(turns), base={}) as fleet,
        balanced(BALANCERS[0], fleet, folder) as front,
    ):
        told(f"{GATEWAYS} gateways and {WORKERS} workers behind HAProxy")
        yield fleet, cast("Fleet", front)


async def roll(
    shape: Shape, rounds: int, told: Callable[[str], None] = lambda line: None, seconds: float = math.inf
) -> Outcome:
    """Restart every member under load, and hold every thread up to the invariants.

    Args:
        shape: the load.
        rounds: how often every member is restarted, at most.
        told: is called with a line for each restart.
        seconds: no restart begins later.
    """
    restarts: list[Restart] = []
    clock = asyncio.get_running_loop().time
    with tempfile.TemporaryDirectory(prefix="rolling-") as folder:
        async with (
            _fleet(Path(folder), shape.clients, told) as (fleet, front),
            Crowd(front.urls) as crowd,
            Newcomers(front.urls) as newcomers,
        ):
            load, histograms = Load(front, shape, crowd if shape.counting else None), Histograms(fleet)
            async with asyncio.TaskGroup() as group:
                looking = group.create_task(histograms.keep_looking())
                running = group.create_task(load.run())
                with suppress(TimeoutError):  # then something is wrong, and the load will say what
                    async with asyncio.timeout(PATIENCE):
                        await load.talking()
                await newcomers.come()
                begun = clock()
                try:
                    for number, member in ((number, one) for number in range(1, rounds + 1) for one in fleet.members):
                        if clock() - begun > seconds:
                            break
                        restarts.append(await restart(member, number, load, newcomers, histograms))
                        told(" · ".join(restarts[-1].line()))
                except (AssertionError, TimeoutError) as error:  # the others are whole, and their threads come to rest
                    load.noticed.wrong.append(f"{member.name}: {error or 'it goes on behind its SIGTERM'}")
                load.stop()
                took = clock() - begun
                answered, wrong = await newcomers.leave()
                noticed = await running
                noticed.turns += answered
                noticed.threads += answered
                noticed.wrong += wrong
                looking.cancel()
            p99 = quantile(await histograms.look(), 0.99)
    return Outcome(restarts, noticed, p99, took, shape.clients * (shape.watchers + shape.counting))


async def restart(member: Member, number: int, load: Load, newcomers: Newcomers, histograms: Histograms) -> Restart:
    """Stop one member by SIGTERM, and start it anew; its clients have two seconds more to notice."""
    loop = asyncio.get_running_loop()
    reconnects, begun, before, said = load.reconnects, loop.time(), await histograms.look(), len(member.said)
    member.signal(signal.SIGTERM)
    code = await member.ended(PATIENCE)
    assert code == 0, f"expected {member.name} to stop in order, got exit code {code}; it said:\n{member.said[-2000:]}"
    ended = loop.time()
    handed_back = member.said[said:].count("turn handed back")
    await member.start()
    await member.ready()
    ready = loop.time()
    await asyncio.sleep(2)
    now = loop.time()
    silence, start = load.longest_silence(begun, now), await newcomers.slowest(begun, now)
    p99 = quantile(since(await histograms.look(), before), 0.99)
    returned = load.reconnects - reconnects
    return Restart(member.name, number, ended - begun, ready - ended, returned, silence, start, handed_back, p99)
