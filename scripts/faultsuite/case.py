"""A case: one fault of the table, how it is done, and the bounds within which all must be well again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from backplane.ids import new_id
from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet

PATIENCE = 60.0
"""Seconds that anything may take before it counts as never."""
AN_APPEND = b"text_delta"
"""What the bytes of an append hold, on their way from a worker to the store."""


@dataclass(frozen=True, slots=True)
class Settled:
    """How long something took until it was well again, and how long it may."""

    what: str
    seconds: float
    bound: float


def now() -> float:
    """Return the time by which everything here is measured (seconds, the loop's clock)."""
    return asyncio.get_running_loop().time()


def thread(fleet: Fleet) -> Conversation:
    """Return a thread of its own, held up to every invariant when it is left."""
    return Conversation(fleet, f"t-{new_id()}", patience=PATIENCE)


Run = Callable[[Fleet], Coroutine[Any, Any, list[Settled]]]


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the table of faults, or one variant of it.

    `run` hurts the fleet and returns what it measured. It raises AssertionError when something does not hold.
    """

    name: str
    """The number of the row, with a letter for a variant."""
    fault: str
    run: Run
    settings: Mapping[str, Any] = field(default_factory=dict)
    """For a fleet of its own; empty for the one that all cases share."""
    needs: Callable[[], str | None] = lambda: None
    """Returns why the case cannot run here, or None."""

    @property
    def row(self) -> int:
        """The row of the table."""
        return int(self.name.rstrip("abcdefgh"))
