"""Degraded: tells the clients of this node when it has lost Redis, and when it has it again.

The log cannot carry this: without Redis there is nothing to write it to. So each node tells those who are connected to
it, once at the loss and once at the return. What a worker generates meanwhile waits there, and comes afterwards.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from backplane.events import Event, dumps

DEGRADED = "degraded"
_log = structlog.get_logger("gateway.degraded")
_LOOK_EVERY, _LOOK_CLOSELY = 0.5, 0.1
"""Seconds between two looks while all is as clients know it, and while it is not: an idle node seldom wakes."""
_PATIENCE = 1.0
"""Seconds without Redis before anybody is told, and with it before its return is: a connection that is made again
takes less, and a Redis that comes back may falter once more."""


class Reader(Protocol):
    """Somebody who is connected to this node: a socket, or a stream of server-sent events."""

    def send(self, event: Event) -> bool:
        """Take one event. Must not block, and must not raise."""


class Degraded:
    """Whether this node has lost Redis, as its clients know it.

    Args:
        deaf: whether the live path is not heard now; its canary goes through both connections to Redis.
        clock: seconds, for how long.
    """

    def __init__(self, deaf: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._deaf = deaf
        self._clock = clock
        self._otherwise_from: float | None = None
        self._readers: set[Reader] = set()
        self.since: int | None = None
        """Since when (Unix milliseconds, this node's clock); None while all is well."""

    @property
    def readers(self) -> list[Reader]:
        """Those who are told."""
        return list(self._readers)

    def add(self, reader: Reader) -> None:
        """Tell a reader from now on, and at once if Redis is away."""
        self._readers.add(reader)
        if self.since is not None:
            reader.send(_notice(True, self.since))

    def remove(self, reader: Reader) -> None:
        """Tell it nothing more."""
        self._readers.discard(reader)

    async def run(self) -> None:
        """Look, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_LOOK_EVERY if self._otherwise_from is None else _LOOK_CLOSELY)

    def look(self) -> None:
        """Compare what clients know with what is, and tell them when it has changed."""
        now = self._clock()
        if self._deaf() is (self.since is not None):
            self._otherwise_from = None
            return
        if self._otherwise_from is None:
            self._otherwise_from = now
        lasted = now - self._otherwise_from
        if lasted < _PATIENCE:
            return
        self._otherwise_from = None
        if self.since is None:
            self.since = round((time.time() - lasted) * 1000)
            self._tell(True, self.since)
        else:
            since, self.since = self.since, None
            self._tell(False, since)

    def _tell(self, active: bool, since: int) -> None:
        _log.warning("Redis is away" if active else "Redis is back", readers=len(self._readers))
        notice = _notice(active, since)
        for reader in self.readers:
            reader.send(notice)


def _notice(active: bool, since: int) -> Event:
    """Return an event without an offset: it has no place in any log."""
    return Event(0, DEGRADED, dumps({"active": active, "since": since}).encode())
