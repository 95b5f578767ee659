"""WebSockets as this gateway serves them: a handshake that passes ASGI, and frames that do not.

ASGI keeps a coroutine, two queues and the whole request alive for each connection, and a task switch stands between
a frame and whoever takes it. So the application decides by ASGI whether a connection is let in, and then takes it out
of the scope: its frames are handed to its session in the step in which they were read, and an idle connection has no
task. Another web server leaves no such thing in the scope; there, gateway/asgi.py does the same over ASGI's messages.

RFC 6455 is read and written by the `websockets` library, from the first frame on. This is the one file on uvicorn's
internals, 0.54, which pyproject.toml bounds: its HTTP protocol, and what it expects of a WebSocket's.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import http
import logging
import urllib.parse
from collections.abc import Iterable
from typing import Any, Protocol

import httptools
import structlog
from starlette.types import Message, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol as Frames
from websockets.protocol import Side, State

from gateway.frames import NORMAL_CLOSURE, POLICY_VIOLATION

WEBSOCKET = "threadline.websocket"
"""The key of an ASGI scope under which the web server leaves its `WebSocketProtocol`."""
REFUSALS = "websocket.http.response"
"""ASGI's extension by which a WebSocket is refused with a status of one's own."""
CLOSE_GRACE = 2.0
"""Seconds that a client has to read the close frame; then its transport is dropped."""

REQUEST_DEADLINE = 30.0
"""Seconds from the first byte of a request, and from the opening of a connection, to the request's last byte."""
UNREAD_DEADLINE = 30.0
"""Seconds in which a client of HTTP must read some of what waits for it."""
MAX_HEAD = 64 * 1024
"""Bytes of a request beside its body: a token has at most 16 KiB, and common proxies pass on less than this in all."""

_RESTARTS = 1012
"""Close code "service restart" (IANA registry): clients come back by themselves."""
_INVALID_DATA = 1007
_GATHERED = 16 * 1024
"""Bytes that wait for the end of a step: beyond it nothing is saved, and the transport must say when it is full."""
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_KEY_BYTES = 16
_VERSION = b"13"
_DATA = frozenset({Opcode.TEXT, Opcode.BINARY, Opcode.CONT})

_log = structlog.get_logger(__name__)
_library_log = logging.getLogger("gateway.websocket.library")
_library_log.setLevel(logging.WARNING)  # it tells of each connection that ends


class Session(Protocol):
    """Who takes the frames of a WebSocket. Nothing of it may block or raise."""

    def frame_received(self, websocket: WebSocket, frame: str | bytes) -> None:
        """Take one message, unjudged."""

    def caught_up(self) -> None:
        """The client has read enough: `keeps_up` is true again."""

    def websocket_lost(self, websocket: WebSocket) -> None:
        """Neither side says anything any more; told once, whoever closed it."""


class WebSocket(Protocol):
    """One WebSocket, from the moment that it may be accepted."""

    takes_frames: bool
    """Whether `write_frame` may be called: frames that are the same for many clients are made once."""

    @property
    def keeps_up(self) -> bool:
        """Whether the client reads what is sent: what waits for it is below the transport's high-water mark."""

    def accept(self, session: Session) -> None:
        """Complete the handshake; from here on the session is told of all that comes."""

    def send(self, payload: str | bytes) -> None:
        """Send one message. On a connection that is closing it goes nowhere."""

    def write_frame(self, frame: bytes) -> None:
        """Send whole frames as they are, behind what was sent before."""

    def pause_reading(self) -> None:
        """Take nothing more from the client for a while; what was read already still comes."""

    def resume_reading(self) -> None:
        """Go on reading."""

    def close(self, code: int = NORMAL_CLOSURE) -> None:
        """Say goodbye with a code that tells the client's author why, and drop a client that does not answer."""


async def refuse_handshake(scope: Scope, send: Send, status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Refuse a handshake with a status; on a web server that cannot say one, it is 403."""
    if REFUSALS in scope.get("extensions", {}):
        await send({"type": f"{REFUSALS}.start", "status": status, "headers": list(headers)})
        await send({"type": f"{REFUSALS}.body", "body": b""})
    else:
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})


def text_frame(payload: bytes) -> bytes:
    """Return a whole, unmasked WebSocket text frame (RFC 6455, section 5.2)."""
    return _framed(b"\x81", payload)


def _framed(head: bytes, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return head + bytes((size,)) + payload
    if size < 1 << 16:
        return head + b"\x7e" + size.to_bytes(2) + payload
    return head + b"\x7f" + size.to_bytes(8) + payload


class HttpProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP, which hands an upgrade over as it was read: uvicorn writes it out again and reads it twice.

    And with bounds: uvicorn waits for ever for a request that does not end, and keeps as long a head as is sent, both
    before the application has seen anything that it could refuse; and it waits for ever for an answer to be read.

    Give it as `http` to `uvicorn.Config`, with `WebSocketProtocol` as `ws`.
    """

    _deadline: asyncio.TimerHandle | None = None
    _beside = 0
    """Bytes of the request that is being read, without its body: its head, and what frames a chunked body."""
    _unread: asyncio.TimerHandle | None = None
    """Looks after a while whether the client has read something."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Wait for a request, but not for ever."""
        super().connection_made(transport)
        self._expect_the_end()

    def data_received(self, data: bytes) -> None:
        """Read what comes, within the bounds."""
        self._expect_the_end()
        self._beside += len(data)
        super().data_received(data)
        if self._beside > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response(f"expected at most {MAX_HEAD} bytes before the body, got more; send fewer headers")

    def on_message_begin(self) -> None:
        """Hear that a request begins, maybe behind the end of another."""
        self._expect_the_end()
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, which the application bounds."""
        self._beside -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Hear that a request has ended."""
        self._has_ended()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear from the transport that it is gone."""
        self._has_ended()
        self._forget_what_waits()
        super().connection_lost(exc)

    def _expect_the_end(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_DEADLINE, self.transport.abort)

    def _has_ended(self) -> None:
        self._beside = 0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def pause_writing(self) -> None:
        """Hear from the transport that the client does not keep up."""
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        """Hear from the transport that it does again."""
        self._forget_what_waits()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Hear that an answer is written, though maybe not read."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_reading()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection on which nothing is asked; what waits is still sent, for as long as it is read."""
        super().timeout_keep_alive_handler()
        self._expect_reading()

    def _expect_reading(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        if waiting and self._unread is None:
            self._unread = self.loop.call_later(UNREAD_DEADLINE, self._look_at_reader, waiting)

    def _look_at_reader(self, waited: int) -> None:
        self._unread = None
        if self.transport.get_write_buffer_size() >= waited:
            self.transport.abort()
        else:
            self._expect_reading()

    def _forget_what_waits(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def handle_websocket_upgrade(self) -> None:
        """Leave the connection to a `WebSocketProtocol`."""
        self._has_ended()
        self._forget_what_waits()
        try:
            url = httptools.parse_url(self.url)
            path = url.path.decode("ascii")
        except (httptools.HttpParserError, UnicodeDecodeError):
            self.send_400_response("Invalid HTTP request received.")
            return
        self.connections.discard(self)
        del self.parser  # it knows this object, which knew it
        scope: Scope = {
            **self.scope,
            "type": "websocket",
            "scheme": "wss" if self.scheme == "https" else "ws",
            "path": self.root_path + urllib.parse.unquote(path),
            "raw_path": self.root_path.encode("ascii") + url.path,
            "query_string": url.query or b"",
            "subprotocols": [],
            "extensions": {REFUSALS: {}},
        }
        websocket = WebSocketProtocol(self.config, self.server_state, self.app_state)
        self.transport.set_protocol(websocket)
        websocket.begin(self.transport, scope)


class WebSocketProtocol(asyncio.Protocol):
    """One WebSocket of uvicorn's, for applications that take it out of the scope.

    Args:
        config: `loaded_app` and `ws_max_size` are read.
        server_state: uvicorn's lists of what it waits for when it stops.
        app_state: of no use here; uvicorn passes it.
    """

    __slots__ = (
        "_answered", "_asked", "_closing", "_config", "_ended", "_frames", "_gathered", "_key", "_loop", "_message",
        "_opcode", "_server", "_session", "_transport", "keeps_up",
    )  # fmt: skip
    takes_frames = True

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        self.keeps_up = True
        self._config = config
        self._server = server_state
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._session: Session | None = None
        self._frames: Frames | None = None
        self._key = b""
        self._message: bytearray | None = None
        """What has come of a message in several frames."""
        self._gathered: bytearray | None = None
        """What was sent in this step: the answer to a handshake and the greeting behind it are one write."""
        self._opcode = Opcode.TEXT
        self._asked = self._answered = self._closing = self._ended = False

    # --- the handshake ---------------------------------------------------------------------------------

    def begin(self, transport: asyncio.Transport, scope: Scope) -> None:
        """Ask the application about a request that wants to be a WebSocket."""
        self._transport = transport
        self._server.connections.add(self)  # type: ignore[arg-type] # uvicorn lists its own classes
        status, self._key = _read_handshake(scope)
        if status is not http.HTTPStatus.SWITCHING_PROTOCOLS:
            self._refuse(status)
            return
        scope[WEBSOCKET] = self
        asking = self._loop.create_task(self._ask(scope), name="handshake")
        self._server.tasks.add(asking)
        asking.add_done_callback(self._server.tasks.discard)

    async def _ask(self, scope: Scope) -> None:
        try:
            await self._config.loaded_app(scope, self._receive, self._send)
        except Exception:
            _log.exception("handshake_failed")
        finally:
            if not self._answered:
                self._refuse(http.HTTPStatus.INTERNAL_SERVER_ERROR)

    async def _receive(self) -> Message:
        if self._asked:
            return {"type": "websocket.disconnect", "code": NORMAL_CLOSURE}
        self._asked = True
        return {"type": "websocket.connect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "websocket.http.response.start":  # ASGI's extension: a refusal with a status of its own
            self._refuse(http.HTTPStatus(message["status"]), message["headers"])
            return
        if message["type"] not in {"websocket.close", "websocket.http.response.body"}:
            raise RuntimeError(f"expected an application that takes {WEBSOCKET} from its scope, got {message['type']}")
        if not self._answered:
            self._refuse(http.HTTPStatus.FORBIDDEN)

    def _refuse(self, status: http.HTTPStatus, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._answered = self._closing = True
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\nconnection: close\r\ncontent-length: 0\r\n"
        if status is http.HTTPStatus.UPGRADE_REQUIRED:
            head += f"upgrade: websocket\r\nsec-websocket-version: {_VERSION.decode()}\r\n"
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        self._transport.write(head.encode() + lines + b"\r\n")
        self._transport.close()

    def accept(self, session: Session) -> None:
        """Complete the handshake."""
        self._answered = True
        self._session = session
        self._frames = Frames(Side.SERVER, state=State.OPEN, max_size=self._config.ws_max_size, logger=_library_log)
        digest = base64.b64encode(hashlib.sha1(self._key + _MAGIC, usedforsecurity=False).digest())
        self._gather(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
            b"sec-websocket-accept: " + digest + b"\r\n\r\n"
        )
        if self._ended:  # it was lost while the application made up its mind
            self._loop.call_soon(session.websocket_lost, self)

    # --- frames ----------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Read frames, and hand over each message that is whole."""
        frames = self._frames
        if frames is None:
            if not self._answered:  # RFC 6455, section 4.1: a client waits for the answer to its handshake
                self._transport.abort()
            return
        frames.receive_data(data)
        for frame in frames.events_received():
            if isinstance(frame, Frame) and frame.opcode in _DATA:
                self._take(frame)
        self._answer(frames)

    def _take(self, frame: Frame) -> None:
        if frame.opcode is not Opcode.CONT:
            self._opcode = frame.opcode
        if not frame.fin or self._message is not None:
            self._message = bytearray() if self._message is None else self._message
            self._message += frame.data
            if not frame.fin:
                return
        content = bytes(frame.data if self._message is None else self._message)
        self._message = None
        if self._session is None or self._closing or self._frames is None:
            return
        if self._opcode is Opcode.BINARY:
            self._session.frame_received(self, content)
            return
        try:
            text = content.decode()
        except UnicodeDecodeError:
            self._closing = True
            self._frames.fail(_INVALID_DATA)
            return
        self._session.frame_received(self, text)

    def _answer(self, frames: Frames) -> None:
        """Write what the protocol itself says: pongs, and the close frame."""
        written = b"".join(frames.data_to_send())
        # a client that sends pings and reads no pong must not fill the transport's buffer
        if written and (self.keeps_up or frames.state is not State.OPEN):
            self._gather(written)
        if frames.eof_sent:
            self._end()

    def send(self, payload: str | bytes) -> None:
        """Send one message, at the latest behind this step of the loop."""
        if self._closing:
            return
        if isinstance(payload, str):
            self._gather(_framed(b"\x81", payload.encode()))
        else:
            self._gather(_framed(b"\x82", payload))

    def _gather(self, data: bytes) -> None:
        # a write is a call of the system, 20 us; a frame that many get is not gathered, it has nobody to wait for
        if self._gathered is None:
            self._gathered = bytearray()
            self._loop.call_soon(self._write_gathered)
        self._gathered += data
        if len(self._gathered) > _GATHERED:
            self._write_gathered()

    def _write_gathered(self) -> None:
        gathered, self._gathered = self._gathered, None
        if gathered and not self._transport.is_closing():
            self._transport.write(gathered)

    def write_frame(self, frame: bytes) -> None:
        """Send whole frames as they are."""
        if self._gathered is not None:
            self._write_gathered()
        if not self._closing and not self._transport.is_closing():
            self._transport.write(frame)

    def pause_reading(self) -> None:
        """Take nothing more from the client."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """Hear from the transport that the client does not keep up."""
        self.keeps_up = False

    def resume_writing(self) -> None:
        """Hear from the transport that it does again."""
        self.keeps_up = True
        if self._session is not None:
            self._session.caught_up()

    # --- the end ---------------------------------------------------------------------------------------

    def close(self, code: int = NORMAL_CLOSURE) -> None:
        """Say goodbye, and drop a client that does not answer."""
        if self._closing or self._frames is None:
            return
        self._closing = True
        self.resume_reading()  # for the answer
        self._frames.send_close(code)
        self._answer(self._frames)
        self._loop.call_later(CLOSE_GRACE, self._transport.abort)

    def shutdown(self) -> None:
        """Hear from uvicorn that the server stops."""
        if self._answered:
            self.close(_RESTARTS)
            self._end()
        else:
            self._refuse(http.HTTPStatus.SERVICE_UNAVAILABLE)

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear from the transport that it is gone."""
        self._server.connections.discard(self)
        self._end()

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = self._closing = self.keeps_up = True
        self._write_gathered()
        if not self._transport.is_closing():
            self._transport.close()  # when what was written is read, or after the grace
            self._loop.call_later(CLOSE_GRACE, self._transport.abort)
        session, self._session = self._session, None
        if session is not None:
            session.websocket_lost(self)


def _read_handshake(scope: Scope) -> tuple[http.HTTPStatus, bytes]:
    """Return what a request for a WebSocket is answered with, and its key (RFC 6455, section 4.2.1).

    Uvicorn has looked at `Upgrade` and `Connection`.
    """
    keys, versions, has_body = [], [], False
    for name, value in scope["headers"]:
        if name == b"sec-websocket-key":
            keys.append(value.strip())
        elif name == b"sec-websocket-version":
            versions.append(value.strip())
        elif name in {b"content-length", b"transfer-encoding"}:
            has_body = value.strip() != b"0"
    if scope["method"] != "GET" or scope["http_version"] != "1.1" or has_body or len(keys) != 1:
        return http.HTTPStatus.BAD_REQUEST, b""
    if versions != [_VERSION]:
        return http.HTTPStatus.UPGRADE_REQUIRED, b""
    try:
        whole = len(base64.b64decode(keys[0], validate=True)) == _KEY_BYTES
    except binascii.Error:
        whole = False
    return (http.HTTPStatus.SWITCHING_PROTOCOLS if whole else http.HTTPStatus.BAD_REQUEST), keys[0]
