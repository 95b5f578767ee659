"""The Engine.IO edge: which HTTP requests and WebSockets are let in, and what they are answered.

It was written against python-engineio 4.15, which pyproject.toml bounds, and keeps of its server the sessions, the
handlers and the way packets are sent.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Any

import engineio  # type: ignore[import-untyped] # the library has no types
import structlog
from engineio import packet as wire
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import Receive, Scope, Send

from backplane.settings import Settings
from gateway import frames
from gateway.addresses import ADDRESS
from gateway.asgi import AsgiWebSocket
from gateway.connections import Connection, OverlappingPolls, weight
from gateway.frames import Breach
from gateway.limits import Bucket
from gateway.websocket import WEBSOCKET, HttpProtocol, WebSocketProtocol, refuse_handshake

_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_COMPRESSED_FROM = 1024
"""Bytes of a poll's answer from which it is compressed, as in python-engineio and the JavaScript server."""

_ADVICE = {
    "unknown_session": (
        1,
        "expected a session of this node, got one that it does not hold: it has ended, or another node holds it. The "
        "polls of one session must all reach one node: connect by WebSocket, which needs no such thing, or make the "
        "balancer sticky",
    ),
    "polling_is_off": (0, "expected a WebSocket, got a poll, and this node serves none; connect by WebSocket"),
}
"""What a client is told besides the status, with the numbers of the JavaScript server (engine.io, `Server.errors`)."""
_UNAVAILABLE = 503
_STOPPING = 5.0
"""Seconds that handlers of clients which have left may take when the node stops."""

_log = structlog.get_logger(__name__)


def server_options(settings: Settings) -> dict[str, Any]:
    """Return the options of `uvicorn.Config` for what reaches this file: its protocols, and their bounds.

    No compression: a small compressed frame may hold gigabytes, and each socket would keep a window. No pings of
    WebSocket's own: Engine.IO's heartbeat finds a lost client as soon.
    """
    return {
        "http": HttpProtocol,
        "ws": WebSocketProtocol,
        "ws_max_size": settings.max_frame_bytes,
        # uvicorn believes every X-Forwarded-For that comes from this machine; gateway/addresses.py knows whom to
        "proxy_headers": False,
    }


class GuardedEngine(engineio.AsyncServer):  # type: ignore[misc] # the library has no types
    """An Engine.IO server that reads nothing unjudged, over WebSocket and over HTTP polls.

    Args:
        binary: whether clients may send bytes.
        polling: whether clients may do without a WebSocket.
        options: further options of `engineio.AsyncServer`. Those about CORS, cookies, transports and compression
            are not used: what stands in front of this application sees to CORS.
    """

    def __init__(self, *, binary: bool = False, polling: bool = True, **options: Any) -> None:
        # Each session has a timer of its own; nobody needs to walk through all of them.
        super().__init__(async_mode="asgi", cors_allowed_origins=[], monitor_clients=False, **options)
        self.reader: Callable[[Connection, str | bytes], Awaitable[object] | None] | None = None
        """Takes messages in place of the handler `message`: returns what is to be awaited before the next, if any."""
        self.pace: Callable[[], Bucket] | None = None
        """Makes the bucket of what is read of one session; None reads whatever comes."""
        self.is_leaving = False
        """Whether new sessions are sent to another node, by the answer 503 before anything of theirs has happened."""
        self._binary = binary
        self._polling = polling
        self._tasks: set[asyncio.Task[None]] = set()

    async def shutdown(self) -> None:
        """Stop all heartbeats and wait for what is under way; call it before the web server stops."""
        for connection in self.sockets.values():
            connection.stop_heartbeat()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOPPING)
        await super().shutdown()

    def take(self, connection: Connection, data: str | bytes) -> Awaitable[object] | None:
        """Give a message to whoever reads them; return what is to be awaited before the next, if anything."""
        if self.reader is not None:
            return self.reader(connection, data)
        work: Awaitable[object] = self._trigger_event("message", connection.sid, data, run_async=self.async_handlers)
        return work

    def spawn(self, work: Awaitable[object]) -> None:
        """Do something in the background; a defect is one line in the log, without the client's own words."""
        task = asyncio.ensure_future(_noting_defects(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def cut(self, session_id: str, breach: Breach) -> None:
        """End a connection for good: one line in the log, and the transport closed."""
        connection = self.sockets.get(session_id)
        if connection is not None and not connection.is_cut:
            _log.warning("connection_cut", reason=breach.reason, session=session_id)
            await connection.cut(breach.code)

    async def handle_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request or one WebSocket connection."""
        await _noting_defects(self._handle(scope, receive, send))

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = _query(scope)
        connection: Connection | None = self.sockets.get(_session_id(query))
        if connection is not None and connection.is_overdue:
            await connection.time_out()
            connection = None
        fault = _fault(scope, query, connection)
        if fault in (None, "unknown_session") and not self._polling and scope["type"] != "websocket":
            fault = "polling_is_off"
        if fault is not None:
            _log.info("request_refused", reason=fault)
            await _refuse(scope, receive, send, advice=_ADVICE.get(fault))
        elif connection is None and self.is_leaving:
            _log.info("request_refused", reason="leaving")
            await _send_elsewhere(scope, receive, send)
        elif connection is None:
            await self._open(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await _serve(connection, scope, receive, send)
        elif scope["method"] == "POST":
            await self._take(connection, scope, receive, send)
        else:
            await self._give(connection, scope, receive, send)

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_websocket = scope["type"] == "websocket"
        if is_websocket:
            await receive()
        connection = Connection(self, self.generate_id(), binary=self._binary, address=scope.get(ADDRESS, ""))
        self.sockets[connection.sid] = connection
        connection.queue.put_nowait(wire.Packet(wire.OPEN, self._greeting(connection.sid, not is_websocket)))
        # The library's environ is 5 KB that would live as long as the session. What a request says is judged before.
        accepted = await self._trigger_event("connect", connection.sid, {}, run_async=False)
        if accepted is not None and accepted is not True:
            self.sockets.pop(connection.sid, None)
            await _refuse(scope, receive, send, 401)
            return
        connection.schedule_ping()
        if is_websocket:
            await _serve(connection, scope, receive, send)
        else:
            connection.connected = True
            await self._give(connection, scope, receive, send)

    def _greeting(self, session_id: str, upgradable: bool) -> dict[str, Any]:
        # The library announces whole seconds: a client told 0 ms gives up as soon as the time-out has passed.
        return {
            "sid": session_id,
            "upgrades": ["websocket"] if upgradable else [],
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
            taken = 0
            for kind, data in frames.read_payload(body, self.max_http_buffer_size, binary=self._binary):
                taken += weight(data)
                if not connection.closing and (work := connection.receive(kind, data)) is not None:
                    await work
            await connection.rest(taken)
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


def opens_session(scope: Scope) -> bool:
    """Tell whether a request names no session, and so asks for a new one; whoever counts these must read it alike."""
    return not _session_id(_query(scope))


def _query(scope: Scope) -> dict[str, list[str]]:
    return urllib.parse.parse_qs(scope.get("query_string", b"").decode("ascii", "replace"))


def _session_id(query: dict[str, list[str]]) -> str:
    return query.get("sid", [""])[0]  # of several the first that is not blank: `parse_qs` leaves those out


def _fault(scope: Scope, query: dict[str, list[str]], connection: Connection | None) -> str | None:
    """Return what is wrong with a request, in a word of ours."""
    is_websocket = scope["type"] == "websocket"
    session_id = _session_id(query)
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


async def _serve(connection: Connection, scope: Scope, receive: Receive, send: Send) -> None:
    websocket = scope.get(WEBSOCKET)
    if websocket is not None:
        connection.serve(websocket)  # from here on without ASGI
        return
    over_asgi = AsgiWebSocket(receive, send)
    connection.serve(over_asgi)
    await over_asgi.run()


async def _noting_defects(work: Awaitable[object]) -> None:
    try:
        await work
    except Exception as error:  # a defect, or a client that left halfway
        _log.warning("request_failed", error=type(error).__name__, where=_where(error))


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


async def _send_elsewhere(scope: Scope, receive: Receive, send: Send) -> None:
    # a load balancer may ask the next node in the client's name, and a client that is told comes back at once
    if scope["type"] == "websocket":
        await refuse_handshake(scope, send, _UNAVAILABLE)
    else:
        answer = PlainTextResponse("this node is stopping; connect again\n", _UNAVAILABLE, {"retry-after": "0"})
        await answer(scope, receive, send)


async def _refuse(
    scope: Scope, receive: Receive, send: Send, status: int = 400, advice: tuple[int, str] | None = None
) -> None:
    if scope["type"] == "websocket":  # before it is accepted, this is an answer 403
        await send({"type": "websocket.close", "code": frames.POLICY_VIOLATION})
    elif advice is not None:
        code, message = advice
        await JSONResponse({"code": code, "message": message}, status)(scope, receive, send)
    else:
        await PlainTextResponse("expected a request of Engine.IO protocol 4\n", status)(scope, receive, send)
