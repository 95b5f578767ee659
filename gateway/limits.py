"""How often somebody may call: token buckets, with the clock as an argument."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from backplane.errors import RateLimited
from backplane.settings import Settings

_ROUNDING = 1e-6
"""A part of a call: a client that comes back exactly when it was told to must pass."""
_FRAMES = 25
"""Frames that are read for each call that passes: what is refused costs the node something as well."""


class Bucket:
    """A bucket that holds `burst` calls and is refilled at `rate` calls a second.

    Args:
        rate: calls a second that pass for ever.
        burst: calls that pass at once after a pause.
        clock: seconds that never go back.
        what: is counted, for the message of a refusal.
    """

    __slots__ = ("_at", "_burst", "_clock", "_left", "_rate", "_what")

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic, what: str = "calls on one socket"
    ) -> None:
        self._rate = rate
        self._burst = max(1.0, burst)
        self._clock = clock
        self._what = what
        self._left = self._burst
        self._at = clock()

    @classmethod
    def of(cls, settings: Settings, clock: Callable[[], float] = time.monotonic) -> Bucket:
        """Return the bucket of one socket, by `calls_per_second` and `calls_burst`."""
        return cls(settings.calls_per_second, settings.calls_burst, clock)

    @classmethod
    def of_frames(cls, settings: Settings, clock: Callable[[], float] = time.monotonic) -> Bucket:
        """Return the bucket of what is read of one socket: 25 frames for each call that passes."""
        return cls(settings.calls_per_second * _FRAMES, settings.calls_burst * _FRAMES, clock, "frames on one socket")

    def take(self) -> None:
        """Take one call out of the bucket.

        A refused call costs nothing, so that a client which keeps knocking is let in when its time comes.

        Raises:
            RateLimited: when the bucket is empty; `retry_after_ms` says when the next call passes.
        """
        self._refill()
        if self._left < 1.0 - _ROUNDING:
            wait = max(1, math.ceil((1.0 - self._left) / self._rate * 1000))
            raise RateLimited(
                f"expected at most {self._rate:g} {self._what} a second, got more; send again in {wait} ms",
                retry_after_ms=wait,
            )
        self._left -= 1.0

    def charge(self, calls: int) -> None:
        """Take out calls that pass in any case; beyond what is there they are a debt, and nothing passes until then."""
        self._refill()
        self._left -= calls

    @property
    def debt(self) -> float:
        """Seconds until what was charged beyond the bucket is paid back."""
        return max(0.0, -self._left / self._rate)

    def _refill(self) -> None:
        now = self._clock()
        self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._rate)
        self._at = now
