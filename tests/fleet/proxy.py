"""A TCP proxy between any two processes, that can be told to do them harm.

cut       every connection is reset; `refuse` also takes no new ones
hole      bytes stop, in one direction or both, and no connection breaks: as when a cable is pulled. What was sent
          comes when the hole closes, as TCP would send it again
swallow   bytes of one direction are lost for good; cut the connections before it ends, for they make no sense then
delay     each piece is late
lose      messages of pub/sub are dropped one by one, as pub/sub may
hold      the next piece that holds certain bytes stops, and all behind it on that connection, until it is let go
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

import hiredis

HOST = "127.0.0.1"
_CHUNK = 65_536
Direction = Literal["to", "from"]
"""Towards the process that is connected to, or back from it."""
BOTH: tuple[Direction, ...] = ("to", "from")
Loses = Callable[[bytes, bytes], bool]
"""Tells by channel and message whether a message of pub/sub is lost."""


class Proxy:
    """Passes bytes on to a port of this machine, as long as its context is entered.

    Args:
        to: that port.
    """

    def __init__(self, to: int) -> None:
        self.to = to
        self.port = 0
        self.delay = 0.0
        """Seconds that each piece is late."""
        self.swallowed: frozenset[Direction] = frozenset()
        """Directions in which bytes are lost."""
        self.lose: Loses | None = None
        """Which messages of pub/sub are lost."""
        self.lost = 0
        """How many were."""
        self._server: asyncio.Server | None = None
        self._open: dict[Direction, asyncio.Event] = {direction: asyncio.Event() for direction in BOTH}
        for way in self._open.values():
            way.set()
        self._wanted: bytes | None = None
        self._caught = asyncio.Event()
        self._let_go = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many connections pass through it."""
        return len(self._writers) // 2

    # --- harm ------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Reset every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def refuse(self) -> None:
        """Reset every connection and take no new one."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    async def accept(self) -> None:
        """Take connections again."""
        if self._server is None:
            await self._listen()

    def hole(self, *directions: Direction) -> None:
        """Let nothing pass, in these directions or both, until `close_hole`."""
        for direction in directions or BOTH:
            self._open[direction].clear()

    def close_hole(self) -> None:
        """Let everything pass that waits."""
        for way in self._open.values():
            way.set()

    def hold(self, wanted: bytes) -> None:
        """Stop the next piece towards the other side that has these bytes, and what follows it there."""
        self._caught.clear()
        self._let_go.clear()
        self._wanted = wanted

    async def caught(self) -> None:
        """Wait until there is such a piece."""
        await self._caught.wait()

    def let_go(self) -> None:
        """Let it pass."""
        self._wanted = None
        self._let_go.set()

    async def heal(self) -> None:
        """Do no more harm."""
        if self.swallowed:
            self.cut()
        self.delay, self.swallowed, self.lose = 0.0, frozenset(), None
        self.let_go()
        self.close_hole()
        await self.accept()

    # --- passing on ------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accepted, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection(HOST, self.to)
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, there_writer)
        self._writers.update(pair)
        ways = (
            asyncio.create_task(self._pass(reader, there_writer, "to")),
            asyncio.create_task(self._pass(there_reader, writer, "from")),
        )
        self._tasks.update(ways)
        for way in ways:
            way.add_done_callback(self._tasks.discard)
            way.add_done_callback(lambda _: self._writers.difference_update(pair))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        parser, tail = None, b""
        try:
            while data := await reader.read(_CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if direction == "to":
                    await self._held(tail, data)
                    tail = data
                await self._open[direction].wait()
                if direction in self.swallowed:
                    continue
                if direction == "from" and (parser is not None or _subscribed(data)):
                    parser = parser or hiredis.Reader()
                    data = self._without_lost(parser, data)
                writer.write(data)
                await writer.drain()
        except (OSError, RuntimeError):  # uvloop's word for a transport that was cut while this waited
            writer.transport.abort()
        finally:
            with suppress(OSError):
                writer.close()

    async def _held(self, before: bytes, data: bytes) -> None:
        # what is waited for may lie across two pieces
        if (wanted := self._wanted) is not None and wanted in before[-len(wanted) + 1 :] + data:
            self._wanted = None
            self._caught.set()
            await self._let_go.wait()

    def _without_lost(self, parser: hiredis.Reader, data: bytes) -> bytes:
        """Return the messages of a subscribed connection, without those that are lost."""
        parser.feed(data)
        passed = []
        while (reply := parser.gets()) is not False:
            if self.lose is not None and reply[0] == b"smessage" and self.lose(reply[1], reply[2]):
                self.lost += 1
                continue
            passed.append(_packed(reply))
        return b"".join(passed)


def _subscribed(data: bytes) -> bool:
    """Whether a connection begins to be one that listens: from its first confirmation on it carries messages only."""
    return data.startswith(b"*3\r\n$10\r\nssubscribe\r\n")


def _packed(reply: list[bytes | int]) -> bytes:
    parts = [b":%d\r\n" % part if isinstance(part, int) else b"$%d\r\n%s\r\n" % (len(part), part) for part in reply]
    return b"*%d\r\n" % len(reply) + b"".join(parts)
