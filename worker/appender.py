"""The appender: one pipeline and one beat for the appends of all turns of a worker.

What cannot wait is sent at once. What may be gathered waits for the next beat, which is the same for all turns, so
that those who talk at the same time share a round trip. While one round trip is under way, others gather and leave
together in the next one. So the round trips do not grow with the turns.

The beat is slower while many talk at once: each frame then carries more, and a store, a node and a browser have fewer
of them to handle. It begins at `coalesce`, and is never slower than `_SLOWEST` times that.

What was not taken is sent again after a pause, and what others say meanwhile does not wait for it: the shard of a
Cluster that is away is not theirs.
"""

from __future__ import annotations

import asyncio

import structlog

from backplane.connection import Backplane
from backplane.errors import Unavailable
from backplane.turns import Batch, verdict
from worker.outbox import Outbox

_log = structlog.get_logger("worker.appender")
_BACKOFF_FIRST, _BACKOFF_MOST = 0.05, 0.5
_AT_ONCE = 256
_SLOWEST = 2.5
"""50 ms by default: twenty frames a second look like a flow, and nobody reads as fast."""
_FASTEST_FOR = 3
"""Turns that talk at once up to which the beat is not slowed: at 20 ms, 150 appends a second."""


class Appender:
    """Appends batches, and answers each with its verdict. A batch keeps its number when it is sent again."""

    def __init__(self, backplane: Backplane) -> None:
        self._backplane = backplane
        self._loop = asyncio.get_running_loop()
        self._fastest = backplane.settings.coalesce
        self._ready: dict[Outbox, None] = {}
        self._gathering: list[Outbox] = []
        self._beat: asyncio.TimerHandle | None = None
        self._again: list[tuple[Outbox, Batch]] = []
        """Batches to send again, one of an outbox at the most."""
        self._pause: asyncio.TimerHandle | None = None
        """Until when they wait."""
        self._work = asyncio.Event()
        self.window = self._fastest
        """Seconds between two beats."""

    def offer(self, outbox: Outbox, *, urgent: bool) -> None:
        """Take a batch from an outbox: at once if it is urgent or the first for a while, else at the next beat."""
        # counted from the last batch, not from this delta: after a silence nothing is waited for
        wait = 0.0 if urgent else outbox.last_sent + self.window - self._loop.time()
        if wait <= 0:
            self._ready[outbox] = None
            self._work.set()
            return
        self._gathering.append(outbox)
        if self._beat is None:
            self._beat = self._loop.call_later(wait, self._send_gathered)

    def _send_gathered(self) -> None:
        gathered, self._gathering, self._beat = self._gathering, [], None
        self.window = self._fastest * min(max(len(gathered) / _FASTEST_FOR, 1.0), _SLOWEST)
        self._ready.update(dict.fromkeys(gathered))
        self._work.set()

    async def run(self) -> None:
        """Send what waits, until cancelled."""
        pause = _BACKOFF_FIRST
        while True:
            await self._work.wait()
            again = [] if self._pause else self._again[:_AT_ONCE]
            self._again = self._again[len(again) :]
            refused = await self._send(again + self._next(_AT_ONCE - len(again)))
            self._again += refused
            if not self._again:
                pause = _BACKOFF_FIRST
            elif self._pause is None and refused:
                self._pause = self._loop.call_later(pause, self._pause_is_over)
                pause = min(pause * 2, _BACKOFF_MOST)
            elif self._pause is None:
                self._work.set()

    def _pause_is_over(self) -> None:
        self._pause = None
        self._work.set()

    def _next(self, most: int) -> list[tuple[Outbox, Batch]]:
        ready = list(self._ready)
        self._ready = dict.fromkeys(ready[most:])
        if not self._ready:
            self._work.clear()
        # one that is both urgent and gathered is met twice, and one that was closed has nothing to send any more
        return [(outbox, outbox.send()) for outbox in ready[:most] if outbox.is_due]

    async def _send(self, items: list[tuple[Outbox, Batch]]) -> list[tuple[Outbox, Batch]]:
        """Send batches in one round trip; return those to send again."""
        if not items:
            return []
        calls = [self._backplane.turns.append_call(outbox.claim, batch) for outbox, batch in items]
        try:
            answers = await self._backplane.run_many(calls)
        except Unavailable as error:
            _log.warning("appends are held back", batches=len(items), error=error.message)
            return items
        again = []
        for (outbox, batch), answer in zip(items, answers, strict=True):
            if isinstance(answer, Exception):
                named = {"thread_id": outbox.claim.ref.thread_id, "request_id": outbox.claim.request_id}
                _log.warning("an append was refused; sending it again", **named, error=repr(answer))
                again.append((outbox, batch))
            else:
                outbox.sent(verdict(answer)[0])
        return again
