"""Every row of the table: what it measures, by which function, on which systems, and what it should come to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from scripts.benchmark import claims, connecting, streaming, turns
from scripts.benchmark.bench import SYSTEMS, Bench
from scripts.benchmark.streaming import Values
from scripts.benchmark.threadline import Threadline

Kind = Literal["ratio", "most", "least"]
_ALL = tuple(SYSTEMS)
_OURS = (Threadline.name,)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a measure should come to: a bound on its value, or on how many times better than stock it is."""

    kind: Kind
    value: float

    def __str__(self) -> str:
        if self.kind == "ratio":
            return f"{self.value:g} x better than stock"
        return f"at {self.kind} {self.value:,.10g}"


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a row."""

    key: str
    title: str
    unit: str
    goal: Goal | None = None
    more_is_better: bool = False
    compared: bool = True
    """Whether a ratio to the other systems means anything."""


@dataclass(frozen=True, slots=True)
class Row:
    """What is measured together, in one run of a system."""

    name: str
    run: Callable[[Bench, str], Awaitable[Values]]
    measures: Sequence[Measure]
    systems: Sequence[str] = _ALL

    @property
    def says(self) -> str:
        """What the row does, in one paragraph: its function's docstring."""
        return " ".join((self.run.__doc__ or "").split())


def _ms(key: str, title: str, most: float | None = None) -> Measure:
    return Measure(key, title, "ms", Goal("most", most) if most is not None else None)


def _count(key: str, title: str, goal: Goal | None = None) -> Measure:
    return Measure(key, title, "", goal, compared=False)


def _overload(load: str) -> tuple[Measure, ...]:
    return (
        _count("lost", f"events lost silently, {load}", Goal("most", 0)),
        _count("doubled", "events that came twice", Goal("most", 0)),
        _count("told", "times that a client was told that it lost its place"),
        _count("closed", "connections that the node closed"),
        _count("in_time", "part of all deltas that arrived within the 15 s"),
        _count("arrived", "part of all deltas that arrived in the end"),
        Measure("catch_up", "behind the last delta, until nothing more came", "s", compared=False),
    )


ROWS: tuple[Row, ...] = (
    Row(
        "whole-system",
        streaming.whole_system,
        (
            Measure("delta_1", "CPU of gateway, store and worker per 100,000 deltas, 1 node", "s"),
            Measure("delta_4", "the same, 4 nodes", "s", Goal("ratio", 14)),
            Measure("gateway_4", "of that the gateways", "s"),
            Measure("store_4", "of that the store", "s"),
            Measure("worker_4", "of that the worker, or the publisher", "s"),
            Measure("agents", "of that those who talk, measured alone", "s", compared=False),
            Measure("frame_1", "CPU of all per 100,000 frames, 1 node", "s"),
            Measure("frame_4", "the same, 4 nodes", "s"),
        ),
    ),
    Row(
        "growth",
        streaming.growth,
        (
            Measure("nodes_1", "CPU of the gateways per 100,000 deltas, 1 node", "s"),
            Measure("nodes_2", "the same, 2 nodes", "s"),
            Measure("nodes_4", "the same, 4 nodes", "s"),
            Measure("nodes_8", "the same, 8 nodes", "s", Goal("ratio", 20)),
            Measure("growth", "growth from 1 to 8 nodes", "x", Goal("most", 2)),
            Measure("idle", "CPU of an idle node, each second", "ms", compared=False),
        ),
    ),
    Row(
        "saturated",
        streaming.saturated,
        (
            Measure("deltas", "events a second delivered by one node, saturated", "/s", Goal("least", 80_000), True),
            _count("core", "cores that it used then"),
            Measure("per_core", "the same for a whole core", "/s", None, True),
        ),
    ),
    Row(
        "fan-out",
        streaming.fan_out,
        (
            _ms("p50", "one thread, 1,000 sockets, 10 events/s: p50"),
            _ms("p99", "the same: p99", 10),
            _ms("p50_gathered", "the same with the default of coalescing: p50"),
            _ms("p99_gathered", "the same with the default of coalescing: p99"),
            _ms("floor_p50", "floor: a bare server that writes the same frame to 1,000 sockets: p50"),
            _ms("floor_p99", "the same: p99"),
            _ms("floor_write_p50", "of that its 1,000 calls of `transport.write`: p50"),
            _ms("floor_write_p99", "the same: p99"),
        ),
    ),
    Row(
        "storm",
        connecting.storm,
        (Measure("seconds", "4,000 sockets dropped at once, until all are subscribed again", "s", Goal("most", 3)),),
    ),
    Row(
        "joins",
        connecting.joins,
        (
            Measure("joins", "new connections joined per second", "/s", Goal("ratio", 1.5), True),
            _ms("join_cpu", "CPU of the node for each of them"),
            _ms("connect_cpu", "the same, connecting alone"),
        ),
    ),
    Row(
        "memory",
        connecting.memory,
        (Measure("kilobytes", "memory per idle socket", "KB", Goal("most", 30)),),
    ),
    Row("overload", streaming.overload, _overload("2.4 x its own capacity for 15 s")),
    Row("overload-same", streaming.overload_same, _overload("2.4 x stock's capacity for 15 s")),
    Row(
        "mass-resume",
        connecting.mass_resume,
        (
            Measure("over", "1,000 sockets resume 1,000 deltas: time over connecting", "s", Goal("most", 0.5)),
            Measure("over_joining", "the same: time over joining without a gap", "s"),
            Measure("cpu_over", "the same over connecting, in CPU of the node", "s"),
            Measure("connecting", "connecting alone", "s"),
            _count("frames", "frames of deltas to each, at most", Goal("most", 3)),
            _count("entries", "entries of the log that were missed"),
            _count("lost", "events lost silently", Goal("most", 0)),
        ),
        _OURS,
    ),
    Row(
        "cancel",
        turns.cancel,
        (
            _ms("talking_p50", "cancel at another node until the agent feels it, talking: p50", 5),
            _ms("talking_p99", "the same: p99", 50),
            _ms("silent_p50", "the same, silent: p50", 5),
            _ms("silent_p99", "the same, silent: p99", 50),
        ),
        _OURS,
    ),
    Row(
        "cancel-cut",
        turns.cancel_cut,
        (
            _ms("talking_p50", "cancel with the worker's pub/sub path cut, talking: p50"),
            _ms("talking_p99", "the same: worst", 1000),
            _ms("silent_p50", "the same, silent: p50"),
            _ms("silent_p99", "the same, silent: worst", 1000),
        ),
        _OURS,
    ),
    Row(
        "takeover",
        turns.takeover,
        (
            Measure("p50", "kill -9 of a worker until its turn runs elsewhere: p50", "s", Goal("most", 3)),
            Measure("p99", "the same: worst of 10", "s", Goal("most", 5)),
        ),
        _OURS,
    ),
    Row(
        "claims",
        claims.claims,
        (
            _count("workers_1", "claims tried for each turn, 400 at once, 1 worker", Goal("most", 1.05)),
            _count("workers_2", "the same, 2 workers", Goal("most", 1.05)),
            _count("workers_4", "the same, 4 workers", Goal("most", 1.05)),
            _count("workers_8", "the same, 8 workers", Goal("most", 1.05)),
        ),
        _OURS,
    ),
    Row(
        "first-token",
        turns.first_token,
        (
            _ms("first_p50", "from `chat:start` to the first delta: p50", 10),
            _ms("first_p99", "the same: p99"),
        ),
        _OURS,
    ),
    Row(
        "reconnect",
        turns.reconnect,
        (
            _ms("missed_p50", "from a new connection to the first missed token: p50", 5),
            _ms("missed_p99", "the same: p99"),
        ),
        _OURS,
    ),
)
