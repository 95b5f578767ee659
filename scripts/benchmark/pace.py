"""What is said, and how fast: one plan, kept by Threadline's agent and by the publishers of the others alike."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from weakref import WeakKeyDictionary

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


class _Moments:
    """What the plans of a process wait for. Those who wait for the same moment share a timer.

    A sleep of its own for each delta of each thread would be a third of what the measured worker uses.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}

    def at(self, seconds: float) -> asyncio.Future[None]:
        """Return what is done in so many seconds, to a millisecond: finer no timer of uvloop is."""
        loop = self._loop
        at = math.ceil((loop.time() + seconds) * 1000)
        if at not in self._waiting:
            self._waiting[at] = []
            loop.call_at(at / 1000, self._come, at)
        waiting = loop.create_future()
        self._waiting[at].append(waiting)
        return waiting

    def _come(self, at: int) -> None:
        for waiting in self._waiting.pop(at):
            if not waiting.done():
                waiting.set_result(None)


_OF_LOOP: WeakKeyDictionary[asyncio.AbstractEventLoop, _Moments] = WeakKeyDictionary()


def _moments() -> _Moments:
    loop = asyncio.get_running_loop()
    if loop not in _OF_LOOP:
        _OF_LOOP[loop] = _Moments(loop)
    return _OF_LOOP[loop]


async def due(plan: Plan) -> AsyncIterator[int]:
    """Yield how many deltas are due, at the times at which some are; late ones come at once."""
    now, moments = time.time, _moments()
    begin = plan.start_at or now()
    for rate, seconds in plan.steps:
        count, said, least = round(rate * seconds), 0, _GRAIN if rate * _GRAIN > 1 else 0.0
        while said < count:
            await moments.at(max(begin + said / rate - now(), least))
            ready = min(count, int((now() - begin) * rate) + 1)
            if ready > said:
                yield ready - said
                said = ready
        begin += seconds
        await moments.at(max(begin - now(), 0.0))
