"""How long an event takes from its append to the sockets of a node."""

from __future__ import annotations

import bisect
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Histogram

from backplane.events import Event

BOUNDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets, in seconds: fine where a healthy node is."""


class Latency:
    """Times by Redis' clock, which stamps an event when it is appended (whole milliseconds).

    Args:
        registry: where Prometheus finds the histogram.
        now: what Redis' clock says.
    """

    def __init__(self, registry: CollectorRegistry, now: Callable[[], float]) -> None:
        self._now = now
        self._histogram = Histogram(
            "threadline_append_to_socket_seconds",
            "From the append of an event to its writing to the sockets of this node.",
            buckets=BOUNDS,
            registry=registry,
        )
        self._counts = [0] * (len(BOUNDS) + 1)

    def sent(self, event: Event) -> None:
        """Note that an event was written to its members just now; one without a time is not counted."""
        at = appended(event)
        if at is None:
            return
        seconds = max(0.0, self._now() - at)
        self._histogram.observe(seconds)
        self._counts[bisect.bisect_left(BOUNDS, seconds)] += 1

    def take(self) -> dict[str, float | int]:
        """Return how many were sent since the last time, and p50 and p99 of their latency in seconds."""
        counts, self._counts = self._counts, [0] * (len(BOUNDS) + 1)
        return {"events": sum(counts), "p50": _quantile(counts, 0.5), "p99": _quantile(counts, 0.99)}


def appended(event: Event) -> float | None:
    """Return when an event was appended (Unix seconds), without decoding it; None when it does not say."""
    # the first one is the log's own (lua/lib/emit.lua): in a string before it the quotes would be escaped
    _, found, rest = event.raw.partition(b'"ts":')
    digits = rest[:13]
    return int(digits) / 1000 if found and digits.isdigit() else None


def _quantile(counts: list[int], part: float) -> float:
    """Return a quantile from counts in buckets, evenly spread inside each as Prometheus does it; 0 without any."""
    rank = part * sum(counts)
    for place, count in enumerate(counts):
        if count and rank <= count:
            low = BOUNDS[place - 1] if place else 0.0
            high = BOUNDS[min(place, len(BOUNDS) - 1)]
            return round(low + (high - low) * rank / count, 4)
        rank -= count
    return 0.0
