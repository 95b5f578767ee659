"""What clients counted. Latencies are kept in a histogram, which can be added up over processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

GRAIN = 0.0001
"""Seconds: the width of a histogram's bucket."""


@dataclass(slots=True)
class Tally:
    """The counts of one process, or of several together."""

    frames: int = 0
    """Frames with deltas."""
    letters: int = 0
    """Letters of text in them."""
    bytes: int = 0
    """Bytes of these frames, without the WebSocket header."""
    lost: int = 0
    """Offsets that were skipped, although nobody said so: silent loss."""
    doubled: int = 0
    """Offsets that came twice."""
    told: int = 0
    """Times that a client was told that its cursor is of no use (`recovered: false`), with a snapshot."""
    closed: int = 0
    """Connections that the server closed."""
    behind: int = 0
    """Clients that are not at the end of their thread."""
    latencies: dict[int, int] = field(default_factory=dict)
    """Bucket -> how many deltas came so long after they were said."""

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """Return the tally of `as_dict`, also after JSON made text of its keys."""
        latencies = {int(bucket): count for bucket, count in fields["latencies"].items()}
        return cls(**{**fields, "latencies": latencies})

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as JSON can carry them."""
        return asdict(self)

    def add(self, other: Tally) -> None:
        """Add the counts of another process."""
        for name, value in asdict(other).items():
            if name != "latencies":
                setattr(self, name, getattr(self, name) + value)
        for bucket, count in other.latencies.items():
            self.latencies[bucket] = self.latencies.get(bucket, 0) + count

    def percentile(self, part: float) -> float:
        """Return the latency in ms that `part` (0 to 1) of the deltas do not exceed; NaN without any."""
        wanted, seen = part * sum(self.latencies.values()), 0
        for bucket in sorted(self.latencies):
            seen += self.latencies[bucket]
            if seen >= wanted:
                return bucket * GRAIN * 1000
        return float("nan")


def percentile(values: Iterable[float], part: float) -> float:
    """Return the value that `part` (0 to 1) of the values do not exceed; NaN without any."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")
