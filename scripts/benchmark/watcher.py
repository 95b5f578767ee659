"""A client that costs next to nothing: it walks the frames where they lie, and counts.

Nothing is allocated for a frame but the numbers that are read from it. `__main__ self-test` shows how many events a
second one process takes, so that a table never measures its own client.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any, Literal, NamedTuple, cast

from scripts.benchmark.frames import CONNECT, PONG, call, frame, upgrade
from scripts.benchmark.tally import GRAIN, Tally

Style = Literal["threadline", "plain"]
"""How a client joins: `thread:subscribe` with a cursor, or the event `join` of the servers compared with."""

_DELTA = b'42["text_delta",'
_OFFSET = b'"offset":'
_FIRST = b'"first_offset":'
_TEXT = b'"delta":"'
_PATIENCE = 30.0
"""Seconds for a handshake and a join, in the middle of a storm."""
_PING_OPCODE, _PONG_OPCODE, _CLOSE_OPCODE = 0x89, 0x0A, 0x88


class Target(NamedTuple):
    """Whom a watcher connects to, and what it watches from where."""

    host: str
    port: int
    thread: str
    epoch: str | None = None
    after: int = 0


class Refused(Exception):
    """A server did not let a client in, or did not take its call."""


class _Link(asyncio.Protocol):
    """One connection of a watcher. What an older one still has to say is not heard any more."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._watcher.opened(self, cast(asyncio.Transport, transport))  # uvloop's is not of that class

    def data_received(self, data: bytes) -> None:
        if self._watcher.link is self:
            self._watcher.read(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._watcher.link is self:
            self._watcher.lost()


class Watcher:
    """One socket that watches one thread; without a thread, it is only connected and calls what it is told to.

    Args:
        target: where it connects, and its first cursor.
        style: how it joins.
        tally: where it counts; shared by all watchers of the process.
        returns: whether it comes back by itself when the server closes its connection, with its cursor.
    """

    def __init__(self, target: Target, style: Style, tally: Tally, *, returns: bool = False) -> None:
        self.link: _Link | None = None
        self.target = target
        self.epoch = target.epoch
        self.last = target.after
        self.frames = 0
        """Frames with deltas since it was connected."""
        self.frames_to_join = 0
        """Those of them that came before the acknowledgement of its join: what it had missed."""
        self.joined = False
        self._style = style
        self._tally = tally
        self._returns = returns
        self._returning: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._open = False
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._ready: asyncio.Future[None] | None = None
        self._delta: asyncio.Future[float] | None = None

    # --- coming and going ------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect, and join the thread.

        Raises:
            Refused: the server closed the connection, or refused the join.
            OSError: nobody listens there; as a TimeoutError, nobody answered.
        """
        loop = asyncio.get_running_loop()
        self._rest, self._open, self.joined, self.frames = b"", False, False, 0
        self._ready = loop.create_future()
        try:
            async with asyncio.timeout(_PATIENCE):
                await loop.create_connection(lambda: _Link(self), self.target.host, self.target.port)
                await self._ready
                if self.target.thread:
                    await self._join()
        except BaseException:
            self._abort()
            raise
        self.joined = True

    async def _join(self) -> None:
        if self._style == "plain":
            await self.call("join", {"thread_id": self.target.thread})
            return
        cursor: dict[str, Any] = {} if self.epoch is None else {"epoch": self.epoch, "after": self.last}
        answer = await self.call("thread:subscribe", {"thread_id": self.target.thread, "history": 0, **cursor})
        # what was missed came before the answer, so from here on nothing may be missing
        if answer["recovered"] and answer["offset"] > self.last:
            self._tally.lost += answer["offset"] - self.last
        self._tally.told += answer["recovered"] is False
        # what followed the answer in the same read has been counted already
        self.epoch, self.last = answer["epoch"], max(self.last, answer["offset"])
        self.frames_to_join = self.frames

    def drop(self) -> None:
        """Break the connection off, as a lost network does."""
        if self._returning is not None:
            self._returning.cancel()
        self._abort()

    def _abort(self) -> None:
        self.link = None
        if self._transport is not None:
            self._transport.abort()
        self._fail_all("the connection was broken off")

    async def call(self, event: str, payload: dict[str, Any]) -> Any:
        """Send an event and return its acknowledgement.

        Raises:
            Refused: it was answered with an error, or the connection ended before.
        """
        if self._transport is None or self._transport.is_closing():
            raise Refused("not connected")
        self._number += 1
        self._calls[self._number] = answered = asyncio.get_running_loop().create_future()
        self._transport.write(call(self._number, event, payload))
        answer = await answered
        if not answer.get("ok"):
            raise Refused(f"{event}: {answer}")
        return answer

    def next_delta(self) -> asyncio.Future[float]:
        """Return what becomes the time at which the next delta came."""
        self._delta = asyncio.get_running_loop().create_future()
        return self._delta

    def opened(self, link: _Link, transport: asyncio.Transport) -> None:
        """Take a new connection, and ask for a WebSocket."""
        self.link, self._transport = link, transport
        self._transport.write(upgrade(self.target.host, self.target.port))

    def lost(self) -> None:
        """Fail what waits, and come back if that was agreed."""
        self.link = None
        self._fail_all("the server closed the connection")
        self._tally.closed += 1
        if self._returns and self.joined:
            self._returning = asyncio.ensure_future(self._return())

    async def _return(self) -> None:
        while True:
            await asyncio.sleep(random.uniform(0.2, 0.6))
            try:
                await self.connect()
                return
            except (OSError, Refused):
                continue

    # --- frames ----------------------------------------------------------------------------------------

    def read(self, data: bytes) -> None:
        """Walk the frames of one read; what is left of the last one waits for the next."""
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        if not self._open and not (at := self._read_answer(data)):
            self._rest = data
            return
        while end - at >= 2:
            size, start = data[at + 1], at + 2
            if size > 125:
                start = at + (4 if size == 126 else 10)
                if end < start:
                    break
                size = int.from_bytes(data[at + 2 : start], "big")
            stop = start + size
            if stop > end:
                break
            if data.startswith(_DELTA, start):
                self._count(data, start, stop)
            else:
                self._read(data[at], data[start:stop])
            at = stop
        self._rest = data[at:] if at < end else b""

    def _count(self, data: bytes, start: int, stop: int) -> None:
        tally = self._tally
        place = data.find(_OFFSET, start, stop) + 9
        offset = int(data[place : data.find(b",", place, stop)])
        if offset != self.last + 1:
            self._jump(offset, data[start:stop])
        self.last = offset
        text = data.find(_TEXT, place, stop)
        if text < 0:
            text = data.find(_TEXT, start, stop)
        text += 9
        tally.letters += data.find(b'"', text, stop) - text
        tally.frames += 1
        tally.bytes += stop - start
        self.frames += 1
        if data[text] == 64:  # @: it carries its time
            bucket = int((time.time() - float(data[text + 1 : text + 18])) / GRAIN)
            tally.latencies[bucket] = tally.latencies.get(bucket, 0) + 1
        if self._delta is not None:
            self._delta.set_result(time.time())
            self._delta = None

    def _jump(self, offset: int, text: bytes) -> None:
        """Judge an offset that is not the next: a merged delta says where it begins."""
        place = text.find(_FIRST)
        first = int(text[place + len(_FIRST) :].split(b",", 1)[0].rstrip(b"}]")) if place >= 0 else offset
        if first <= self.last:
            self._tally.doubled += 1
        else:
            self._tally.lost += first - self.last - 1

    def _read_answer(self, data: bytes) -> int:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return 0
        if not data.startswith(b"HTTP/1.1 101"):
            self._fail(f"no WebSocket: {data[:60]!r}")
            return len(data)
        self._open = True
        return end + 4

    def _read(self, head: int, payload: bytes) -> None:
        if head == _PING_OPCODE:
            self._write(frame(payload, _PONG_OPCODE))
        elif head == _CLOSE_OPCODE:
            if self._transport is not None:
                self._transport.close()
        elif payload == b"2":
            self._write(frame(PONG))
        elif payload.startswith(b"0"):
            self._write(frame(CONNECT))
        elif payload.startswith(b"40"):
            if self._ready is not None and not self._ready.done():
                self._ready.set_result(None)
        elif payload.startswith(b"43"):
            number, _, values = payload[2:].partition(b"[")
            answered = self._calls.pop(int(number), None)
            if answered is not None and not answered.done():
                answered.set_result(json.loads(b"[" + values)[0])
        elif payload.startswith(b'42["'):
            self._follow(payload)
        elif payload.startswith(b"44"):
            self._fail(payload.decode())

    def _follow(self, payload: bytes) -> None:
        """Take the offset of an event that is no delta. Its alias carries the same one, and is left out."""
        place = payload.find(_OFFSET)
        if place < 0 or b":" in payload[4 : payload.find(b'"', 4)]:
            return
        offset = int(payload[place + 9 : payload.find(b",", place)])
        # behind a cursor nothing may be missing; without one it begins where it is told to
        if offset != self.last + 1 and (self.joined or self.epoch is not None):
            self._jump(offset, payload)
        self.last = max(self.last, offset)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _fail_all(self, why: str) -> None:
        for waiting in (self._ready, *self._calls.values()):
            if waiting is not None and not waiting.done():
                waiting.set_exception(Refused(why))
                waiting.exception()  # whoever waits for it is told; if nobody does, that is no news
        self._calls.clear()

    def _fail(self, why: str) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(Refused(why))
