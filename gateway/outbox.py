"""What waits for one client of Engine.IO, in order: written at once while its WebSocket keeps up, else kept."""

from __future__ import annotations

import asyncio
from collections import deque

from engineio import packet as wire  # type: ignore[import-untyped] # the library has no types

from gateway import frames
from gateway.websocket import WebSocket


class Outbox:
    """The queue of one session. It takes the place of an `asyncio.Queue`, and needs no task to be emptied.

    What is put in goes to the WebSocket in the same step when nothing waits before it; a poll takes all that waits.
    Its length is the measure of a slow client.
    """

    __slots__ = ("_ended", "_packets", "_taker", "_waiters", "websocket")

    def __init__(self) -> None:
        self.websocket: WebSocket | None = None
        """Where packets go; None while the session polls."""
        # None in place of what is empty: most sockets never have anything here, and an empty deque is 600 bytes
        self._packets: deque[wire.Packet] | None = None
        self._waiters: list[asyncio.Future[None]] | None = None
        self._taker: asyncio.Future[None] | None = None
        self._ended = False

    def qsize(self) -> int:
        """Return how many packets wait."""
        return len(self._packets) if self._packets else 0

    def size(self) -> int:
        """Return how many characters (or bytes) wait."""
        return sum(len(packet.data or "") for packet in self._packets or ())

    def empty(self) -> bool:
        """Tell whether none waits."""
        return not self._packets

    def put_nowait(self, packet: wire.Packet) -> None:
        """Send a packet behind all that wait. After the end it goes nowhere."""
        if self._ended:
            return
        websocket = self.websocket
        if websocket is not None and not self._packets and websocket.keeps_up:
            websocket.send(frames.write_frame(packet))
            return
        if self._packets is None:
            self._packets = deque()
        self._packets.append(packet)
        if self._taker is not None and not self._taker.done():
            self._taker.set_result(None)

    def attach(self, websocket: WebSocket) -> None:
        """Write to a WebSocket from now on, and first what waits."""
        self.websocket = websocket
        self.flush()

    def flush(self) -> None:
        """Write what waits, as far as the WebSocket takes it."""
        websocket = self.websocket
        if websocket is None:
            return
        while self._packets and websocket.keeps_up:
            websocket.send(frames.write_frame(self._packets.popleft()))
        if not self._packets and websocket.keeps_up:
            self._emptied()
            if self._ended:
                websocket.close()

    async def take(self) -> list[wire.Packet]:
        """Wait for packets, and take all that are there; none means that the session has ended."""
        if not self._packets and not self._ended:
            self._taker = asyncio.get_running_loop().create_future()
            try:
                await self._taker
            finally:
                self._taker = None
        taken = list(self._packets or ())
        self.clear()
        return taken

    async def join(self) -> None:
        """Wait until the client has got all that waited, or the session has ended."""
        while self._packets or (self.websocket is not None and not self.websocket.keeps_up):
            await self.emptied()

    async def emptied(self) -> None:
        """Wait until the client has got all that waits now, or the session has ended. More may wait by then."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        await waiter

    def clear(self) -> None:
        """Forget what waits: somebody else has it, or nobody can ask for it any more."""
        self._packets = None
        self._emptied()

    def end(self) -> None:
        """Take nothing more. What waits is still sent; then the WebSocket is closed, or the poll answered."""
        self._ended = True
        if self._taker is not None and not self._taker.done():
            self._taker.set_result(None)
        self.flush()

    def _emptied(self) -> None:
        self._packets = None
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)
