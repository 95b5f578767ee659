"""Presence: this node says who watches its threads, at once when that changes, and again before it is disbelieved.

It also learns what no message told it: that a thread which somebody watches was deleted, or begun anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import structlog

from backplane.connection import Backplane
from backplane.errors import ThreadlineError
from backplane.ids import ThreadRef
from backplane.presence import Watched
from gateway.room import Room
from gateway.rooms import Rooms

_log = structlog.get_logger("gateway.presence")
_PACE = 0.25
"""Seconds in which changes are gathered: however fast clients come and go, a thread is said that often at the most."""
_BATCH = 500
"""Threads that are said in one round trip."""


class Presence:
    """Says who watches here. A role of a node."""

    def __init__(self, backplane: Backplane, rooms: Rooms) -> None:
        self._backplane = backplane
        self._rooms = rooms
        self._changed: set[ThreadRef] = set()
        self._said: set[ThreadRef] = set()
        """Threads of which this node is believed to have watchers."""
        self._stirred = asyncio.Event()
        rooms.changed = self._note

    def _note(self, room: Room) -> None:
        self._changed.add(room.ref)
        self._stirred.set()

    async def run(self) -> None:
        """Say what changes, and all of it every `presence_interval`, until cancelled."""
        loop = asyncio.get_running_loop()
        interval = self._backplane.settings.presence_interval
        everything = loop.time() + interval
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, everything - loop.time())):
                    await self._stirred.wait()
                    await asyncio.sleep(_PACE)
            self._stirred.clear()
            if loop.time() >= everything:
                everything = loop.time() + interval
                self._changed |= self._said
            await self.say()

    async def say(self) -> None:
        """Say what has changed; what could not be said is said the next time."""
        refs = list(self._changed)
        self._changed.clear()
        for start in range(0, len(refs), _BATCH):
            batch = refs[start : start + _BATCH]
            try:
                await self._say(batch)
            except ThreadlineError as error:
                _log.warning("nobody could be told who watches", error=error.message)
                self._changed.update(refs[start:])
                return

    async def _say(self, refs: Sequence[ThreadRef]) -> None:
        here = [(ref, self._watchers(ref)) for ref in refs]
        here = [(ref, counts) for ref, counts in here if counts or ref in self._said]
        answers = await self._backplane.presence.say(here, self._said)
        for (ref, counts), answer in zip(here, answers, strict=True):
            if isinstance(answer, Exception):
                self._changed.add(ref)
                continue
            if counts and answer is not None:
                self._said.add(ref)
            else:
                self._said.discard(ref)
            self._check(ref, answer)

    def _watchers(self, ref: ThreadRef) -> dict[str, int]:
        room = self._rooms.get(ref)
        return {} if room is None else room.watchers()

    def _check(self, ref: ThreadRef, found: Watched | None) -> None:
        """See whether those who watch were left behind: every message about it may have been lost."""
        room = self._rooms.get(ref)
        if room is None or room.position is None:
            return
        if found is None:
            # deleted, or lost with the store and perhaps begun anew since: who comes back is told what is so
            room.lose_all("the thread is gone")
        elif found.epoch != room.position[0]:
            room.fill()

    async def leave(self) -> None:
        """Say that nobody watches here any more; when that fails, it is believed a little longer."""
        self._changed |= self._said
        await self.say()
