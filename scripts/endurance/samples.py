"""What each process of a fleet holds and uses, looked at every few seconds."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.benchmark.processes import cpu_of, memory_of
from scripts.endurance.flat import Point
from scripts.endurance.latency import Buckets, Histograms, quantile, since
from tests.fleet.fleet import Fleet


@dataclass(frozen=True, slots=True)
class Held:
    """One process at one moment."""

    memory: int
    """Bytes (RSS)."""
    files: int
    """Open files and sockets."""
    cpu: float
    """Processor time since the sample before, in parts of a core."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at all of them."""

    at: float
    """Seconds since the first look."""
    p99: float | None
    """From append to socket since the sample before, over all gateways (seconds); None when nothing was sent."""
    processes: dict[str, Held]

    def plain(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return asdict(self)


def sample(plain: dict[str, Any]) -> Sample:
    """Return what `plain` was made of."""
    return Sample(plain["at"], plain["p99"], {name: Held(**held) for name, held in plain["processes"].items()})


class Sampler:
    """Looks at every gateway, worker and the store."""

    def __init__(self, fleet: Fleet) -> None:
        self.samples: list[Sample] = []
        self._fleet = fleet
        self._histograms = Histograms(fleet)
        self._begun = time.monotonic()
        self._last_look = self._begun
        self._last_cpu: dict[str, float] = {}
        self._last_buckets: Buckets = {}

    async def look(self) -> Sample:
        """Take a sample, and keep it. The first one only begins what is counted between two."""
        buckets = await self._histograms.look()
        now = time.monotonic()
        p99 = quantile(since(buckets, self._last_buckets), 0.99)
        passed = now - self._last_look
        pids = {member.name: member.pid for member in self._fleet.members} | {"store": self._fleet.store.pid}
        held = {name: self._held(name, pid, passed) for name, pid in pids.items()}
        self._last_look, self._last_buckets = now, buckets
        seen = Sample(now - self._begun, None if math.isnan(p99) else p99, held)
        self.samples.append(seen)
        return seen

    def _held(self, name: str, pid: int, passed: float) -> Held:
        used = cpu_of(pid)
        before = self._last_cpu.get(name, used)
        self._last_cpu[name] = used
        files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        return Held(memory_of(pid), files, (used - before) / passed if passed > 0 else 0.0)


def series(samples: list[Sample], what: str, scale: float = 1.0) -> dict[str, list[Point]]:
    """Return one kind of figure as points of each process, such as `memory`; divided by a scale."""
    names = samples[-1].processes if samples else {}
    return {name: [(one.at, getattr(one.processes[name], what) / scale) for one in samples] for name in names}
