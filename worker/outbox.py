"""The outbox of one turn: gathers its events into batches, in order, and never without bound.

It has no task and no timer of its own. It offers what it holds to the appender of the worker, which takes a batch
from it when the time has come: at once when nothing was sent for a while, so that the first word, and each word of a
slow talker, comes early; what follows closely is gathered for a few tens of milliseconds and joined. Anything that is
not a delta goes at once, with what waits before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from backplane.events import TEXT_DELTA, body, quoted
from backplane.turns import Batch, Claim, Verdict

_BOUND = 256 * 1024
"""Characters that wait unsent before the agent has to wait; through a short outage of Redis it generates on."""
_LEAST = 64
"""Characters that an event counts for at least, so that many small ones are bounded too."""


class Post(Protocol):
    """Who takes the batches away."""

    def offer(self, outbox: Outbox, *, urgent: bool) -> None:
        """Hear that an outbox has something to send, and whether that may wait for more."""


@dataclass(slots=True)
class _Entry:
    """One event that waits: text that is still growing, or the whole inside of a JSON object."""

    name: str
    key: object
    """What two deltas must have in common to be joined; None for what is no delta."""
    inside: str
    """Of a delta, what stands behind its text."""
    pieces: list[str]

    @property
    def fields(self) -> str:
        if self.key is None:
            return self.inside
        return f'"delta":{quoted("".join(self.pieces))},{self.inside}'


class Outbox:
    """Events on their way to the log.

    Args:
        claim: the turn, and the right to append to it.
        post: takes the batches, one at a time.
        told: takes the verdict of each.
    """

    def __init__(self, claim: Claim, post: Post, told: Callable[[Verdict], None]) -> None:
        self.claim = claim
        self._post = post
        self._told = told
        self._loop = asyncio.get_running_loop()
        self._entries: list[_Entry] = []
        self._size = 0
        self._batches = 0
        self._urgent = False
        self._offered = False
        self._on_its_way = False
        self._closed = False
        self._waiting: list[asyncio.Future[None]] = []
        self.last_sent = float("-inf")
        """When the last batch was taken, on the loop's clock (seconds)."""

    @property
    def is_full(self) -> bool:
        """Whether too much is unsent: who adds more waits for `moved` first."""
        return self._size >= _BOUND

    @property
    def is_due(self) -> bool:
        """Whether a batch can be taken now."""
        return bool(self._entries) and not self._on_its_way and not self._closed

    # --- from the turn ---------------------------------------------------------------------------------

    def put(self, name: str, fields: dict[str, Any]) -> None:
        """Add an event that is no delta; it goes at once.

        Raises:
            ValueError, TypeError: when the fields are not JSON.
        """
        inside = body(fields)
        self._add(_Entry(name, None, inside, []), len(inside))
        self._urgent = True
        self._offer()

    def put_delta(self, name: str, delta: str, key: object, inside: str) -> None:
        """Add a piece of text. Neighbours of one name and one key are joined.

        Args:
            name: of the event.
            delta: the text, without lone surrogates.
            key: what two of them must have in common, such as their round.
            inside: what stands behind the text in the JSON object.
        """
        last = self._entries[-1] if self._entries else None
        if last is not None and last.key == key and last.name == name:
            last.pieces.append(delta)
            self._size += len(delta)
        else:
            self._add(_Entry(name, key, inside, [delta]), len(delta))
        if not self._offered:
            self._offer()

    async def moved(self) -> None:
        """Wait until there is room again."""
        while self.is_full:
            await self._change()

    async def flush(self) -> None:
        """Wait until everything that was put is in the log."""
        while self._entries or self._on_its_way:
            if self._entries and not self._urgent:
                self._urgent = True
                self._offer()
            await self._change()

    async def close(self) -> None:
        """Offer no more, and wait for the batch that is on its way, so that `take` gives the last one."""
        self._closed = True
        while self._on_its_way:
            await self._change()

    def _add(self, entry: _Entry, size: int) -> None:
        self._entries.append(entry)
        self._size += max(size, _LEAST)

    def _offer(self) -> None:
        if self.is_due:  # else it is offered again when the batch that is on its way has arrived
            self._offered = True
            self._post.offer(self, urgent=self._urgent)

    def _change(self) -> asyncio.Future[None]:
        changed = self._loop.create_future()
        self._waiting.append(changed)
        return changed

    # --- from the post ---------------------------------------------------------------------------------

    def take(self) -> Batch:
        """Return what is unsent as the next batch."""
        self._batches += 1
        entries, self._entries, self._size = self._entries, [], 0
        self._urgent = self._offered = False
        return Batch(
            self._batches,
            [(entry.name, entry.fields) for entry in entries],
            "".join(["".join(entry.pieces) for entry in entries if entry.name == TEXT_DELTA]),
        )

    def send(self) -> Batch:
        """Return the next batch, which is on its way from now on."""
        self._on_its_way = True
        self.last_sent = self._loop.time()
        return self.take()

    def sent(self, verdict: Verdict) -> None:
        """Hear that the batch is in the log, or was refused, and offer what has come since."""
        self._on_its_way = False
        self._told(verdict)
        waiting, self._waiting = self._waiting, []
        for changed in waiting:
            if not changed.done():
                changed.set_result(None)
        self._offer()
