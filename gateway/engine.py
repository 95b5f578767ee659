"""The Engine.IO edge: which HTTP requests and WebSockets are let in, and what they are answered.

It was written against python-engineio 4.15, which pyproject.toml bounds, and keeps of its server the sessions, the
handlers and the way packets are sent. The one use of uvicorn's internals, 0.54, is here too.
"""

from __future__ import annotations

import gzip
import re
import urllib.parse
from collections.abc import Callable
from typing import Any

import engineio  # type: ignore[import-untyped] # the library has no types
import structlog
from engineio import packet as wire
from engineio.async_drivers.asgi import translate_request  # type: ignore[import-untyped] # likewise
from starlette.responses import PlainTextResponse
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from backplane.settings import Settings
from gateway import frames
from gateway.connections import ABORT, WRITER, Connection, OverlappingPolls, Receive, Scope, Send, WebSocket
from gateway.frames import Breach

_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_COMPRESSED_FROM = 1024
"""Bytes of a poll's answer from which it is compressed, as in python-engineio and the JavaScript server."""

_log = structlog.get_logger(__name__)


class AbortableWebSocketProtocol(WebSocketsSansIOProtocol):
    """Uvicorn's WebSocket, whose transport the application can drop: give it as `ws` to `uvicorn.Config`.

    ASGI has no word for that, and without it a client which stopped reading is kept until TCP gives it up.
    """

    resumed: Callable[[], None] | None = None

    async def run_asgi(self) -> None:
        """Serve one connection."""
        self.scope[ABORT] = self.transport.abort  # type: ignore[literal-required] # an extension of ours
        self.scope[WRITER] = self  # type: ignore[literal-required] # likewise
        await super().run_asgi()

    # The way past ASGI, `gateway.connections.FrameWriter`: one task switch and two copies less for each frame.

    @property
    def keeps_up(self) -> bool:
        """Whether the transport's buffer is below its high-water mark."""
        return self.writable.is_set()

    def write_frame(self, frame: bytes) -> None:
        """Write one whole frame behind those that went through ASGI: uvicorn writes each of them at once."""
        if not self.close_sent and not self.transport.is_closing():
            self.transport.write(frame)

    def resume_writing(self) -> None:
        """Hear from the transport that the client has caught up."""
        super().resume_writing()
        if self.resumed is not None:
            self.resumed()


def server_limits(settings: Settings) -> dict[str, Any]:
    """Return the options of `uvicorn.Config` that bound what reaches this file.

    Compression stays off: a small compressed frame may hold gigabytes, and each socket would keep a window.
    WebSocket's own pings stay off: Engine.IO's heartbeat finds a lost client as soon.
    """
    return {"ws_max_size": settings.max_frame_bytes, "ws_per_message_deflate": False, "ws_ping_interval": None}


class GuardedEngine(engineio.AsyncServer):  # type: ignore[misc] # the library has no types
    """An Engine.IO server that reads nothing unjudged, over WebSocket and over HTTP polls.

    Args:
        binary: whether clients may send bytes.
        options: further options of `engineio.AsyncServer`. Those about CORS, cookies, transports and compression
            are not used: what stands in front of this application sees to CORS.
    """

    def __init__(self, *, binary: bool = False, **options: Any) -> None:
        # Each session has a timer of its own; nobody needs to walk through all of them.
        super().__init__(async_mode="asgi", cors_allowed_origins=[], monitor_clients=False, **options)
        self._binary = binary

    async def shutdown(self) -> None:
        """Stop all heartbeats; call it before the web server stops."""
        for connection in self.sockets.values():
            connection.stop_heartbeat()
        await super().shutdown()

    async def cut(self, session_id: str, breach: Breach) -> None:
        """End a connection for good: one line in the log, and the transport closed."""
        connection = self.sockets.get(session_id)
        if connection is not None and not connection.is_cut:
            _log.warning("connection_cut", reason=breach.reason, session=session_id)
            await connection.cut(breach.code)

    async def handle_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request or one WebSocket connection."""
        try:
            await self._handle(scope, receive, send)
        except Exception as error:  # a defect, or a client that left halfway; without the client's own words
            _log.warning("request_failed", error=type(error).__name__, where=_where(error))

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = urllib.parse.parse_qs(scope.get("query_string", b"").decode("ascii", "replace"))
        connection: Connection | None = self.sockets.get(query.get("sid", [""])[0])
        if connection is not None and connection.is_overdue:
            await connection.time_out()
            connection = None
        fault = _fault(scope, query, connection)
        if fault is not None:
            _log.info("request_refused", reason=fault)
            await _refuse(scope, receive, send)
        elif connection is None:
            await self._open(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await connection.serve(WebSocket(scope, receive, send))
        elif scope["method"] == "POST":
            await self._take(connection, scope, receive, send)
        else:
            await self._give(connection, scope, receive, send)

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        environ = await translate_request(scope, receive, send)
        if not environ:  # it left before it was let in
            return
        connection = Connection(self, self.generate_id(), binary=self._binary)
        self.sockets[connection.sid] = connection
        upgrades = [] if scope["type"] == "websocket" else ["websocket"]
        connection.queue.put_nowait(wire.Packet(wire.OPEN, self._greeting(connection.sid, upgrades)))
        accepted = await self._trigger_event("connect", connection.sid, environ, run_async=False)
        if accepted is not None and accepted is not True:
            self.sockets.pop(connection.sid, None)
            await _refuse(scope, receive, send, 401)
            return
        connection.schedule_ping()
        if scope["type"] == "websocket":
            await connection.serve(WebSocket(scope, receive, send))
        else:
            connection.connected = True
            await self._give(connection, scope, receive, send)

    def _greeting(self, session_id: str, upgrades: list[str]) -> dict[str, Any]:
        # The library announces whole seconds: a client told 0 ms gives up as soon as the time-out has passed.
        return {
            "sid": session_id,
            "upgrades": upgrades,
            "pingInterval": round((self.ping_interval + self.ping_interval_grace_period) * 1000),
            "pingTimeout": round(self.ping_timeout * 1000),
            "maxPayload": self.max_http_buffer_size,
        }

    async def _take(self, connection: Connection, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._read_post(connection, receive)
        except Breach as breach:
            await self.cut(connection.sid, breach)
        except ConnectionResetError:  # half a post: nobody knows what was in the other half
            await connection.close(reason=self.reason.TRANSPORT_ERROR)
            return
        if connection.is_cut:
            await _refuse(scope, receive, send)
        else:
            await PlainTextResponse("ok")(scope, receive, send)

    async def _read_post(self, connection: Connection, receive: Receive) -> None:
        if connection.posting:
            raise Breach("overlapping_posts")
        connection.posting = True
        try:
            body = await _read_body(receive, self.max_http_buffer_size)
            for kind, data in frames.read_payload(body, self.max_http_buffer_size, binary=self._binary):
                if not connection.closing:
                    await connection.receive(kind, data)
        finally:
            connection.posting = False

    async def _give(self, connection: Connection, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            packets = await connection.handle_poll(receive)
        except OverlappingPolls:
            _log.info("request_refused", reason="overlapping_polls")
            await connection.close(reason=self.reason.TRANSPORT_ERROR)
            packets = []
        if not packets:
            await _refuse(scope, receive, send)
            return
        body, headers = frames.write_payload(packets).encode(), {"cache-control": "no-store"}
        if len(body) >= _COMPRESSED_FROM and _takes_gzip(scope):
            body, headers = gzip.compress(body), headers | {"content-encoding": "gzip", "vary": "accept-encoding"}
        await PlainTextResponse(body, headers=headers)(scope, receive, send)


def _fault(scope: Scope, query: dict[str, list[str]], connection: Connection | None) -> str | None:
    """Return what is wrong with a request, in a word of ours."""
    is_websocket = scope["type"] == "websocket"
    session_id = query.get("sid", [""])[0]
    # JSONP lets any page read an answer across origins; no client since Socket.IO 3 asks for it.
    if "j" in query or (session_id and not _SESSION_ID.fullmatch(session_id)):
        return "malformed_query"
    if query.get("transport") != ["websocket" if is_websocket else "polling"]:
        return "bad_transport"
    if not is_websocket and scope["method"] not in ("GET", "POST"):
        return "bad_method"
    if not session_id:
        if query.get("EIO") != ["4"]:
            return "bad_version"
        return None if is_websocket or scope["method"] == "GET" else "bad_method"
    if connection is None or not connection.connected:
        return "unknown_session"
    if connection.upgraded and not is_websocket:
        return "already_upgraded"
    return None


def _takes_gzip(scope: Scope) -> bool:
    accepted = b",".join(value for name, value in scope["headers"] if name == b"accept-encoding")
    return b"gzip" in {part.partition(b";")[0].strip().lower() for part in accepted.split(b",")}


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}"


async def _read_body(receive: Receive, limit: int) -> bytes:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionResetError
        body += message.get("body", b"")
        if len(body) > limit:
            raise Breach("frame_too_large", frames.MESSAGE_TOO_BIG)
        more = message.get("more_body", False)
    return bytes(body)


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int = 400) -> None:
    if scope["type"] == "websocket":  # before it is accepted, this is an answer 403
        await send({"type": "websocket.close", "code": frames.POLICY_VIOLATION})
    else:
        await PlainTextResponse("expected a request of Engine.IO protocol 4\n", status)(scope, receive, send)
