"""What every row is given: the systems that it may start, and how large a run is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from scripts.benchmark.clients import Clients
from scripts.benchmark.rivals import Node, ShardedNode, Stock
from scripts.benchmark.systems import System
from scripts.benchmark.tally import Tally
from scripts.benchmark.threadline import Threadline

SYSTEMS: dict[str, type[System]] = {system.name: system for system in (Threadline, Stock, Node, ShardedNode)}
STALLED = 3.0
"""Seconds without a single delta, after which what has not come is taken for lost."""
MOST = 60.0
"""Seconds that a run waits for what is still on its way."""


@dataclass(slots=True)
class Bench:
    """One run of the benchmark."""

    scale: float = 1.0
    """Part of the clients, threads and seconds that the table speaks of."""
    load_processes: int = 1
    capacity: dict[str, float] = field(default_factory=dict)
    """System -> delivered deltas a second of one node, once the row `saturated` has found it."""

    def count(self, full: int, least: int = 1) -> int:
        """Return how many of something this run takes."""
        return max(least, round(full * self.scale))

    def seconds(self, full: float) -> float:
        """Return how long something takes in this run."""
        return max(1.0, full * self.scale)

    @asynccontextmanager
    async def system(self, name: str, nodes: int = 1, **settings: object) -> AsyncIterator[tuple[System, Clients]]:
        """Start a system and the clients, for the length of this block. `settings` are Threadline's."""
        system = Threadline(nodes, **settings) if name == Threadline.name else SYSTEMS[name](nodes)  # type: ignore[arg-type]
        async with system, Clients(self.load_processes, system.style) as clients:
            yield system, clients

    @asynccontextmanager
    async def threadline(self, nodes: int = 1, **options: object) -> AsyncIterator[tuple[Threadline, Clients]]:
        """Start Threadline, for what only it does."""
        system = Threadline(nodes, **options)  # type: ignore[arg-type]
        async with system, Clients(self.load_processes, system.style) as clients:
            yield system, clients


async def settled(clients: Clients, letters: int) -> tuple[Tally, float]:
    """Wait until clients have got so many letters, or nothing comes any more.

    Returns their counts, and when (monotonic) the last delta was seen to come.
    """
    until, moved = time.monotonic() + MOST, time.monotonic()
    before = -1
    while True:
        tally = await clients.tally()
        now = time.monotonic()
        if tally.letters != before:
            before, moved = tally.letters, now
        if tally.letters >= letters or now > until or now - moved > STALLED:
            return tally, moved
        await asyncio.sleep(0.05)
