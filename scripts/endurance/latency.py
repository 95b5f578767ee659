"""From append to socket over a whole fleet: the histograms of its gateways, added up over all their lives."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.fleet.fleet import Fleet

_METRIC = "threadline_append_to_socket_seconds"
Buckets = Mapping[float, float]
"""How many events took at most so many seconds."""


def buckets(metrics: str) -> Buckets:
    """Return the histogram of a gateway from its /metrics."""
    samples = [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]
    return {float(s.labels["le"]): s.value for s in samples if s.name == f"{_METRIC}_bucket"}


def added(histograms: list[Buckets]) -> Buckets:
    """Return what several histograms say together."""
    total: Counter[float] = Counter()
    for histogram in histograms:
        for bound, count in histogram.items():
            total[bound] += int(count)
    return total


def since(now: Buckets, before: Buckets) -> Buckets:
    """Return what came to a histogram since an earlier look at it."""
    return {bound: count - before.get(bound, 0.0) for bound, count in now.items()}


def quantile(histogram: Buckets, part: float) -> float:
    """Return a quantile in seconds, evenly spread inside each bucket as Prometheus does it; NaN without any event."""
    total = max(histogram.values(), default=0.0)
    low, counted = 0.0, 0.0
    for bound, count in sorted(histogram.items()):
        if total and count >= part * total:
            if math.isinf(bound) or count == counted:
                return low
            return low + (bound - low) * (part * total - counted) / (count - counted)
        low, counted = bound, count
    return math.nan


class Histograms:
    """The last that each life of each gateway has said. A life's last second before its end is not seen."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._last: dict[str, Buckets] = {}

    async def look(self) -> Buckets:
        """Ask every gateway that answers; return all lives together."""
        for member in self._fleet.gateways:
            with contextlib.suppress(httpx.HTTPError):
                answer = await self._fleet.http.get(f"{member.url}/metrics")
                self._last[member.node_id] = buckets(answer.text)
        return added(list(self._last.values()))

    async def keep_looking(self) -> None:
        """Look each second, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(1)
