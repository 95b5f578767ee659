"""What is kept of a rolling restart: every figure as JSON, and the worst of each in docs/reliability.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.benchmark.machine import described, machine
from scripts.benchmark.page import put
from scripts.endurance.load import Shape
from scripts.endurance.restarts import Outcome
from scripts.faultsuite.page import PAGE

Record = dict[str, Any]


def kept(outcome: Outcome, shape: Shape) -> Record:
    """Return what there is to say of a run; a figure that nobody counted is null."""
    seen = asdict(outcome.noticed)
    del seen["silences"]
    return {
        "machine": machine(),
        "shape": asdict(shape),
        "seconds": round(outcome.seconds, 1),
        "clients": outcome.clients,
        "p99": _number(outcome.p99),
        "noticed": seen,
        "restarts": [
            {name: _number(value) if isinstance(value, float) else value for name, value in asdict(one).items()}
            for one in outcome.restarts
        ],
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def write(record: Record, page: Path = PAGE) -> None:
    """Renew the figures of the page.

    Raises:
        NoMarks: when they have no place there.
    """
    page.write_text(put(page.read_text(), "rolling", _block(record)))


def _block(record: Record) -> str:
    facts, shape, seen = record["machine"], record["shape"], record["noticed"]
    return "\n".join(
        [
            f"Measured on {facts['date']}: {described(facts)}, Python {facts['python']}; clients, "
            "load balancer, store and fleet share them.",
            "",
            f"{record['seconds']:.0f} s, {len(record['restarts'])} restarts; {record['clients']:,} clients, "
            f"{shape['clients']} turns at once, a word each {shape['pace']:g} ms: {seen['threads']:,} threads, "
            f"{seen['turns']:,} turns, {seen['events']:,} events, {seen['frames']:,} frames at clients, "
            f"{seen['reconnects']:,} reconnects. Append to socket, p99: {_ms(record['p99'])}. "
            f"{len(seen['wrong']) or 'Nothing'} lost, doubled or refused.",
            "",
            *_table(record["restarts"]),
        ]
    )


def _table(restarts: list[dict[str, Any]]) -> Iterable[str]:
    yield "| the worst of all restarts of | gateways | workers |"
    yield "|---|---:|---:|"
    kinds = [[one for one in restarts if one["name"].startswith(kind)] for kind in ("gateway", "worker")]
    figures: list[tuple[str, str, Callable[[Any], str]]] = [
        ("had ended behind its SIGTERM", "ended", _seconds),
        ("was ready again behind that", "ready", _seconds),
        ("longest silence in an answer", "silence", _seconds),
        ("slowest start", "start", _seconds),
        ("append to socket, p99 of that time", "p99", _ms),
    ]
    yield "| restarts | " + " | ".join(str(len(kind)) for kind in kinds) + " |"
    for name, key, shown in figures:
        worst = [max((one[key] for one in kind if one[key] is not None), default=None) for kind in kinds]
        yield f"| {name} | " + " | ".join(shown(value) for value in worst) + " |"
    yield f"| turns handed back | - | {sum(one['handed_back'] for one in restarts)} |"


def _seconds(value: float | None) -> str:
    return f"{value:.2f} s" if value else "below 0.1 s"


def _ms(value: float | None) -> str:
    return "not counted" if value is None else f"{value * 1000:.0f} ms"
