"""What things cost, read from the table of docs/performance.md, so that the model never has figures of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
STORE_SHARE = 0.25
"""The store's part of the whole system's processor time (docs/performance.md); worker and gateway share the rest."""
_THREADLINE = 2
_PER = 100_000


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured costs; seconds are of one core."""

    append: float
    """Of the store, for each frame that is appended and published (s)."""
    speak: float
    """Of a worker, for each frame (s)."""
    hear: float
    """Of a gateway, for each frame that reaches it for one socket (s)."""
    write: float
    """Of a gateway, for each further socket of a frame (s)."""
    connect: float
    """Of a gateway, for each new connection that joins a thread (s)."""
    socket_bytes: float
    """Memory of an idle socket."""
    idle: float
    """Cores that an idle gateway uses."""


def measured(page: str, row: str, title: str) -> float:
    """Return Threadline's figure of one line of the table.

    Raises:
        LookupError: when there is no such line; the table and this model must say the same.
    """
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if len(cells) > _THREADLINE and cells[0] == row and cells[1].startswith(title):
            return float(re.sub(",", "", cells[_THREADLINE]))
    raise LookupError(f"expected a line {row!r}, {title!r} in docs/performance.md, got none; was the table renewed?")


def read(page: str | None = None) -> Costs:
    """Return the costs that the committed table holds."""
    page = PAGE.read_text() if page is None else page
    frame = measured(page, "whole-system", "CPU of all per 100,000 frames, 1 node") / _PER
    rest = frame * (1 - STORE_SHARE) / 2
    return Costs(
        append=frame * STORE_SHARE,
        speak=rest,
        hear=rest,
        write=1 / measured(page, "saturated", "the same for a whole core"),
        connect=1 / measured(page, "joins", "new connections joined"),
        socket_bytes=measured(page, "memory", "memory per idle socket") * 1000,
        idle=measured(page, "growth", "CPU of an idle node") / 1000,
    )
