"""Rooms: the threads that somebody on this node watches.

A room is opened by the first who asks for it, closed by the last who leaves, and read again when its turn runs and
every message about it may have been lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from backplane.connection import Backplane
from backplane.errors import NotFound, ThreadlineError
from backplane.ids import ThreadRef, new_id
from gateway.metrics import Metrics
from gateway.room import Room

_log = structlog.get_logger("gateway.rooms")
_IDLE_AT_ONCE = 32
"""Rooms without a turn that one poll reads too: those where every message about a new turn was lost are found in turn,
and an idle node's work does not grow with its rooms."""


class _Deaf:
    """Listens to a channel on which nothing is said."""

    def heard(self, message: bytes) -> None:
        """Hear nothing."""

    def missed(self) -> None:
        """Miss nothing."""


class Rooms:
    """All rooms of a node."""

    def __init__(self, backplane: Backplane, metrics: Metrics) -> None:
        self._backplane = backplane
        self._metrics = metrics
        self._rooms: dict[ThreadRef, Room] = {}
        self._opening: dict[Room, asyncio.Task[None]] = {}
        self._idle_read = 0
        self.changed: Callable[[Room], None] = lambda room: None
        """Called when somebody came to a room or left it."""

    def __len__(self) -> int:
        return len(self._rooms)

    def get(self, ref: ThreadRef) -> Room | None:
        """Return the room of a thread, if anybody on this node watches it."""
        return self._rooms.get(ref)

    @asynccontextmanager
    async def room(self, ref: ThreadRef) -> AsyncIterator[Room]:
        """Open the room of a thread for the length of this block; its channel is confirmed inside.

        Raises:
            Unavailable: when the channel was not confirmed in time.
        """
        room = self._rooms.get(ref)
        stood = room is not None
        if room is None:
            room = self._rooms[ref] = Room(
                self._backplane, self._metrics, ref, self._close, lambda room: self.changed(room)
            )
            self._opening[room] = asyncio.create_task(self._open(room), name=f"open-{ref}")
        room.hold()
        try:
            if (opening := self._opening.get(room)) is not None:
                await asyncio.shield(opening)
            yield room
        except NotFound:
            if stood:
                await self._as_if_opened(ref)
            raise
        finally:
            room.release()

    async def _as_if_opened(self, ref: ThreadRef) -> None:
        """Take as long as opening a room does: else a stranger would learn that somebody on this node watches it."""
        channel = self._backplane.keys.thread(ref).silent(new_id())
        await self._backplane.live.subscribe(channel, _Deaf())
        self._backplane.live.unsubscribe(channel)

    async def _open(self, room: Room) -> None:
        try:
            await self._backplane.live.subscribe(self._backplane.keys.thread(room.ref).live, room)
        except BaseException:
            self._close(room)  # before those who wait for it are told: whoever asks in between must not find it
            raise
        finally:
            self._opening.pop(room, None)

    def _close(self, room: Room) -> None:
        if self._rooms.get(room.ref) is room:
            del self._rooms[room.ref]
            if (opening := self._opening.pop(room, None)) is not None and opening is not asyncio.current_task():
                opening.cancel()
            self._backplane.live.unsubscribe(self._backplane.keys.thread(room.ref).live)

    async def poll(self) -> None:
        """Read the logs of threads whose turn runs, and of some others, every `poll_interval`, until cancelled.

        So that the end of a turn arrives although every message about it was lost, even that of its beginning.
        """
        while True:
            await asyncio.sleep(self._backplane.settings.poll_interval)
            try:
                await self.poll_once()
            except ThreadlineError as error:
                _log.warning("a poll failed", error=error.message)

    async def poll_once(self) -> None:
        """Read what is new in every thread whose turn runs, as far as this node knows, and in some of the others.

        Raises:
            Unavailable: when Redis did not answer.
        """
        rooms = [room for room in self._rooms.values() if room.active]
        watched = [(room, room.position) for room in [*rooms, *self._some_idle()]]
        asked = [(room, position) for room, position in watched if position is not None]
        pages = await self._backplane.log.read_many([(room.ref, *position) for room, position in asked])
        for (room, position), page in zip(asked, pages, strict=True):
            stands = page is not None and room.position is not None and room.position[0] == position[0]
            if page is not None and stands and room.take(page):
                room.fill()

    def _some_idle(self) -> list[Room]:
        idle = [room for room in self._rooms.values() if not room.active]
        first = self._idle_read % max(len(idle), 1)
        self._idle_read = first + _IDLE_AT_ONCE
        return [*idle[first:], *idle[:first]][:_IDLE_AT_ONCE]

    def lose_all(self, reason: str) -> None:
        """Tell every member on this node to come back with its cursor."""
        for room in list(self._rooms.values()):
            room.lose_all(reason)
