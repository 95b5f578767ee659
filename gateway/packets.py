"""What stands between a raw frame and a handler: every frame is judged before the library acts on it.

python-socketio and python-engineio trust their clients more than a public port can: they run the connect
handler again when a client sends an event of that name, collect as many binary attachments as were announced,
keep sockets that never speak Socket.IO, and write a traceback for each frame that they cannot read. All use of
their internals is in this file. It was written against python-socketio 5.18 and python-engineio 4.15, which
pyproject.toml bounds. The one use of uvicorn's internals, 0.54, is here too.

A frame that no client library sends ends the connection (a `Breach`). A call that is merely wrong is answered
with the clear error, when the client asked for an answer.
"""

from __future__ import annotations

import asyncio
import logging
import re
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import engineio  # type: ignore[import-untyped] # the library has no types
import socketio  # type: ignore[import-untyped] # the library has no types
import structlog
from engineio.async_drivers.asgi import WebSocket  # type: ignore[import-untyped] # likewise
from socketio import packet as wire
from starlette.responses import PlainTextResponse
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from backplane.errors import Internal, InvalidPayload, ThreadlineError, UnknownEvent
from backplane.settings import Settings
from gateway import strictjson

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

CONNECT_DEADLINE = 15.0
"""Seconds in which a socket must join a namespace. The JavaScript client gives up after 20."""
MAX_REFUSALS = 100
"""Malformed calls on one connection before it is closed: no client library makes one."""
MAX_UNREAD = 4096
"""Packets that may wait for one client when it sends another call; it should read before it asks for more."""
MAX_POLL_PACKETS = 16
"""Packets in one HTTP poll, as in python-engineio."""
MAX_EVENT_NAME = 64
CLOSE_GRACE = 2.0
"""Seconds that a client which is cut has to read the close frame; then its transport is dropped."""

PROTOCOL_ERROR = 1002  # RFC 6455, section 7.4.1
UNSUPPORTED_DATA = 1003
POLICY_VIOLATION = 1008
MESSAGE_TOO_BIG = 1009

RESERVED_EVENTS = frozenset(
    {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener", "*"}
)
"""Names that the Socket.IO protocol keeps for itself, and the library's name for any event."""

# type, then namespace and comma, then acknowledgement id, then JSON (Socket.IO protocol v5, "Packet encoding")
_PACKET = re.compile(r"([0-4])(?:(/[A-Za-z0-9_/.-]{0,64})(?:\?[^,]*)?(?:,|\Z))?([0-9]{1,15}(?![0-9]))?", re.ASCII)
_ABORT = "threadline.abort"
_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)

_log = structlog.get_logger(__name__)


class Breach(Exception):
    """A frame that no client library sends. `reason` is ours, and holds nothing of the frame."""

    def __init__(self, reason: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


def check_frame(frame: str | bytes, limit: int) -> None:
    """Refuse an Engine.IO frame that would mislead or stop the library's reader.

    Args:
        frame: as it came.
        limit: bytes of UTF-8 that it may have.

    Raises:
        Breach: with the reason and the WebSocket close code.
    """
    if not isinstance(frame, str):
        raise Breach("binary_frame", UNSUPPORTED_DATA)
    if len(frame) > limit or len(frame.encode()) > limit:
        raise Breach("frame_too_large", MESSAGE_TOO_BIG)
    kind, inner = frame[:1], frame[1:2]
    if kind == "4":
        if inner in ("5", "6"):  # announces attachments; the reader would wait for them, and keep them
            raise Breach("binary_packet", UNSUPPORTED_DATA)
        if inner not in ("0", "1", "2", "3"):
            raise Breach("no_socketio_packet")
    elif frame not in ("1", "2", "2probe", "3", "3probe", "5"):
        raise Breach("no_engineio_packet")


class GuardedPacket(wire.Packet):  # type: ignore[misc] # the library has no types
    """A Socket.IO packet whose reading raises nothing but `Breach`.

    An event's data is always `[name, payload]`, the payload None when the client sent none. When the event is
    merely wrong, `refusal` is the error to answer it with.
    """

    uses_binary_events = False
    json = strictjson

    refusal: ThreadlineError | None = None

    def decode(self, encoded_packet: str) -> int:
        """Read a packet; return that it has no attachments.

        Raises:
            Breach: when no client library could have sent it.
        """
        head = _PACKET.match(encoded_packet) if isinstance(encoded_packet, str) else None
        if head is None:
            raise Breach("no_socketio_packet")
        self.packet_type = int(head[1])
        self.namespace = head[2]
        self.id = int(head[3]) if head[3] else None
        body = encoded_packet[head.end() :]
        if self.packet_type == wire.EVENT:
            self._read_event(body)
        elif self.packet_type == wire.CONNECT:
            self._read_connect(body)
        elif self.packet_type != wire.ACK and body:  # an answer to a question that this server never asks
            raise Breach("unexpected_data")
        return 0

    def _read_connect(self, body: str) -> None:
        if not body:
            return
        try:
            self.data = strictjson.loads(body)
        except strictjson.MalformedJson:
            raise Breach("malformed_connect") from None
        if not isinstance(self.data, dict):
            raise Breach("malformed_connect")

    def _read_event(self, body: str) -> None:
        if not body.startswith("["):  # also `3-[…]`: attachments, announced by a packet that has none
            raise Breach("no_event")
        try:
            data = strictjson.loads(body)
        except strictjson.MalformedJson as error:
            self.refusal = InvalidPayload(f"packet: {error}; send one event name and one object")
            return
        if not data:
            raise Breach("no_event")
        name, *rest = data
        if isinstance(name, str) and name in RESERVED_EVENTS:
            raise Breach("reserved_event", POLICY_VIOLATION)
        if not isinstance(name, str) or not 0 < len(name) <= MAX_EVENT_NAME or not name.isprintable():
            self.refusal = UnknownEvent("expected the name of an event, got another value; see docs/protocol.md")
        elif len(rest) > 1:
            self.refusal = InvalidPayload(
                f"packet: expected one object after the event's name, got {len(rest)} values; send one object"
            )
        else:
            self.data = [name, rest[0] if rest else None]


class AbortableWebSocketProtocol(WebSocketsSansIOProtocol):
    """Uvicorn's WebSocket, whose transport the application can drop: give it as `ws` to `uvicorn.Config`.

    ASGI has no word for that, and without it a client which stopped reading is kept until TCP gives it up.
    """

    async def run_asgi(self) -> None:
        """Serve one connection."""
        self.scope[_ABORT] = self.transport.abort  # type: ignore[literal-required] # an extension of ours
        await super().run_asgi()


class GuardedWebSocket(WebSocket):  # type: ignore[misc] # the library has no types
    """A WebSocket whose frames are judged before the library reads them, and which can be cut."""

    def __init__(self, handler: Any, server: GuardedEngine) -> None:
        super().__init__(handler, server)
        self._server = server
        self._session_id: str = handler.__self__.sid
        self._is_cut = False
        self._abort: Callable[[], None] | None = None

    async def __call__(self, environ: dict[str, Any]) -> Any:
        """Serve the connection until it ends."""
        if self._session_id in self._server.websockets:  # a second upgrade of one session, at the same time
            await environ["asgi.send"]({"type": "websocket.close", "code": POLICY_VIOLATION})
            return ""
        self._server.websockets[self._session_id] = self
        self._abort = environ["asgi.scope"].get(_ABORT)
        try:
            return await super().__call__(environ)
        finally:
            del self._server.websockets[self._session_id]
            await self.close()

    async def wait(self) -> str:
        """Return the next frame.

        Raises:
            OSError: when the connection has ended, by whomever: the library then ends its session.
        """
        if self._is_cut:
            raise OSError
        frame: str | bytes = await super().wait()
        try:
            check_frame(frame, self._server.max_http_buffer_size)
        except Breach as breach:
            await self._server.cut(self._session_id, breach)
            raise OSError from None
        return str(frame)

    async def close(self) -> None:
        """Close the connection, if it is not cut already."""
        if not self._is_cut:
            self._is_cut = True
            await super().close()

    async def cut(self, code: int) -> None:
        """Close the connection with a code that tells the client's author why."""
        if self._is_cut:
            return
        self._is_cut = True
        if self._abort is not None:
            # A client that does not read would not read a close frame either, and uvicorn waits for it.
            asyncio.get_running_loop().call_later(CLOSE_GRACE, self._abort)
        try:
            await self.asgi_send({"type": "websocket.close", "code": code})
        except (OSError, RuntimeError):  # it was closed from the other side at the same time
            return


class GuardedEngine(engineio.AsyncServer):  # type: ignore[misc] # the library has no types
    """An Engine.IO server that reads nothing unjudged, over WebSocket and over HTTP polls."""

    _async: dict[str, Any]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.websockets: dict[str, GuardedWebSocket] = {}
        self._async = {**self._async, "websocket": GuardedWebSocket}

    def _log_error_once(self, message: str, message_key: str) -> None:
        # The library's message repeats the query or the Origin as the client sent them.
        _log.info("request_refused", reason=message_key)

    async def cut(self, session_id: str, breach: Breach) -> None:
        """End a connection for good: one line in the log, and the transport closed."""
        _log.warning("connection_cut", reason=breach.reason, session=session_id)
        websocket = self.websockets.get(session_id)
        session = self.sockets.get(session_id)
        if websocket is not None:
            await websocket.cut(breach.code)
            if session is not None and session.upgraded:
                return  # the session ends with its transport, in the library's own loop
        if session is not None:
            await session.close(wait=False, abort=True, reason=self.reason.SERVER_DISCONNECT)
            await session.queue.put(None)  # ends a poll that waits
            self.sockets.pop(session_id, None)

    async def handle_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request or one WebSocket connection."""
        try:
            query = urllib.parse.parse_qs(scope.get("query_string", b"").decode("ascii", "replace"))
            session_id = query.get("sid", [""])[0]
            # JSONP lets any page read an answer across origins; no client since Socket.IO 3 asks for it.
            if "j" in query or (session_id and not _SESSION_ID.fullmatch(session_id)):
                _log.info("request_refused", reason="malformed_query")
                await _refuse(scope, receive, send)
            elif scope["type"] == "http" and scope["method"] == "POST":
                await self._handle_post(scope, receive, send, session_id)
            else:
                await super().handle_request(scope, receive, send)
        except Exception as error:  # a defect, or a client that left halfway; without the client's own words
            _log.warning("request_failed", error=type(error).__name__, where=_where(error))

    async def _handle_post(self, scope: Scope, receive: Receive, send: Send, session_id: str) -> None:
        body = await _read_body(receive, self.max_http_buffer_size)
        try:
            if body is None:
                raise Breach("frame_too_large", MESSAGE_TOO_BIG)
            frames = _decoded(body).split("\x1e")
            if len(frames) > MAX_POLL_PACKETS:
                raise Breach("too_many_packets")
            for frame in frames:
                check_frame(frame, self.max_http_buffer_size)
        except Breach as breach:
            if session_id in self.sockets:
                await self.cut(session_id, breach)
            await _refuse(scope, receive, send)
            return
        length = (b"content-length", str(len(body)).encode())  # the library reads that many bytes, or none
        headers = [header for header in scope["headers"] if header[0] != b"content-length"]
        await super().handle_request({**scope, "headers": [*headers, length]}, _once(body), send)


class GuardedServer(socketio.AsyncServer):  # type: ignore[misc] # the library has no types
    """A Socket.IO server for clients that nobody vouches for.

    Handlers of events are called with `(sid, payload)`, a catch-all handler with `(event, sid, payload)`; what
    they return is the acknowledgement. A `ThreadlineError` that they raise is answered as
    `{ok: false, error}`, and so is an event that has no handler.

    Args:
        settings: `max_frame_bytes` is read.
        connect_deadline: seconds in which a socket must be in a namespace.
        options: further options of `socketio.AsyncServer`, such as `client_manager` and `ping_interval`.
    """

    def __init__(self, settings: Settings, *, connect_deadline: float = CONNECT_DEADLINE, **options: Any) -> None:
        super().__init__(
            async_mode="asgi",
            serializer=GuardedPacket,
            json=strictjson,
            cors_allowed_origins=[],  # gateway/origins.py decides, for all of the gateway's routes
            max_http_buffer_size=settings.max_frame_bytes,
            logger=_library_logger("socketio.server"),
            engineio_logger=_library_logger("engineio.server"),
            **options,
        )
        self._connect_deadline = connect_deadline
        self._deadlines: dict[str, asyncio.TimerHandle] = {}
        self._refusals: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def _engineio_server_class(self) -> type[GuardedEngine]:
        return GuardedEngine

    async def shutdown(self) -> None:
        """Stop the background tasks; call it before the web server stops."""
        for deadline in self._deadlines.values():
            deadline.cancel()
        self._deadlines.clear()
        await super().shutdown()

    async def disconnect(self, sid: str, namespace: str | None = None, ignore_queue: bool = False) -> None:
        """Tell a client to leave a namespace; a JavaScript client then stays away. See `cut`."""
        eio_sid = self.manager.eio_sid_from_sid(sid, namespace or "/")
        await super().disconnect(sid, namespace, ignore_queue)
        self._watch(eio_sid)

    async def cut(self, eio_sid: str, reason: str, code: int = POLICY_VIOLATION) -> None:
        """Close a socket's transport. A JavaScript client comes back by itself after about a second."""
        await self.eio.cut(eio_sid, Breach(reason, code))

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        await super()._handle_eio_connect(eio_sid, environ)
        self._watch(eio_sid)

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        deadline = self._deadlines.pop(eio_sid, None)
        if deadline is not None:
            deadline.cancel()
        self._refusals.pop(eio_sid, None)
        await super()._handle_eio_disconnect(eio_sid, reason)

    async def _handle_eio_message(self, eio_sid: str, data: object) -> None:
        session = self.eio.sockets.get(eio_sid)
        if session is None or session.closing or session.closed:
            return  # what was on its way when the connection was cut
        try:
            if session.queue.qsize() > MAX_UNREAD:
                raise Breach("reads_too_slowly", POLICY_VIOLATION)
            await self._handle_packet(eio_sid, GuardedPacket(encoded_packet=data or "?"))
        except Breach as breach:
            await self.eio.cut(eio_sid, breach)

    async def _handle_packet(self, eio_sid: str, packet: GuardedPacket) -> None:
        namespace = packet.namespace or "/"
        if packet.packet_type == wire.CONNECT:
            await self._handle_connect(eio_sid, namespace, packet.data)
        elif packet.packet_type == wire.DISCONNECT:
            await self._handle_disconnect(eio_sid, namespace, self.reason.CLIENT_DISCONNECT)
            self._watch(eio_sid)
        elif packet.packet_type == wire.ACK:
            self._count_refusal(eio_sid)
        elif not self.manager.is_connected(self.manager.sid_from_eio_sid(eio_sid, namespace), namespace):
            self._count_refusal(eio_sid)  # an event that crossed our disconnect, or never had a connect
        elif packet.refusal is not None:
            await self._answer(eio_sid, namespace, packet.id, _failure(packet.refusal))
            self._count_refusal(eio_sid)
        else:
            await self._handle_event(eio_sid, namespace, packet.id, packet.data)

    async def _handle_connect(self, eio_sid: str, namespace: str, data: object) -> None:
        try:
            await super()._handle_connect(eio_sid, namespace, data)
        except Exception:  # the library would leave the client without an answer, and half connected
            _log.exception("connect_failed", session=eio_sid)
            error = Internal("the gateway failed to connect this socket; try again in a moment")
            sid = self.manager.sid_from_eio_sid(eio_sid, namespace)
            await self._send_packet(
                eio_sid,
                self.packet_class(
                    wire.CONNECT_ERROR, {"message": error.code, "data": error.as_dict()}, namespace=namespace
                ),
            )
            if sid is not None:
                await self.manager.disconnect(sid, namespace, ignore_queue=True)
        self._watch(eio_sid)

    async def _handle_event_internal(
        self,
        server: Any,
        sid: str,
        eio_sid: str,
        data: list[Any],
        namespace: str,
        id: int | None,  # noqa: A002
    ) -> None:
        try:
            result = await server._trigger_event(data[0], namespace, sid, data[1])
            if result is self.not_handled:
                raise UnknownEvent("expected the name of an event of this protocol; see docs/protocol.md")
        except ThreadlineError as error:
            result = _failure(error)
        except Exception:
            _log.exception("handler_failed", session=sid)
            result = _failure(Internal("the gateway failed to handle this call; try again in a moment"))
        await self._answer(eio_sid, namespace, id, result)

    async def _answer(self, eio_sid: str, namespace: str, packet_id: int | None, result: object) -> None:
        if packet_id is not None:
            answer = [] if result is None else [result]
            await self._send_packet(eio_sid, self.packet_class(wire.ACK, answer, namespace=namespace, id=packet_id))

    def _count_refusal(self, eio_sid: str) -> None:
        _log.info("packet_refused", session=eio_sid)
        self._refusals[eio_sid] = count = self._refusals.get(eio_sid, 0) + 1
        if count > MAX_REFUSALS:
            raise Breach("too_many_malformed_packets", POLICY_VIOLATION)

    def _watch(self, eio_sid: str) -> None:
        # A session that is in no namespace costs memory and answers pings for ever; give it one deadline.
        if eio_sid not in self.environ or eio_sid in self._deadlines or self._is_in_a_namespace(eio_sid):
            return
        loop = asyncio.get_running_loop()
        self._deadlines[eio_sid] = loop.call_later(self._connect_deadline, self._deadline_passed, eio_sid)

    def _deadline_passed(self, eio_sid: str) -> None:
        del self._deadlines[eio_sid]
        if not self._is_in_a_namespace(eio_sid):
            task = asyncio.ensure_future(self.cut(eio_sid, "never_connected"))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _is_in_a_namespace(self, eio_sid: str) -> bool:
        return any(self.manager.sid_from_eio_sid(eio_sid, namespace) for namespace in self.manager.get_namespaces())


def server_limits(settings: Settings) -> dict[str, Any]:
    """Return the options of `uvicorn.Config` that bound what reaches this file.

    Compression stays off: a small compressed frame may hold gigabytes, and each socket would keep a window.
    """
    return {"ws_max_size": settings.max_frame_bytes, "ws_per_message_deflate": False}


def _failure(error: ThreadlineError) -> dict[str, Any]:
    return {"ok": False, "error": error.as_dict()}


def _library_logger(name: str) -> logging.Logger:
    # The libraries write each packet, as the client sent it, at the level info.
    logger = logging.getLogger(name)
    logger.setLevel(logging.WARNING)
    return logger


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}"


def _decoded(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise Breach("not_utf8") from None


async def _read_body(receive: Receive, limit: int) -> bytes | None:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionResetError
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        more = message.get("more_body", False)
    return bytes(body)


def _once(body: bytes) -> Receive:
    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
    else:
        await PlainTextResponse("expected a request of Engine.IO protocol 4\n", 400)(scope, receive, send)
