"""A thread that is watched on one node, without a socket: the test itself runs its turn."""

from __future__ import annotations

import asyncio

from backplane.connection import Backplane
from backplane.events import Event, body
from backplane.ids import thread_ref
from backplane.turns import Batch, Claim, Ending, Start
from gateway.metrics import Metrics
from gateway.room import Joined, Room
from gateway.rooms import Rooms

REF = thread_ref("room")


class Watcher:
    """A member that notes what it gets."""

    def __init__(self) -> None:
        self.rooms: set[Room] = set()
        self.gone = False
        self.events: list[Event] = []
        self.lost: list[str] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.dead = False

    def send(self, event: Event) -> bool:
        self.events.append(event)
        return self.reads.is_set()

    async def drained(self) -> bool:
        await self.reads.wait()
        return not self.dead

    def lose(self, reason: str) -> None:
        self.lost.append(reason)

    @property
    def named(self) -> list[str]:
        """The names of all that it was sent."""
        return [event.name for event in self.events]

    @property
    def offsets(self) -> list[int]:
        """Every offset that it was sent, merged ones spelt out."""
        covered: list[int] = []
        for event in self.events:
            covered += range(event.fields.get("first_offset", event.offset), event.offset + 1)
        return covered


class Thread:
    """A turn that the test itself runs, and the rooms of one node."""

    def __init__(self, backplane: Backplane) -> None:
        self.backplane = backplane
        self.metrics = Metrics()
        self.rooms = Rooms(backplane, self.metrics)
        self.claim: Claim
        self.batch = 0

    async def start(self) -> None:
        started = await self.backplane.turns.start(REF, Start("q", "ann", "sid"))
        claim = await self.backplane.turns.claim(self.backplane.keys.thread(REF).member(started.request_id), "w")
        assert claim is not None
        self.claim, self.batch = claim, 0

    async def say(self, *words: str) -> int:
        self.batch += 1
        events = [("text_delta", body({"delta": word, "round": 1})) for word in words]
        _, offset = await self.backplane.turns.append(self.claim, Batch(self.batch, events, "".join(words)))
        return offset

    async def finish(self) -> None:
        ending = Ending("done", "chat_done", body({"full_response": ""}), "")
        await self.backplane.turns.finish(self.claim, Batch(self.batch + 1, []), ending)

    async def join(self, member: Watcher, cursor: tuple[str, int] | None = None, subject: str = "ann") -> Joined:
        async with self.rooms.room(REF) as room:
            return await room.join(member, subject, cursor, 50)

    @property
    def room(self) -> Room:
        room = self.rooms.get(REF)
        assert room is not None
        return room
