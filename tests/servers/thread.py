"""A thread that a test runs by itself: it claims, says, and listens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from backplane.connection import Backplane
from backplane.errors import Unavailable
from backplane.events import body, decode_live
from backplane.ids import ThreadRef, thread_ref
from backplane.settings import Settings
from backplane.turns import Batch, Claim, Start, Verdict
from tests.fleet.conditions import eventually


class Ear:
    """Notes what it hears, and how often it may have missed something."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.epochs: list[str] = []
        self.misses = 0

    def heard(self, message: bytes) -> None:
        epoch, events = decode_live(message)
        self.epochs.append(epoch)
        self.offsets += [event.offset for event in events]

    def missed(self) -> None:
        self.misses += 1


class Thread:
    """One thread, and one turn of it."""

    def __init__(self, backplane: Backplane, name: str) -> None:
        self.backplane = backplane
        self.ref: ThreadRef = thread_ref(name)
        self.keys = backplane.keys.thread(self.ref)
        self.ear = Ear()
        self.claim: Claim
        self.batch = 0

    async def begin(self) -> None:
        """Start a turn, claim it, and listen."""
        started = await self.backplane.turns.start(self.ref, Start("q", "ann", "sid"))
        await self.backplane.live.subscribe(self.keys.live, self.ear)
        await self.take(started.request_id)

    async def take(self, request_id: str) -> None:
        claim = await self.backplane.turns.claim(self.keys.member(request_id), "worker")
        assert claim is not None
        self.claim, self.batch = claim, 0

    async def say(self, word: str = "w", through: Backplane | None = None) -> tuple[Verdict, int]:
        """Append one batch."""
        self.batch += 1
        events = [("text_delta", body({"delta": word, "round": 1}))]
        return await (through or self.backplane).turns.append(self.claim, Batch(self.batch, events, word))

    async def said(self, word: str = "w") -> int:
        """Append one batch, however long Redis takes to come back; return its offset."""
        self.batch += 1
        batch = Batch(self.batch, [("text_delta", body({"delta": word, "round": 1}))], word)

        async def look() -> int:
            try:
                verdict, offset = await self.backplane.turns.append(self.claim, batch)
            except Unavailable:
                return 0
            assert verdict == "ok"
            return offset

        return await eventually(look, "an append to be taken")

    async def hears(self, offset: int) -> None:
        """Wait until an offset was heard."""

        async def look() -> bool:
            return offset in self.ear.offsets

        await eventually(look, f"offset {offset} to be heard")


@asynccontextmanager
async def opened(url: str, **settings: Any) -> AsyncIterator[Backplane]:
    """Open a backplane of one process."""
    given = {"partitions": 12, "canary_interval": 0.2, "redis_timeout": 2.0} | settings
    async with Backplane.open(Settings(redis_url=url, **given)) as backplane:
        yield backplane


async def hearing(backplane: Backplane) -> None:
    """Wait until a process hears every primary."""

    async def look() -> bool:
        return not backplane.live.deaf

    await eventually(look, "every canary to be heard")
