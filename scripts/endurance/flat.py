"""Whether what a process holds is flat: the line through its samples, once it is warm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, linear_regression

WARM = 1 / 3
"""The part of a run that is left out: caches fill, and code is seen for the first time."""
PART = 0.05
"""By how much of its mean a process may grow over the rest."""
Point = tuple[float, float]
"""Seconds since the begin, and what was held then."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """By how much a process grew over the last two thirds of a run, along the line, and how much it may."""

    process: str
    what: str
    growth: float
    allowed: float

    @property
    def flat(self) -> bool:
        """Whether it grew by no more than that; without samples nothing is shown, so it is not."""
        return self.growth <= self.allowed


def growth(points: Sequence[Point]) -> float:
    """Return by how much the line of least squares rises over the last two thirds; NaN without three samples there."""
    kept = _warm(points)
    if len(kept) < 3:
        return math.nan
    times, values = zip(*kept, strict=True)
    slope: float = linear_regression(times, values).slope
    return slope * float(times[-1] - times[0])


def judge(process: str, what: str, points: Sequence[Point], least: float) -> Verdict:
    """Judge one process; `least` is what it may grow by in any case: a page, a connection, a pass of the allocator."""
    kept = _warm(points)
    mean = fmean(value for _, value in kept) if kept else 0.0
    return Verdict(process, what, growth(points), max(least, PART * mean))


def _warm(points: Sequence[Point]) -> list[Point]:
    if not points:
        return []
    first, last = points[0][0], points[-1][0]
    return [point for point in points if point[0] >= first + (last - first) * WARM]
