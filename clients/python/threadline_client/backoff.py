"""When to try again: at once, then later and later, at random so that a crowd does not come back as one."""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST = 0.1
"""Seconds; a gateway that restarts needs about this long to listen again."""
LONGEST = 5.0
"""Seconds; a person who waits for the network to come back should not wait much longer than it takes."""


class Backoff:
    """Gives the next delay in seconds: 0, then a random part of a ceiling that doubles ("full jitter").

    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    def __init__(self, *, at_once: bool = True, chance: Callable[[], float] = random.random) -> None:
        self._first = 0 if at_once else 1
        self._chance = chance
        self._tries = self._first

    def delay(self) -> float:
        """Return how long to wait before the next attempt, 0 to `LONGEST` seconds."""
        tries, self._tries = self._tries, self._tries + 1
        if tries == 0:
            return 0.0
        ceiling: float = min(LONGEST, FIRST * 2.0 ** min(tries - 1, 16))
        # Never below a quarter: a delay of almost nothing, drawn twice in a row, is a busy loop.
        return ceiling * (0.25 + 0.75 * self._chance())

    def reset(self) -> None:
        """Forget the failures: something worked."""
        self._tries = self._first
