"""One Engine.IO session, over HTTP polls or over a WebSocket: its queue, its heartbeat, its end.

    opened --poll--> polling --probe--> upgrading --upgrade--> on a WebSocket
       \\------------------------ or at once ------------------^

From each of these it may be closed: by the client, by the server, by a pong that does not come, or by a transport
that breaks. It takes the place of python-engineio's socket, which starts two tasks for each frame and each ping, finds
out about a lost client by a round through all of them, and lets an abandoned poll take events along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

import structlog
from engineio import packet as wire  # type: ignore[import-untyped] # the library has no types
from engineio.base_socket import BaseSocket  # type: ignore[import-untyped] # likewise
from engineio.exceptions import EngineIOError  # type: ignore[import-untyped] # likewise

from gateway import frames
from gateway.frames import Breach

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CLOSE_GRACE = 2.0
"""Seconds that a client has to read the close frame; then its transport is dropped."""
UPGRADE_DEADLINE = 10.0
"""Seconds from the opening of the second transport to the end of the upgrade, as in the JavaScript server."""
ABORT = "threadline.abort"
"""The key of an ASGI scope under which the web server leaves a way to drop the transport."""

_PING = wire.Packet(wire.PING)
_NOOP = wire.Packet(wire.NOOP)
_CLOSE = wire.Packet(wire.CLOSE)

_log = structlog.get_logger(__name__)


WRITER = "threadline.writer"
"""The key of an ASGI scope under which the web server leaves its `FrameWriter`, if it has one."""
UNREAD = 64
"""Packets that may wait in the queue of a client before it is sent no more: seconds of text. On a WebSocket the
transport's own buffer says so earlier."""


class Encoded(Protocol):
    """Packets that are the same for many clients, encoded once."""

    frame: bytes
    """As whole WebSocket frames."""

    @property
    def packets(self) -> list[wire.Packet]:
        """As packets."""


class FrameWriter(Protocol):
    """A way past ASGI to the transport, for frames that are the same for many clients."""

    resumed: Callable[[], None] | None
    """Called when the client has caught up."""

    @property
    def keeps_up(self) -> bool:
        """Whether the client reads what is written: the transport's buffer is below its high-water mark."""

    def write_frame(self, frame: bytes) -> None:
        """Write one whole WebSocket frame. On a connection that is closing it goes nowhere."""


class OverlappingPolls(EngineIOError):  # type: ignore[misc] # the library has no types
    """A second poll of one session came while the first one waited."""


class WebSocket:
    """A WebSocket that can be cut although its client does not read."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._abort: Callable[[], None] | None = scope.get(ABORT)
        self.writer: FrameWriter | None = scope.get(WRITER)
        self._receive = receive
        self._send = send
        self._closed = False

    async def accept(self) -> None:
        """Complete the handshake."""
        await self._send({"type": "websocket.accept"})

    async def receive(self) -> str | bytes:
        """Return the next frame, unjudged.

        Raises:
            OSError: when the connection has ended, by whomever.
        """
        if self._closed:
            raise OSError
        message = await self._receive()
        if self._closed or message["type"] != "websocket.receive":
            raise OSError
        text: str | None = message.get("text")
        content: bytes = message.get("bytes") or b""
        return content if text is None else text

    async def send(self, frame: str | bytes) -> None:
        """Send a frame; wait while the client does not read.

        Raises:
            OSError: when the connection has ended.
        """
        if self._closed:
            raise OSError
        kind = "text" if isinstance(frame, str) else "bytes"
        await self._send({"type": "websocket.send", kind: frame})

    async def close(self, code: int = frames.NORMAL_CLOSURE) -> None:
        """Close the connection, if it is not closed already, with a code that tells the client's author why."""
        if self._closed:
            return
        self._closed = True
        if self._abort is not None:
            # A client that does not read would not read a close frame either, and the web server waits for it.
            asyncio.get_running_loop().call_later(CLOSE_GRACE, self._abort)
        try:
            await self._send({"type": "websocket.close", "code": code})
        except (OSError, RuntimeError):  # it was closed from the other side at the same time
            return


class Connection(BaseSocket):  # type: ignore[misc] # the library has no types
    """One Engine.IO session. Packets put into `queue` reach the client in that order.

    Args:
        server: the engine, whose `sockets` has this session while it lives.
        sid: the session's id.
        binary: whether the client may send bytes.
    """

    queue: asyncio.Queue[wire.Packet | None]
    """What waits for the client; its `join` returns when all of it is written, or the session has ended."""
    connected: bool
    upgrading: bool
    upgraded: bool
    """It is on a WebSocket."""
    closing: bool
    closed: bool

    def __init__(self, server: Any, sid: str, *, binary: bool = False) -> None:
        super().__init__(server, sid)
        self.is_cut = False
        self.posting = False
        """A post is being read or handled; JavaScript clients send one after the other, and so must all."""
        self.polling = False
        """A poll waits for packets."""
        self._binary = binary
        self._loop = asyncio.get_running_loop()
        self._heartbeat: asyncio.TimerHandle | None = None
        self._expires = float("inf")
        self._pinged = False
        self._websocket: WebSocket | None = None
        self._writer: FrameWriter | None = None
        self._resumed = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None

    # --- heartbeat -------------------------------------------------------------------------------------

    @property
    def is_overdue(self) -> bool:
        """Whether the pong has not come in time, although the timer may still be on its way to say so."""
        return self._loop.time() >= self._expires

    def schedule_ping(self) -> None:
        """Begin a heartbeat: a ping after `ping_interval`, and the end `ping_timeout` later without a pong."""
        if self.closing:
            return
        self.stop_heartbeat()
        self._pinged = False
        interval = self.server.ping_interval
        # The end is reckoned from now, not from the ping, which may be late on a busy node.
        self._expires = self._loop.time() + interval + self.server.ping_timeout
        self._heartbeat = self._loop.call_later(interval, self._ping)

    def stop_heartbeat(self) -> None:
        """Send no further ping, and expect no pong."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        self._expires = float("inf")

    def _ping(self) -> None:
        self._pinged = True
        self.queue.put_nowait(_PING)
        self._heartbeat = self._loop.call_at(self._expires, self._time_out)

    def _time_out(self) -> None:
        self._ending = asyncio.ensure_future(self._end_if_silent())

    async def _end_if_silent(self) -> None:
        if self._pinged:  # else a pong was read in the same turn of the loop, as happens when it was held up
            await self.time_out()

    async def time_out(self) -> None:
        """End the session of a client that is gone."""
        _log.info("ping_timed_out", session=self.sid)
        await self.close(reason=self.server.reason.PING_TIMEOUT)
        if self._websocket is not None:
            await self._websocket.close()

    # --- packets ---------------------------------------------------------------------------------------

    async def send(self, packet: wire.Packet) -> None:
        """Queue a packet."""
        if not self.closed:
            self.queue.put_nowait(packet)

    def write(self, encoded: Encoded) -> bool:
        """Send what many clients get; return False when this one should be sent no more for now.

        Straight to the transport when nothing of this client's waits, so that the order stands; else, and on
        another transport or web server, by way of the queue.
        """
        if self.closed:
            return True
        writer = self._writer
        if writer is not None and self._is_idle():
            writer.write_frame(encoded.frame)
            return writer.keeps_up
        for packet in encoded.packets:
            self.queue.put_nowait(packet)
        return self.queue.qsize() < UNREAD and (writer is None or writer.keeps_up)

    def _is_idle(self) -> bool:
        # Nothing waits, and nothing is in the writer's hand. asyncio.Queue counts it for join(), and tells nobody.
        return not self.queue._unfinished_tasks  # type: ignore[attr-defined]

    async def drained(self, seconds: float) -> bool:
        """Wait until the client has taken what waits for it; False when it did not in time, or is gone."""
        try:
            async with asyncio.timeout(seconds):
                await self.queue.join()
                while self._writer is not None and not self._writer.keeps_up:
                    self._resumed.clear()
                    await self._resumed.wait()
        except TimeoutError:
            return False
        return not self.closed

    async def poll(self) -> list[wire.Packet]:
        """Wait for packets to send, and return all that are there; none means that the session has ended."""
        packets = [await self._take()]
        while packets[-1] is not None and not self.queue.empty():
            packets.append(await self._take())
        if packets[-1] is None:
            packets.pop()
            if packets:
                self.queue.put_nowait(None)  # for the next look
        return packets

    async def _take(self) -> wire.Packet | None:
        packet = await self.queue.get()
        self.queue.task_done()
        return packet

    def _discard(self) -> None:
        while not self.queue.empty():
            self.queue.get_nowait()
            self.queue.task_done()

    async def receive(self, kind: str, data: str | bytes) -> None:
        """Act on a frame that was judged: its type and data as of `frames.read_frame`."""
        if kind == frames.MESSAGE:
            await self.server._trigger_event("message", self.sid, data, run_async=self.server.async_handlers)
        elif kind == frames.CLOSE:
            await self.close(reason=self.server.reason.CLIENT_DISCONNECT, farewell=_NOOP)
        elif self._pinged:  # an unasked pong prolongs nothing
            self.schedule_ping()

    async def close(
        self, wait: bool = True, abort: bool = False, reason: str | None = None, farewell: wire.Packet = _CLOSE
    ) -> None:
        """End the session: its handlers are told, and its transport ends when the queue is written.

        Args:
            wait: ignored; the library would wait for a client that may never read.
            abort: say no farewell.
            reason: for the handlers; a server's wish if not given.
            farewell: what a waiting poll is answered with. On a WebSocket the close frame says it.
        """
        if self.closing:
            return
        self.closing = True
        self.stop_heartbeat()
        try:
            told = reason or self.server.reason.SERVER_DISCONNECT
            await self.server._trigger_event("disconnect", self.sid, told, run_async=False)
        finally:
            self.closed = True
            self.server.sockets.pop(self.sid, None)
            if self.polling and not abort:
                self.queue.put_nowait(farewell)
            if self.polling or self.upgraded:
                self.queue.put_nowait(None)
            else:
                self._discard()  # nobody can ask for it any more
            if self._websocket is not None and not self.upgraded:  # it was about to take over
                await self._websocket.close()

    async def cut(self, code: int) -> None:
        """End the session for good, because of what the client did."""
        self.is_cut = True
        if self._websocket is not None:
            await self._websocket.close(code)
        if not self.upgraded:  # else it ends with its transport, in `serve`
            await self.close()

    # --- HTTP polls ------------------------------------------------------------------------------------

    async def handle_poll(self, receive: Receive) -> list[wire.Packet]:
        """Return what one poll is answered with, as soon as there is something; nothing means an error.

        Raises:
            OverlappingPolls: when another poll of this session waits; the session is to be closed.
        """
        if self.closed:
            return []
        if self.polling:
            raise OverlappingPolls
        if self.upgrading:  # what is queued goes over the new transport
            return [_NOOP]
        self.polling = True
        try:
            return await (self._wait(receive) if self.queue.empty() else self.poll())
        finally:
            self.polling = False
            if self.closed:
                self._discard()

    async def _wait(self, receive: Receive) -> list[wire.Packet]:
        taking, leaving = asyncio.ensure_future(self.poll()), asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({taking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if taking.done():
                return taking.result()
        finally:
            taking.cancel()
            leaving.cancel()
        # Nobody reads this poll: what it would take from the queue would be lost without anybody's knowing.
        await self.close(abort=True, reason=self.server.reason.TRANSPORT_CLOSE)
        return []

    # --- WebSocket -------------------------------------------------------------------------------------

    async def serve(self, websocket: WebSocket) -> None:
        """Serve the session over a WebSocket until it ends; a session that polls must be upgraded first."""
        if self._websocket is not None:  # it has one, or is about to
            await websocket.accept()
            await websocket.close(frames.POLICY_VIOLATION)
            return
        self._websocket = websocket
        try:
            await websocket.accept()
            if not self.closing and (not self.connected or await self._upgrade(websocket)):
                await self._run(websocket)
        except OSError:  # it has ended, by whomever
            pass
        finally:
            self._websocket = None
            await websocket.close()
            if not self.connected:
                await self.close(reason=self.server.reason.TRANSPORT_CLOSE)

    async def _upgrade(self, websocket: WebSocket) -> bool:
        try:
            async with asyncio.timeout(UPGRADE_DEADLINE):
                await self._expect(websocket, frames.PROBE)
                self.upgrading = True
                await websocket.send(frames.PROBED)
                if self.polling:
                    self.queue.put_nowait(_NOOP)  # ends the poll; the client waits for that
                await self._expect(websocket, frames.UPGRADE)
        except (OSError, TimeoutError):
            return False
        finally:
            self.upgrading = False
        return not self.closing

    async def _expect(self, websocket: WebSocket, expected: str) -> None:
        if await websocket.receive() != expected:
            await self.server.cut(self.sid, Breach("no_upgrade"))
            raise OSError

    async def _run(self, websocket: WebSocket) -> None:
        self.connected = self.upgraded = True
        self._writer = websocket.writer
        if self._writer is not None:
            self._writer.resumed = self._resumed.set
        writing = asyncio.ensure_future(self._write(websocket))
        try:
            await self._read(websocket)
        finally:
            self._writer = None
            self._resumed.set()
            await self.close(reason=self.server.reason.TRANSPORT_CLOSE)
            await writing
            self._discard()

    async def _read(self, websocket: WebSocket) -> None:
        while not self.closed:
            try:
                frame = await websocket.receive()
                kind, data = frames.read_frame(frame, self.server.max_http_buffer_size, binary=self._binary)
            except Breach as breach:
                await self.server.cut(self.sid, breach)
                return
            await self.receive(kind, data)

    async def _write(self, websocket: WebSocket) -> None:
        # One after the other: what is not written stays in the queue, whose length is the measure of a slow client.
        try:
            while True:
                packet = await self.queue.get()
                try:
                    if packet is None:
                        return
                    await websocket.send(frames.write_frame(packet))
                finally:
                    self.queue.task_done()
        except (OSError, RuntimeError):  # it has ended; the reader knows, and ends the session
            pass
        finally:
            self._discard()
            await websocket.close()


async def _left(receive: Receive) -> None:
    """Wait until the client of an HTTP request has gone away."""
    while (await receive())["type"] != "http.disconnect":  # first the request's body, which is empty
        pass
