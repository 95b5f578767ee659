"""Nodes as far as they count calls, without a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backplane.connection import Backplane
from backplane.errors import RateLimited
from gateway.auth import Identity
from gateway.callers import Callers
from gateway.metrics import Metrics
from gateway.settler import Settler

ANN, BOB = Identity("ann", "default", None), Identity("bob", "default", None)
STRANGER = Identity("ann", "elsewhere", None)
NEVER_BEFORE = 10**14
"""Unix milliseconds: a time that no test lives to see, so that none has passed since then."""


class Clock:
    """Seconds that move when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def calls(take: Callable[[], object], times: int) -> int:
    """Call so many times; return how many passed."""
    passed = 0
    for _ in range(times):
        try:
            take()
        except RateLimited:
            continue
        passed += 1
    return passed


@dataclass
class Peer:
    """A node as far as it counts calls: the same clock as the other, settled when the test says so."""

    callers: Callers
    settler: Settler
    metrics: Metrics
    backplane: Backplane

    def calls(self, who: Identity, times: int) -> int:
        return calls(lambda: self.callers.take(who), times)

    async def settle(self) -> None:
        """Tell and hear. The store's clock stands still: else calls came back there while the test ran."""
        redis = self.backplane.redis
        async for key in redis.scan_iter(match=f"{self.backplane.keys.prefix}:calls:*"):
            told: Any = await redis.get(key)
            if told is not None:
                left = told.decode().partition(" ")[0]
                await redis.set(key, f"{left} {NEVER_BEFORE}", ex=60)
        await self.settler.settle()

    def limited(self, whose: str) -> float:
        return self.metrics.registry.get_sample_value("threadline_rate_limited_total", {"whose": whose}) or 0


def peer(backplane: Backplane, clock: Clock | None = None, **settings: Any) -> Peer:
    given = backplane.settings.model_copy(update={"user_calls_per_second": 0.0} | settings)
    metrics = Metrics()
    callers = Callers(given, metrics, clock or Clock())
    return Peer(callers, Settler(backplane.allowances, [callers.users, callers.tenants]), metrics, backplane)
