"""What came out: every value of every round, their medians and ratios, and the JSON that keeps them."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Self

from scripts.benchmark.machine import machine
from scripts.benchmark.rows import ROWS, Measure, Row
from scripts.benchmark.threadline import Threadline

_LIBRARIES = ("python-socketio", "python-engineio", "redis", "uvicorn", "uvloop", "hiredis", "websockets")
_STOCK = "stock"
_NODES = ("node", "node-sharded")


@dataclass(slots=True)
class Results:
    """All values: row -> system -> measure -> one value a round."""

    values: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    """About the machine and the run."""

    def add(self, row: str, system: str, measured: dict[str, float]) -> None:
        """Take what one run of a row on one system gave."""
        kept = self.values.setdefault(row, {}).setdefault(system, {})
        for key, value in measured.items():
            kept.setdefault(key, []).append(value)

    def median(self, row: str, system: str, key: str) -> float:
        """Return the median of all rounds; NaN when there is none."""
        values = self.values.get(row, {}).get(system, {}).get(key, [])
        return median(values) if values else math.nan

    def ratio(self, row: str, measure: Measure, other: str) -> float:
        """Return how many times better than another system Threadline is; NaN when one is missing."""
        if not measure.compared:
            return math.nan
        ours, theirs = self.median(row, Threadline.name, measure.key), self.median(row, other, measure.key)
        if not ours or not theirs:
            return math.nan
        return ours / theirs if measure.more_is_better else theirs / ours

    def ratio_to_node(self, row: str, measure: Measure) -> float:
        """Return the ratio to whichever of Node's adapters does better."""
        ratios = [ratio for other in _NODES if not math.isnan(ratio := self.ratio(row, measure, other))]
        return min(ratios, default=math.nan)

    def met(self, row: str, measure: Measure) -> bool | None:
        """Tell whether a goal is met; None when there is none, or nothing to judge it by."""
        goal = measure.goal
        if goal is None:
            return None
        ours = (
            self.ratio(row, measure, _STOCK) if goal.kind == "ratio" else self.median(row, Threadline.name, measure.key)
        )
        if math.isnan(ours):
            return None
        return ours <= goal.value if goal.kind == "most" else ours >= goal.value

    @property
    def rows(self) -> list[Row]:
        """The rows that have values, in the order of the table."""
        return [row for row in ROWS if row.name in self.values]

    def write(self, path: Path) -> None:
        """Write everything as JSON, with the medians and ratios for readers without a calculator."""
        summary: dict[str, Any] = defaultdict(dict)
        for row in self.rows:
            for measure in row.measures:
                summary[row.name][measure.key] = {
                    "title": measure.title,
                    "unit": measure.unit,
                    "goal": str(measure.goal) if measure.goal else None,
                    "met": self.met(row.name, measure),
                    "median": {system: self.median(row.name, system, measure.key) for system in self.values[row.name]},
                    "times_better_than_stock": self.ratio(row.name, measure, _STOCK),
                    "times_better_than_node": self.ratio_to_node(row.name, measure),
                }
        whole = {"facts": self.facts, "summary": summary, "values": self.values}
        path.write_text(json.dumps(_finite(whole), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what `write` wrote."""
        whole = json.loads(path.read_text())
        return cls(whole["values"], whole["facts"])


def _finite(value: Any) -> Any:
    """Return a copy with null for what is not a number: JSON has no word for that."""
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value


def facts(rounds: int, scale: float) -> dict[str, Any]:
    """Return what a reader must know of the machine and the run."""
    here = machine()
    return {
        "load_before": here.pop("load"),
        **here,
        "libraries": {name: version(name) for name in _LIBRARIES},
        "rounds": rounds,
        "scale": scale,
    }
