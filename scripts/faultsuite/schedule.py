"""The schedule of a random run: which fault, when, on whom and for how long. The same seed gives the same schedule."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

STORE = "store"
EVERYBODY = "everybody"
_GAP = (0.4, 2.0)
"""Seconds between two faults."""
_QUIET = 2.0
"""Seconds at the beginning and before the end without a new fault."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault."""

    name: str
    targets: str
    """`workers`, `gateways`, `members`, `store` or `everybody`."""
    seconds: tuple[float, float]
    """How long it lasts: at least, at most."""
    weight: int


KINDS = (
    Kind("kill -9", "workers", (0.1, 2), 4),
    Kind("kill -9", "gateways", (0.1, 2), 3),
    Kind("SIGSTOP", "workers", (0.5, 5), 4),
    Kind("SIGSTOP", "gateways", (0.5, 4), 2),
    Kind("SIGTERM", "workers", (0.1, 1), 2),
    Kind("SIGTERM", "gateways", (0.1, 1), 2),
    Kind("reset and refused", "members", (0.2, 3), 3),
    Kind("black hole", "members", (0.5, 5), 3),
    Kind("answers lost", "members", (0.1, 1.5), 3),
    Kind("commands lost", "members", (0.1, 1.5), 2),
    Kind("delayed", "members", (0.5, 4), 2),
    Kind("pub/sub lost", "members", (0.5, 4), 3),
    Kind("an append held", "workers", (0.5, 4), 3),
    Kind("SIGSTOP", STORE, (0.2, 4), 1),
    Kind("kill -9", STORE, (0.1, 3), 1),
    Kind("CLIENT KILL pubsub", EVERYBODY, (0, 0), 2),
    Kind("CLIENT KILL all", EVERYBODY, (0, 0), 2),
    Kind("clients' sockets cut", EVERYBODY, (0, 0), 2),
)


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault of a schedule."""

    at: float
    """Seconds from the beginning of the run."""
    fault: str
    target: str
    """The name of a member, or `store`, or `everybody`."""
    seconds: float

    def __str__(self) -> str:
        """Return it as one line."""
        lasting = f" for {self.seconds:.2f} s" if self.seconds else ""
        return f"{self.at:7.2f} s  {self.fault}: {self.target}{lasting}"


def schedule(seed: int, seconds: float, gateways: Sequence[str], workers: Sequence[str]) -> list[Planned]:
    """Return the faults of a run, in their order."""
    # a text of its own, so that the load's random numbers do not repeat these
    chance = random.Random(f"faults {seed}")
    targets = {
        "workers": list(workers),
        "gateways": list(gateways),
        "members": [*gateways, *workers],
        STORE: [STORE],
        EVERYBODY: [EVERYBODY],
    }
    plan = []
    at = _QUIET
    while at < seconds - _QUIET:
        kind = chance.choices(KINDS, [kind.weight for kind in KINDS])[0]
        lasting = round(chance.uniform(*kind.seconds), 2)
        plan.append(Planned(round(at, 2), kind.name, chance.choice(targets[kind.targets]), lasting))
        at += chance.uniform(*_GAP)
    return plan
