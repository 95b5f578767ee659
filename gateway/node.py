"""A node: whether it takes clients, and how it goes."""

from __future__ import annotations

import asyncio

from backplane.connection import Backplane
from backplane.errors import ThreadlineError
from gateway.degraded import Degraded

_PING_TIMEOUT = 1.0
"""Seconds that Redis may take for the round trip of a readiness check."""


class Node:
    """The state of this gateway process."""

    def __init__(self, backplane: Backplane) -> None:
        self._backplane = backplane
        self.draining = False
        """True from the moment that it was told to stop."""
        self.degraded = Degraded(lambda: backplane.live.deaf)
        """What clients are told when Redis is away."""

    async def unready_because(self) -> list[str]:
        """Return why clients must not be sent here; empty when it is ready.

        Ready means: not stopping, a round trip through Redis works, and so does the live path (its canary).
        """
        reasons = []
        if self.draining:
            reasons.append("draining")
        if self._backplane.live.deaf:
            reasons.append("deaf: the live path is not heard")
        if reasons:
            return reasons  # at once: a probe's own time-out may be shorter than the wait for a Redis that hangs
        try:
            async with asyncio.timeout(_PING_TIMEOUT):
                await self._backplane.ping()
        except (ThreadlineError, TimeoutError):
            reasons.append("no answer from Redis")
        return reasons
