"""Allowances: how many calls somebody may make over all nodes, counted in Redis afterwards.

No call waits for Redis. A node lets calls pass by what it knows, tells Redis about once a second how many there
were, and learns what is left for all (gateway/settler.py). Each allowance is a key of its own without a hash tag, so
that on a Cluster they are spread over all shards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backplane.scripts import Call

if TYPE_CHECKING:
    from backplane.connection import Backplane

KEPT = 10
"""Seconds for which a full allowance is kept: while one node settles, another may have calls of the same second."""
_AT_ONCE = 500
"""Allowances of one round trip."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Calls that one node let pass since it told of them last."""

    key: str
    """Of the allowance, from backplane/keys.py."""
    calls: int
    seconds: float
    """In which they passed."""
    rate: float
    """Calls a second that come back."""
    most: float
    """Calls that pass at once."""


class Allowances:
    """Settles allowances between nodes."""

    def __init__(self, backplane: Backplane) -> None:
        self._backplane = backplane

    async def settle(self, spent: Sequence[Spent]) -> list[float | None]:
        """Take calls out of their allowances, and return what is left of each: below zero when nodes let pass too much.

        None stands for one that failed. When a reply is lost, its calls may be taken twice.

        Raises:
            Unavailable: when Redis did not answer.
        """
        left: list[float | None] = []
        for start in range(0, len(spent), _AT_ONCE):
            calls = [_call(each) for each in spent[start : start + _AT_ONCE]]
            left += [_left(answer) for answer in await self._backplane.run_many(calls)]
        return left


def _call(spent: Spent) -> Call:
    within = math.ceil(spent.seconds * 1000)
    return Call("settle", [spent.key], [spent.calls, repr(spent.rate), repr(spent.most), within, KEPT * 1000])


def _left(answer: object) -> float | None:
    return float(answer) if isinstance(answer, bytes) else None
