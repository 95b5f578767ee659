"""Clients that cost little: a fleet of a thousand shares its two cores with those who look at it.

`LeanLink` speaks the protocol without a library, for a `Watcher` that keeps every word. The watchers of a `Crowd` keep
none: they check where each event belongs, in a process of their own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp

from scripts.benchmark.frames import CONNECT, PONG, call, frame, upgrade
from tests.fleet.invariants import TERMINAL, Fields
from tests.fleet.watcher import Watcher
from threadline_client.link import Link, LinkLost

_PATIENCE = 10.0
"""Seconds for a handshake or an answer."""
_PING_OPCODE, _PONG_OPCODE, _CLOSE_OPCODE = 0x89, 0x0A, 0x88


class LeanLink(asyncio.Protocol):
    """A connection to one gateway with the face of the product's `Link`, at a tenth of its cost."""

    def __init__(self, url: str, on_frame: Callable[[str, object], None]) -> None:
        self.url = url
        self.gone = asyncio.Event()
        self.reason = "closed"
        at = urlsplit(url)
        self._host, self._port = str(at.hostname), at.port or 80
        self._on_frame = on_frame
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._open = False
        self._let_in: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls: dict[int, Callable[[Mapping[str, Any] | None], None]] = {}
        self._number = 0

    async def open(self, token: str | None) -> None:
        """Shake hands; there is no token.

        Raises:
            LinkLost: when the gateway could not be reached, or ended the connection.
        """
        try:
            async with asyncio.timeout(_PATIENCE):
                await asyncio.get_running_loop().create_connection(lambda: self, self._host, self._port)
                await self._let_in
        except OSError as error:
            raise LinkLost(f"{self.url}: {error or type(error).__name__}") from None

    async def call(
        self,
        event: str,
        payload: Mapping[str, Any],
        *,
        on_answer: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> Mapping[str, Any]:
        """Return the acknowledgement of a call; `on_answer` gets it in its place among the frames.

        Raises:
            LinkLost: when the connection ended first.
        """
        answered: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()

        def take(answer: Mapping[str, Any] | None) -> None:
            if answered.done():  # whoever asked has given up
                return
            if answer is None:
                answered.set_exception(LinkLost(f"{self.url}: {self.reason}"))
                return
            if on_answer is not None:
                on_answer(answer)
            answered.set_result(answer)

        if self.gone.is_set() or self._transport is None:
            raise LinkLost(f"{self.url}: {self.reason}")
        self._number += 1
        self._calls[self._number] = take
        self._transport.write(call(self._number, event, dict(payload)))
        return await answered

    def cut(self, reason: str) -> None:
        """Give the connection up; calls that wait raise `LinkLost`."""
        if self.gone.is_set():
            return
        self.reason = reason
        self.gone.set()
        if not self._let_in.done():
            self._let_in.set_exception(LinkLost(f"{self.url}: {reason}"))
            self._let_in.exception()
        for take in self._calls.values():
            take(None)
        self._calls.clear()
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """End the connection."""
        self.cut("closed")

    # --- frames ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a WebSocket."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not of that class
        self._transport.write(upgrade(self._host, self._port))

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the gateway or the load balancer has ended it."""
        self.cut(str(error or "the other side has closed the connection"))

    def data_received(self, data: bytes) -> None:
        """Walk the frames of one read; what is left of the last one waits for the next."""
        data = self._rest + data
        at, end = 0, len(data)
        if not self._open:
            at = data.find(b"\r\n\r\n") + 4
            if at < 4:
                self._rest = data
                return
            if not data.startswith(b"HTTP/1.1 101"):
                self.cut(f"no WebSocket: {data[:40]!r}")
                return
            self._open = True
        while end - at >= 2 and not self.gone.is_set():
            size, start = data[at + 1], at + 2
            if size > 125:
                start = at + (4 if size == 126 else 10)
                if end < start:
                    break
                size = int.from_bytes(data[at + 2 : start], "big")
            if start + size > end:
                break
            self._read(data[at], data[start : start + size])
            at = start + size
        self._rest = data[at:]

    def _read(self, head: int, payload: bytes) -> None:
        assert self._transport is not None
        if payload.startswith(b'42["'):
            if b":" not in payload[4 : payload.find(b'"', 4)]:  # an alias says the same once more
                name, data = json.loads(payload[2:])
                self._on_frame(name, data)
        elif head == _PING_OPCODE:
            self._transport.write(frame(payload, _PONG_OPCODE))
        elif head == _CLOSE_OPCODE:
            self._transport.close()
        elif payload == b"2":
            self._transport.write(frame(PONG))
        elif payload.startswith(b"40"):
            if not self._let_in.done():
                self._let_in.set_result(None)
        elif payload.startswith(b"43"):
            number, _, values = payload[2:].partition(b"[")
            self._calls.pop(int(number))(json.loads(b"[" + values)[0])
        elif payload.startswith(b"44"):
            self.cut(payload.decode())
        elif payload.startswith(b"0"):
            self._transport.write(frame(CONNECT))


class LeanWatcher(Watcher):
    """A watcher that keeps every word, over a lean link."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._ends: dict[str, Fields] = {}

    def terminal(self, request_id: str) -> Fields | None:
        """Return the event that ended a turn, if it was sent already. Asked at each frame: nothing is searched."""
        return self._ends.get(request_id)

    def _frame(self, name: str, data: object) -> None:
        super()._frame(name, data)
        if name in TERMINAL and isinstance(data, dict):
            self._ends.setdefault(str(data.get("request_id")), data)

    def _link_to(self, url: str, session: aiohttp.ClientSession) -> Link:
        def on_frame(name: str, data: object) -> None:
            if not link.gone.is_set():
                self._frame(name, data)

        link = LeanLink(url, on_frame)
        return cast(Link, link)
