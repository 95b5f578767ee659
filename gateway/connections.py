"""One Engine.IO session, over HTTP polls or over a WebSocket: its heartbeat, its upgrade, its end.

    opened --poll--> polling --probe--> upgrading --upgrade--> on a WebSocket
       \\------------------------ or at once ------------------^

From each of these it may be closed: by the client, by the server, by a pong that does not come, or by a transport
that breaks. It takes the place of python-engineio's socket, which starts two tasks for each frame and each ping, finds
out about a lost client by a round through all of them, and lets an abandoned poll take events along. Here a frame is
acted on in the step in which it was read; only what must be awaited gets a task, and what follows waits for its end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from typing import Any, Protocol

import structlog
from engineio import packet as wire  # type: ignore[import-untyped] # the library has no types
from engineio.exceptions import EngineIOError  # type: ignore[import-untyped] # likewise
from starlette.types import Receive

from gateway import frames
from gateway.frames import Breach
from gateway.limits import Bucket
from gateway.outbox import Outbox
from gateway.websocket import CLOSE_GRACE, WebSocket

UPGRADE_DEADLINE = 10.0
"""Seconds from the opening of the second transport to the end of the upgrade, as in the JavaScript server."""
UNREAD_BYTES = 256 * 1024
"""Text that may wait in the queue of a client when its next call is done, as it should read the answers to the last
ones, and before it is sent no more. With what the transport holds, a socket that reads nothing costs about two of the
largest answers."""
AT_ONCE = 16
"""Frames of one WebSocket that are acted on before everybody else has a turn; a large one counts for several. One step
of the loop may read megabytes, which are hundreds of thousands of small frames."""
_LARGE = 4096
UNREAD = 64
"""Packets that may wait in the queue of a client before it is sent no more: seconds of text. On a WebSocket the
transport's own buffer says so earlier."""

_PING = wire.Packet(wire.PING)
_NOOP = wire.Packet(wire.NOOP)
_CLOSE = wire.Packet(wire.CLOSE)

_log = structlog.get_logger(__name__)


class Encoded(Protocol):
    """Packets that are the same for many clients, encoded once."""

    frame: bytes
    """As whole WebSocket frames."""

    @property
    def packets(self) -> list[wire.Packet]:
        """As packets."""


class OverlappingPolls(EngineIOError):  # type: ignore[misc] # the library has no types
    """A second poll of one session came while the first one waited."""


class Connection:
    """One Engine.IO session. Packets put into `queue` reach the client in that order.

    Args:
        server: the engine, whose `sockets` has this session while it lives.
        sid: the session's id.
        binary: whether the client may send bytes.
        address: where the client is; empty when that is not known.
    """

    __slots__ = (
        "_binary", "_expires", "_heartbeat", "_inbox", "_loop", "_pace", "_pinged", "_probing", "_taken",
        "_upgrade_deadline", "address", "closed", "closing", "connected", "is_cut", "polling", "posting", "queue",
        "server", "session", "sid", "upgraded", "upgrading",
    )  # fmt: skip

    def __init__(self, server: Any, sid: str, *, binary: bool = False, address: str = "") -> None:
        self.server = server
        self.sid = sid
        self.address = address
        self.queue = Outbox()
        """What waits for the client; its `join` returns when all of it is written, or the session has ended."""
        self.session: dict[str, Any] = {}
        """What handlers keep with it; the library's."""
        self.connected = self.upgrading = self.closing = self.closed = False
        self.upgraded = False
        """It is on a WebSocket."""
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
        self._probing: WebSocket | None = None
        """A WebSocket that is about to take over."""
        self._upgrade_deadline: asyncio.TimerHandle | None = None
        self._inbox: deque[str | bytes] | None = None
        """What came while an earlier frame is still being handled; None when none is."""
        self._taken = 0
        """Frames since others had a turn."""
        self._pace: Bucket | None = None
        """How much of it is read a second; made with the first sixteen frames, as many sessions never send as many."""

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
            self._heartbeat = None
        self._expires = float("inf")

    def _ping(self) -> None:
        self._pinged = True
        self.queue.put_nowait(_PING)
        self._heartbeat = self._loop.call_at(self._expires, self._time_out)

    def _time_out(self) -> None:
        # in the next step: a pong may have been read in this turn of the loop, as happens when it was held up
        self.server.spawn(self._end_if_silent())

    async def _end_if_silent(self) -> None:
        if self._pinged:
            await self.time_out()

    async def time_out(self) -> None:
        """End the session of a client that is gone."""
        _log.info("ping_timed_out", session=self.sid)
        websocket = self.queue.websocket
        await self.close(reason=self.server.reason.PING_TIMEOUT)
        if websocket is not None:
            websocket.close()

    # --- packets to the client -------------------------------------------------------------------------

    async def send(self, packet: wire.Packet) -> None:
        """Send a packet."""
        self.queue.put_nowait(packet)

    def write(self, encoded: Encoded) -> bool:
        """Send what many clients get; return False when this one should be sent no more for now.

        Straight to the transport when nothing of this client's waits, so that the order stands; else, and on
        another transport or web server, by way of the queue.
        """
        if self.closed:
            return True
        websocket = self.queue.websocket
        if websocket is not None and websocket.takes_frames and self.queue.empty():
            websocket.write_frame(encoded.frame)
            return websocket.keeps_up
        for packet in encoded.packets:
            self.queue.put_nowait(packet)
        if websocket is not None and websocket.takes_frames and not websocket.keeps_up:
            return False
        return self.queue.qsize() < UNREAD and self.queue.size() <= UNREAD_BYTES

    async def drained(self, seconds: float) -> bool:
        """Wait until the client has taken what waits for it; False when it did not in time, or is gone."""
        try:
            async with asyncio.timeout(seconds):
                await self.queue.join()
        except TimeoutError:
            return False
        return not self.closed

    async def has_room(self, seconds: float) -> bool:
        """Wait until not much is unread; False when the client read too little for so long, or is gone.

        Unlike `drained` it comes to an end beside those who send all the time, as the rooms do.
        """
        if not self.closed and self.queue.qsize() and self.queue.size() > UNREAD_BYTES:
            try:
                async with asyncio.timeout(seconds):
                    await self.queue.emptied()
            except TimeoutError:
                return False
        return not self.closed

    def caught_up(self) -> None:
        """Hear from the WebSocket that the client reads again."""
        self.queue.flush()

    # --- frames from the client ------------------------------------------------------------------------

    def receive(self, kind: str, data: str | bytes) -> Awaitable[object] | None:
        """Act on a frame that was judged: its type and data as of `frames.read_frame`.

        Returns what is still to be awaited before the next frame, if anything.
        """
        if kind == frames.MESSAGE:
            return self.server.take(self, data)  # type: ignore[no-any-return] # the library has no types
        if kind == frames.CLOSE:
            return self.close(reason=self.server.reason.CLIENT_DISCONNECT, farewell=_NOOP)
        if self._pinged:  # an unasked pong prolongs nothing
            self.schedule_ping()
        return None

    def frame_received(self, websocket: WebSocket, frame: str | bytes) -> None:
        """Take a frame of a WebSocket, unjudged."""
        if websocket is self._probing:
            self._upgrade(websocket, frame)
        elif self._inbox is not None:
            self._inbox.append(frame)
        elif (work := self._take(frame)) is not None:
            self._inbox = deque()
            websocket.pause_reading()
            self.server.spawn(self._work(websocket, work))

    def _take(self, frame: str | bytes) -> Awaitable[object] | None:
        """Act on a frame; return what is to be awaited before the next one, which may be the turn of others."""
        self._taken += weight(frame)
        work = self._act(frame)
        return work if self._taken < AT_ONCE else self._rest(work)

    async def _rest(self, work: Awaitable[object] | None) -> None:
        """Let others have a turn, for as long as the client has sent more than its share."""
        taken, self._taken = self._taken, 0
        if work is not None:
            await work
        await self.rest(taken)

    async def rest(self, taken: int) -> None:
        """Wait until more of the client may be read, behind frames of this weight."""
        if self._pace is None and self.server.pace is not None:
            self._pace = self.server.pace()
        if self._pace is not None:
            self._pace.charge(taken)
        await asyncio.sleep(0 if self._pace is None else self._pace.debt)

    def _act(self, frame: str | bytes) -> Awaitable[object] | None:
        if self.closing:
            return None
        try:
            return self.receive(*frames.read_frame(frame, self.server.max_http_buffer_size, binary=self._binary))
        except Breach as breach:
            return self.server.cut(self.sid, breach)  # type: ignore[no-any-return] # the library has no types

    async def _work(self, websocket: WebSocket, work: Awaitable[object] | None) -> None:
        """Wait for the end of what a frame began, then act on what has come in the meantime."""
        try:
            while work is not None:
                try:
                    await work
                except Breach as breach:
                    await self.server.cut(self.sid, breach)
                work = None
                while work is None and self._inbox:
                    work = self._take(self._inbox.popleft())
        finally:
            self._inbox = None
            websocket.resume_reading()

    # --- the end ---------------------------------------------------------------------------------------

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
        if self._inbox is not None:
            self._inbox.clear()  # nothing of it is acted on, and it would wait for its share for a minute
        self.stop_heartbeat()
        try:
            told = reason or self.server.reason.SERVER_DISCONNECT
            await self.server._trigger_event("disconnect", self.sid, told, run_async=False)
        finally:
            self.closed = True
            self.server.sockets.pop(self.sid, None)
            if self.polling and not abort:
                self.queue.put_nowait(farewell)
            self.queue.end()
            websocket = self.queue.websocket
            if websocket is not None:
                if not (self.queue.empty() and websocket.keeps_up):
                    self._loop.call_later(CLOSE_GRACE, websocket.close)  # it may never read what waits
            elif not self.polling:
                self.queue.clear()  # nobody can ask for it any more
            if self._probing is not None:
                self._probing.close()

    async def cut(self, code: int) -> None:
        """End the session for good, because of what the client did."""
        self.is_cut = True
        websocket = self.queue.websocket
        for each in (self._probing, websocket):
            if each is not None:
                each.close(code)
        await self.close(reason=None if websocket is None else self.server.reason.TRANSPORT_CLOSE)

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
            return await (self._wait(receive) if self.queue.empty() else self.queue.take())
        finally:
            self.polling = False
            if self.closed:
                self.queue.clear()

    async def _wait(self, receive: Receive) -> list[wire.Packet]:
        taking, leaving = asyncio.ensure_future(self.queue.take()), asyncio.ensure_future(_left(receive))
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

    def serve(self, websocket: WebSocket) -> None:
        """Serve the session over a WebSocket until it ends; a session that polls must be upgraded first."""
        websocket.accept(self)
        if self.closing or self.upgraded or self._probing is not None:  # it has one, or is about to
            websocket.close(frames.POLICY_VIOLATION)
        elif self.connected:
            self._probing = websocket
            self._upgrade_deadline = self._loop.call_later(UPGRADE_DEADLINE, websocket.close)
        else:
            self._move_to(websocket)

    def _move_to(self, websocket: WebSocket) -> None:
        self.connected = self.upgraded = True
        self.queue.attach(websocket)

    def _upgrade(self, websocket: WebSocket, frame: str | bytes) -> None:
        if frame == frames.PROBE and not self.upgrading:
            self.upgrading = True
            websocket.send(frames.PROBED)
            if self.polling:
                self.queue.put_nowait(_NOOP)  # ends the poll; the client waits for that
        elif frame == frames.UPGRADE and self.upgrading:
            self._stop_probing()
            self._move_to(websocket)
        else:
            self.server.spawn(self.server.cut(self.sid, Breach("no_upgrade")))

    def _stop_probing(self) -> None:
        self._probing, self.upgrading = None, False
        if self._upgrade_deadline is not None:
            self._upgrade_deadline.cancel()
            self._upgrade_deadline = None

    def websocket_lost(self, websocket: WebSocket) -> None:
        """Hear from a WebSocket that it has ended."""
        if websocket is self._probing:  # it stays where it is
            self._stop_probing()
        elif websocket is self.queue.websocket:
            self.queue.websocket = None
            self.queue.end()
            self.queue.clear()
            if not self.closing:
                self.server.spawn(self.close(reason=self.server.reason.TRANSPORT_CLOSE))


def weight(frame: str | bytes) -> int:
    """Return how many small frames a frame counts for."""
    return 1 + len(frame) // _LARGE


async def _left(receive: Receive) -> None:
    """Wait until the client of an HTTP request has gone away."""
    while (await receive())["type"] != "http.disconnect":  # first the request's body, which is empty
        pass
