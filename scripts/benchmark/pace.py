"""What is said, and how fast: one plan, kept by Threadline's agent and by the publishers of the others alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

WORD = 6
"""Letters of a delta: about a token of a language model, with its space."""
TIMED_WORD = 19
"""Letters of a delta that carries its time."""
_GRAIN = 0.002
"""Seconds. The timers of uvloop and Node have a grain of 1 ms, so faster paces are kept in batches."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The deltas of one answer."""

    steps: tuple[tuple[float, float], ...]
    """(deltas a second, seconds), one after the other."""
    timed: bool = False
    """Each delta carries the time at which it was said."""
    apart: bool = False
    """Each delta is an event of its own, which nobody may join with its neighbour (its `round` is another)."""
    pipelined: bool = False
    """A publisher may send many at once, so that it is not the first to fall behind; the worker always may."""
    hold: float = 0.0
    """Seconds of silence behind the last delta, before the answer ends."""
    start_at: float = 0.0
    """Unix time of the beginning; 0 is now."""

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Plan:
        """Return the plan of `as_dict`."""
        steps = tuple((float(rate), float(seconds)) for rate, seconds in fields["steps"])
        flags = {name: bool(fields[name]) for name in ("timed", "apart", "pipelined")}
        return cls(steps, **flags, hold=float(fields["hold"]), start_at=float(fields["start_at"]))

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON can carry it."""
        return asdict(self)

    @property
    def deltas(self) -> int:
        """How many deltas there are in all."""
        return sum(round(rate * seconds) for rate, seconds in self.steps)

    @property
    def seconds(self) -> float:
        """How long the talking takes."""
        return sum(seconds for _, seconds in self.steps)

    @property
    def letters(self) -> int:
        """How long each delta is."""
        return TIMED_WORD if self.timed else WORD


def word(plan: Plan, number: int) -> str:
    """Return the delta of this number, from 0; all are equally long."""
    return f"@{time.time():.6f} " if plan.timed else f"{number % 100_000:05d} "


async def due(plan: Plan) -> AsyncIterator[int]:
    """Yield how many deltas are due, at the times at which some are; late ones come at once."""
    begin = plan.start_at or time.time()
    for rate, seconds in plan.steps:
        count, said = round(rate * seconds), 0
        while said < count:
            await asyncio.sleep(max(begin + said / rate - time.time(), _GRAIN if rate * _GRAIN > 1 else 0.0))
            now = min(count, int((time.time() - begin) * rate) + 1)
            if now > said:
                yield now - said
                said = now
        begin += seconds
        await asyncio.sleep(begin - time.time())
