"""The outbox of one turn: gathers its events into batches, in order, and never without bound.

A delta goes at once when nothing was sent for a while, so that the first word, and each word of a slow talker, comes
early; what follows closely is gathered for a few tens of milliseconds and joined. Anything that is not a delta goes at
once, with what waits before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from backplane.events import DELTAS, TEXT_DELTA, body
from backplane.turns import Batch

_BOUND = 256 * 1024
"""Characters that wait unsent before the agent has to wait; through a short outage of Redis it generates on."""


class Outbox:
    """Events on their way to the log.

    Args:
        send: appends one batch; called for one batch at a time.
        coalesce: seconds between two batches of deltas.
    """

    def __init__(self, send: Callable[[Batch], Awaitable[None]], coalesce: float) -> None:
        self._send = send
        self._coalesce = coalesce
        self._events: list[tuple[str, dict[str, Any]]] = []
        self._size = 0
        self._batches = 0
        self._sending: asyncio.Task[None] | None = None
        self._urgent = asyncio.Event()
        self._some = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._flushed = asyncio.Event()
        self._flushed.set()
        self.last_sent = asyncio.get_running_loop().time() - coalesce
        """When the last batch was sent, on the loop's clock (seconds)."""

    async def put(self, name: str, fields: dict[str, Any]) -> None:
        """Add an event; wait while too much is unsent."""
        await self._room.wait()
        if not self._joined(name, fields):
            self._events.append((name, fields))
        self._size += len(fields.get("delta") or "") or 1024
        if self._size >= _BOUND:
            self._room.clear()
        self._some.set()
        self._flushed.clear()
        if name not in DELTAS:
            self._urgent.set()

    def _joined(self, name: str, fields: dict[str, Any]) -> bool:
        if name not in DELTAS or not self._events:
            return False
        last_name, last = self._events[-1]
        if last_name != name or last["round"] != fields["round"]:
            return False
        if last.get("tool_call_id") != fields.get("tool_call_id"):
            return False
        last["delta"] += fields["delta"]
        return True

    def take(self) -> Batch:
        """Return what is unsent as the next batch, for the end of the turn."""
        self._batches += 1
        events, self._events, self._size = self._events, [], 0
        self._room.set()
        self._some.clear()
        self._urgent.clear()
        return Batch(
            self._batches,
            [(name, body(fields)) for name, fields in events],
            "".join(fields["delta"] for name, fields in events if name == TEXT_DELTA),
        )

    async def run(self) -> None:
        """Send batches until cancelled; end it by `stop`, which waits for the batch that is on its way."""
        loop = asyncio.get_running_loop()
        while True:
            await self._some.wait()
            # counted from the last batch, not from this delta: after a silence nothing is waited for
            wait = self.last_sent + self._coalesce - loop.time()
            if wait > 0 and not self._urgent.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._urgent.wait()
            self._sending = asyncio.create_task(self._send_now(), name="outbox-send")
            await asyncio.shield(self._sending)

    async def flush(self) -> None:
        """Wait until everything that was put is in the log."""
        if self._events:
            self._urgent.set()
        await self._flushed.wait()

    async def stop(self, running: asyncio.Task[None]) -> None:
        """End `run`. Afterwards no batch is on its way, so that `take` gives the last one."""
        running.cancel()
        await asyncio.wait([running])
        if self._sending is not None:
            await self._sending

    async def _send_now(self) -> None:
        self.last_sent = asyncio.get_running_loop().time()
        await self._send(self.take())
        if not self._events:
            self._flushed.set()
