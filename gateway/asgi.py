"""A WebSocket of any ASGI server, for those that leave none of ours in the scope (gateway/websocket.py)."""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.types import Message, Receive, Send

from gateway.frames import NORMAL_CLOSURE
from gateway.websocket import Session


class AsgiWebSocket:
    """A WebSocket of any ASGI server, whose coroutine is `run` until it ends."""

    takes_frames = False

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._session: Session | None = None
        self._outgoing: deque[Message] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._reading = asyncio.Event()
        self._closing = False

    @property
    def keeps_up(self) -> bool:
        """Whether nothing waits for the client."""
        return self._writing is None

    def accept(self, session: Session) -> None:
        """Complete the handshake, once it runs."""
        self._session = session
        self._reading.set()
        self._say({"type": "websocket.accept"})

    def send(self, payload: str | bytes) -> None:
        """Send one message."""
        if not self._closing:
            self._say({"type": "websocket.send", "text" if isinstance(payload, str) else "bytes": payload})

    def write_frame(self, frame: bytes) -> None:
        """Refuse: ASGI knows no frames."""
        raise RuntimeError("expected a WebSocket that takes frames; ask takes_frames before")

    def pause_reading(self) -> None:
        """Take nothing more from the client."""
        self._reading.clear()

    def resume_reading(self) -> None:
        """Go on reading."""
        self._reading.set()

    def close(self, code: int = NORMAL_CLOSURE) -> None:
        """Say goodbye, behind what was sent; ASGI has no word for dropping a client that does not answer."""
        if not self._closing:
            self._closing = True
            self._reading.set()
            self._say({"type": "websocket.close", "code": code})

    def _say(self, message: Message) -> None:
        self._outgoing.append(message)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name="asgi-websocket")

    async def _write(self) -> None:
        try:
            while self._outgoing:
                await self._send(self._outgoing.popleft())
        except (OSError, RuntimeError):  # it has ended; whoever reads is told
            self._closing = True
            self._outgoing.clear()
        self._writing = None
        if self._session is not None:
            self._session.caught_up()

    async def run(self) -> None:
        """Hand over what comes, until the connection ends."""
        try:
            while True:
                await self._reading.wait()
                message = await self._receive()
                if message["type"] != "websocket.receive":
                    break
                text = message.get("text")
                if self._session is not None and not self._closing:
                    self._session.frame_received(self, message.get("bytes") or b"" if text is None else text)
        finally:
            self._closing = True
            session, self._session = self._session, None
            if session is not None:
                session.websocket_lost(self)
            if self._writing is not None:
                await asyncio.wait({self._writing})
