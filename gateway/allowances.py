"""Allowances: how many calls users, tenants and addresses may make over all nodes; no call waits for Redis.

Each node has a bucket for whoever calls there, and lets calls pass by it. About once a second it tells Redis what
passed, and learns what is left for all: never more than it thought itself. So somebody at one node has the whole
allowance at once. At N nodes, each may let a burst and a second's worth pass before it hears of the others, and keeps
up to `WORTH` of a burst to itself: at most (N - 1) * (burst + rate) + N * burst / 32 calls too many. That is a debt,
and no gift: nothing passes anywhere until it is paid back.

While Redis is away each node limits by itself; what passed meanwhile is not made up for.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from backplane.allowances import Spent
from gateway.limits import Bucket

BURST = 5
"""Seconds' worth of calls that pass at once after a pause: a page that opens, an office that comes back from lunch."""
WORTH = 1 / 32
"""Part of a burst that is not worth a word: whoever calls now and then costs Redis next to nothing."""
IDLE = 60.0
"""Seconds after which a full bucket is forgotten."""
MOST = 20_000
"""Buckets that are kept of each kind; of whom nothing was heard for longest is forgotten first. About 8 MB."""
Caller = TypeVar("Caller", bound=Hashable)


class Allowance(Bucket):
    """What this node knows of one allowance."""

    __slots__ = ("_since", "_spent", "key")

    def __init__(self, key: str, rate: float, burst: float, clock: Callable[[], float], what: str) -> None:
        super().__init__(rate, burst, clock, what)
        self.key = key
        self._spent = 0
        self._since = 0.0

    def take(self) -> None:
        """Take one call out of it, as `Bucket.take`."""
        super().take()
        self._spend(1)

    def charge(self, calls: int) -> None:
        """Take out calls that pass in any case, as `Bucket.charge`."""
        super().charge(calls)
        self._spend(calls)

    def _spend(self, calls: int) -> None:
        if not self._spent:
            self._since = self._at
        self._spent += calls

    @property
    def is_due(self) -> bool:
        """Whether so many calls have passed that the other nodes should know."""
        return self._spent >= self._burst * WORTH

    def give_back(self) -> None:
        """Undo the last `take`: the call was refused for another reason."""
        self._left += 1.0
        self._spent = max(0, self._spent - 1)

    def report(self) -> Spent:
        """Return what passed since the last report. It is told once: a report that is lost is not made up for."""
        spent = Spent(self.key, self._spent, self._clock() - self._since, self._rate, self._burst)
        self._spent = 0
        return spent

    def settled(self, left: float) -> None:
        """Hear what was left for all nodes when the last report came in."""
        self._refill()
        self._left = min(self._left, left - self._spent)

    def is_idle(self) -> bool:
        """Tell whether it can be forgotten: it is full, and has been for long."""
        idle = self._clock() - self._at
        return idle > IDLE and self._left + idle * self._rate >= self._burst


class Allowances(Generic[Caller]):
    """The allowances of one kind, in bounded memory.

    Args:
        rate, what, clock: of each bucket; a rate of 0 is no limit.
        key: names the allowance of a caller in Redis.
        most: callers that are kept.
    """

    def __init__(
        self,
        rate: float,
        what: str,
        key: Callable[[Caller], str],
        clock: Callable[[], float] = time.monotonic,
        most: int = MOST,
    ) -> None:
        self._rate = rate
        self._what = what
        self._key = key
        self._clock = clock
        self._most = most
        self._of: OrderedDict[Caller, Allowance] = OrderedDict()
        self._due: dict[str, Allowance] = {}

    def __len__(self) -> int:
        return len(self._of)

    def take(self, caller: Caller) -> Allowance | None:
        """Take one call of somebody, who has a full bucket if nothing is known; return it, None without a limit.

        Raises:
            RateLimited: when it is empty; `retry_after_ms` says when the next call passes.
        """
        if not self._rate:
            return None
        allowance = self._find(caller)
        allowance.take()
        if allowance.is_due:
            self._due[allowance.key] = allowance
        return allowance

    def charge(self, caller: Caller, calls: int) -> None:
        """Take out calls of somebody that pass in any case."""
        if self._rate and calls > 0:
            allowance = self._find(caller)
            allowance.charge(calls)
            self._due[allowance.key] = allowance

    def _find(self, caller: Caller) -> Allowance:
        allowance = self._of.get(caller)
        if allowance is None:
            allowance = Allowance(self._key(caller), self._rate, self._rate * BURST, self._clock, self._what)
            self._of[caller] = allowance
            if len(self._of) > self._most:
                self._of.popitem(last=False)
        else:
            self._of.move_to_end(caller)
        return allowance

    def due(self) -> list[Allowance]:
        """Return those that other nodes should hear of, and forget who has been silent for long."""
        while self._of and next(iter(self._of.values())).is_idle():
            self._of.popitem(last=False)
        due, self._due = list(self._due.values()), {}
        return due
