"""What stands between a frame and a handler: every Socket.IO packet is judged before the library acts on it.

python-socketio trusts its clients more than a public port can: it runs the connect handler again when a client sends
an event of that name, collects as many binary attachments as were announced, keeps sockets that never speak Socket.IO,
and writes a traceback for each packet that it cannot read. All use of its internals for that is in this file. It was
written against python-socketio 5.18, which pyproject.toml bounds. gateway/engine.py does the same for Engine.IO.

A packet that no client library sends ends the connection (a `Breach`). A call that is merely wrong is answered
with the clear error, when the client asked for an answer.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import socketio  # type: ignore[import-untyped] # the library has no types
import structlog
from engineio import packet as engine_wire  # type: ignore[import-untyped] # likewise
from socketio import packet as wire

from backplane.errors import Internal, InvalidPayload, ThreadlineError, UnknownEvent
from backplane.settings import Settings
from gateway import strictjson
from gateway.connections import Connection
from gateway.engine import GuardedEngine
from gateway.frames import MESSAGE_TOO_BIG, POLICY_VIOLATION, UNSUPPORTED_DATA, Breach
from gateway.limits import Bucket

CONNECT_DEADLINE = 15.0
"""Seconds in which a socket must join a namespace. The JavaScript client gives up after 20."""
MAX_REFUSALS = 100
"""Malformed calls on one connection before it is closed: no client library makes one."""
MAX_CONNECTS = 16
"""CONNECT packets on one connection before it is closed: a client sends one for each namespace, and another when it has
a better token. Each costs a look at a token, and begins with fresh limits."""
MAX_UNREAD = 4096
"""Packets that may wait for one client when it sends another call; it should read before it asks for more."""
MAX_EVENT_NAME = 64

RESERVED_EVENTS = frozenset(
    {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener", "*"}
)
"""Names that the Socket.IO protocol keeps for itself, and the library's name for any event."""

# type, then the number of attachments and a dash, then namespace and comma, then acknowledgement id, then JSON
# (Socket.IO protocol v5, "Packet encoding")
_PACKET = re.compile(
    r"([0-6])(?:([0-9]{1,9})-)?(?:(/[A-Za-z0-9_/.-]{0,64})(?:\?[^,]*)?(?:,|\Z))?([0-9]{1,15}(?![0-9]))?", re.ASCII
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a protocol on top of Socket.IO lets its clients send with an event.

    Without any, this is the product's own: one JSON payload, and no bytes.
    """

    arguments: int = 1
    """Values behind the event's name. With 1, a handler gets exactly one: None when the client sent none."""
    attachments: int = 0
    """Binary values in one event."""
    attachment_bytes: int = 0
    """Bytes of all the binary values of one event together."""


ONE_PAYLOAD = Allowance()


class GuardedPacket(wire.Packet):  # type: ignore[misc] # the library has no types
    """A Socket.IO packet whose reading raises nothing but `Breach`.

    An event's data is always a list of its name and its payload, or what else the class allows. When the event is
    merely wrong, `refusal` is the error to answer it with.
    """

    uses_binary_events = False
    json = strictjson
    allowance = ONE_PAYLOAD

    data: Any
    refusal: ThreadlineError | None = None

    @classmethod
    def allowing(cls, allowance: Allowance) -> type[GuardedPacket]:
        """Return this class for clients that may send more."""
        if allowance == cls.allowance:
            return cls
        return type(cls.__name__, (cls,), {"allowance": allowance, "uses_binary_events": allowance.attachments > 0})

    @property
    def is_complete(self) -> bool:
        """Whether all the attachments that were announced are there."""
        return bool(len(self.attachments) == self.attachment_count)

    def decode(self, encoded_packet: object) -> int:
        """Read a packet; return how many attachments follow it.

        Raises:
            Breach: when no client library could have sent it.
        """
        head = _PACKET.match(encoded_packet) if isinstance(encoded_packet, str) else None
        if head is None or not isinstance(encoded_packet, str):
            raise Breach("no_socketio_packet")
        self.packet_type = int(head[1])
        self.namespace = head[3]
        self.id = int(head[4]) if head[4] else None
        body = encoded_packet[head.end() :]
        announced = self._read_announced(head[2])
        if self.packet_type == wire.EVENT:
            self._read_event(body)
        elif self.packet_type == wire.CONNECT:
            self._read_connect(body)
        elif self.packet_type == wire.CONNECT_ERROR:
            raise Breach("no_socketio_packet")
        elif self.packet_type != wire.ACK and body:  # an answer to a question that this server never asks
            raise Breach("unexpected_data")
        return announced

    def _read_announced(self, digits: str | None) -> int:
        if self.packet_type not in (wire.BINARY_EVENT, wire.BINARY_ACK):
            if digits is not None:  # attachments, announced by a packet that has none
                raise Breach("no_socketio_packet")
            return 0
        if self.allowance.attachments == 0:
            raise Breach("binary_packet", UNSUPPORTED_DATA)
        if self.packet_type == wire.BINARY_ACK or not digits:
            raise Breach("no_socketio_packet")
        if not 0 < int(digits) <= self.allowance.attachments:
            raise Breach("too_many_attachments", MESSAGE_TOO_BIG)
        self.packet_type = wire.EVENT  # once it is complete
        return int(digits)

    def add_attachment(self, attachment: object) -> bool:
        """Take the next attachment; return whether it was the last.

        Raises:
            Breach: when it is none, or more than is allowed, or the event has no place for it.
        """
        if not isinstance(attachment, bytes):
            raise Breach("no_attachment")
        self.attachments.append(attachment)
        if sum(len(content) for content in self.attachments) > self.allowance.attachment_bytes:
            raise Breach("attachments_too_large", MESSAGE_TOO_BIG)
        if self.is_complete and self.refusal is None:
            unused = dict(enumerate(self.attachments))
            self.data = _filled(self.data, unused)
            if unused:
                raise Breach("no_place_for_an_attachment")
        return self.is_complete

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
        if not body.startswith("["):
            raise Breach("no_event")
        try:
            data = strictjson.loads(body)
        except strictjson.MalformedJson as error:
            self.refusal = InvalidPayload(f"packet: {error}; send one event name and one object")
            return
        if not data:
            raise Breach("no_event")
        name, *values = data
        most = self.allowance.arguments
        if isinstance(name, str) and name in RESERVED_EVENTS:
            raise Breach("reserved_event", POLICY_VIOLATION)
        if not isinstance(name, str) or not 0 < len(name) <= MAX_EVENT_NAME or not name.isprintable():
            self.refusal = UnknownEvent("expected the name of an event, got another value; see docs/protocol.md")
        elif len(values) > most:
            self.refusal = InvalidPayload(
                f"packet: expected at most {most} values after the event's name, got {len(values)}; send them in one"
            )
        else:
            self.data = [name, *(values or [None] if most == 1 else values)]


def _filled(value: Any, attachments: dict[int, bytes]) -> Any:
    """Return a copy in which each placeholder is the attachment of its number, taken out of `attachments`."""
    if isinstance(value, list):
        return [_filled(item, attachments) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("_placeholder") is True:
        number = value.get("num")
        # Each has one place: a thousand places for one attachment would make a thousand of it for every reader.
        if type(number) is not int or number not in attachments:
            raise Breach("no_such_attachment")
        return attachments.pop(number)
    return {key: _filled(item, attachments) for key, item in value.items()}


class GuardedServer(socketio.AsyncServer):  # type: ignore[misc] # the library has no types
    """A Socket.IO server for clients that nobody vouches for.

    Handlers of events are called with `(sid, payload)`, a catch-all handler with `(event, sid, payload)`; what
    they return is the acknowledgement, a tuple stands for several values. A `ThreadlineError` that they raise is
    answered as `{ok: false, error}`, and so is an event that has no handler.

    Args:
        settings: `max_frame_bytes`, `polling` and the limits of calls on one socket are read.
        connect_deadline: seconds in which a socket must be in a namespace.
        allowance: what clients may send with an event.
        options: further options of `socketio.AsyncServer`, such as `client_manager` and `ping_interval`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        connect_deadline: float = CONNECT_DEADLINE,
        allowance: Allowance = ONE_PAYLOAD,
        **options: Any,
    ) -> None:
        super().__init__(
            serializer=GuardedPacket.allowing(allowance),
            json=strictjson,
            binary=allowance.attachments > 0,
            polling=settings.polling,
            max_http_buffer_size=settings.max_frame_bytes,
            logger=_library_logger("socketio.server"),
            engineio_logger=_library_logger("engineio.server"),
            **options,
        )
        self._connect_deadline = connect_deadline
        self._deadlines: dict[str, asyncio.TimerHandle] = {}
        self._refusals: dict[str, int] = {}
        self._connects: dict[str, int] = {}
        self.eio.reader = self._read
        self.eio.pace = lambda: Bucket.of_frames(settings)

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

    def tell(self, eio_sid: str, event: str, data: object) -> None:
        """Send an event to a socket of this node, in the namespace `/`, in this step; nowhere when it is gone."""
        self._put(eio_sid, self.packet_class(wire.EVENT, [event, data], namespace="/"))

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        await super()._handle_eio_connect(eio_sid, environ)
        self._watch(eio_sid)

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        deadline = self._deadlines.pop(eio_sid, None)
        if deadline is not None:
            deadline.cancel()
        self._refusals.pop(eio_sid, None)
        self._connects.pop(eio_sid, None)
        self._binary_packet.pop(eio_sid, None)
        await super()._handle_eio_disconnect(eio_sid, reason)

    def _read(self, session: Connection, data: object) -> Awaitable[object] | None:
        """Act on a message; return what is to be awaited before the next one is read, if anything."""
        if session.closing or session.closed:
            return None  # what was on its way when the connection was cut
        try:
            if session.queue.qsize() > MAX_UNREAD:
                raise Breach("reads_too_slowly", POLICY_VIOLATION)
            packet = self._read_packet(session.sid, data)
            if packet.is_complete:
                return self._act(session.sid, packet)
            self._binary_packet[session.sid] = packet
        except Breach as breach:
            return self.eio.cut(session.sid, breach)  # type: ignore[no-any-return] # the library has no types
        return None

    def _read_packet(self, eio_sid: str, data: object) -> GuardedPacket:
        packet: GuardedPacket | None = self._binary_packet.pop(eio_sid, None)
        if packet is None:
            return self.packet_class(encoded_packet=data or "?")  # type: ignore[no-any-return] # it is GuardedPacket
        packet.add_attachment(data)
        return packet

    def _act(self, eio_sid: str, packet: GuardedPacket) -> Awaitable[object] | None:
        namespace = packet.namespace or "/"
        if packet.packet_type == wire.CONNECT:
            return self._handle_connect(eio_sid, namespace, packet.data)
        if packet.packet_type == wire.DISCONNECT:
            return self._leave(eio_sid, namespace)
        if packet.packet_type == wire.ACK:
            self._count_refusal(eio_sid)
            return None
        sid = self.manager.sid_from_eio_sid(eio_sid, namespace)
        if not self.manager.is_connected(sid, namespace):
            self._count_refusal(eio_sid)  # an event that crossed our disconnect, or never had a connect
        elif packet.refusal is not None:
            self._answer(eio_sid, namespace, packet.id, _failure(packet.refusal))
            self._count_refusal(eio_sid)
        else:
            self.eio.spawn(self._handle_event_internal(self, sid, eio_sid, packet.data, namespace, packet.id))
        return None

    async def _leave(self, eio_sid: str, namespace: str) -> None:
        await self._handle_disconnect(eio_sid, namespace, self.reason.CLIENT_DISCONNECT)
        self._watch(eio_sid)

    async def _handle_connect(self, eio_sid: str, namespace: str, data: object) -> None:
        self._connects[eio_sid] = count = self._connects.get(eio_sid, 0) + 1
        if count > MAX_CONNECTS:
            raise Breach("too_many_connects", POLICY_VIOLATION)
        if namespace not in self.namespaces and namespace not in self.handlers:
            unknown = {"message": "Invalid namespace"}  # the words of the JavaScript server
            await self._send_packet(eio_sid, self.packet_class(wire.CONNECT_ERROR, unknown, namespace=namespace))
            self._watch(eio_sid)
            return
        if self.manager.sid_from_eio_sid(eio_sid, namespace) is not None:
            raise Breach("connected_already")
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
            result = await server._trigger_event(data[0], namespace, sid, *data[1:])
            if result is self.not_handled:
                raise UnknownEvent("expected the name of an event of this protocol; see docs/protocol.md")
        except ThreadlineError as error:
            result = _failure(error)
        except Exception:
            _log.exception("handler_failed", session=sid)
            result = _failure(Internal("the gateway failed to handle this call; try again in a moment"))
        self._answer(eio_sid, namespace, id, result)

    def _answer(self, eio_sid: str, namespace: str, packet_id: int | None, result: object) -> None:
        if packet_id is not None:
            answer = list(result) if isinstance(result, tuple) else [] if result is None else [result]
            self._put(eio_sid, self.packet_class(wire.ACK, answer, namespace=namespace, id=packet_id))

    async def _send_packet(self, eio_sid: str, pkt: wire.Packet) -> None:
        self._put(eio_sid, pkt)

    def _put(self, eio_sid: str, packet: wire.Packet) -> None:
        session = self.eio.sockets.get(eio_sid)
        if session is not None:
            encoded = packet.encode()
            for frame in encoded if isinstance(encoded, list) else (encoded,):
                session.queue.put_nowait(engine_wire.Packet(engine_wire.MESSAGE, frame))

    def _count_refusal(self, eio_sid: str) -> None:
        _log.info("packet_refused", session=eio_sid)
        self._refusals[eio_sid] = count = self._refusals.get(eio_sid, 0) + 1
        if count > MAX_REFUSALS:
            raise Breach("too_many_malformed_packets", POLICY_VIOLATION)

    def _watch(self, eio_sid: str) -> None:
        # A session that is in no namespace costs memory and answers pings for ever; give it one deadline.
        if self._is_in_a_namespace(eio_sid):
            if (deadline := self._deadlines.pop(eio_sid, None)) is not None:
                deadline.cancel()
            return
        if eio_sid not in self.environ or eio_sid in self._deadlines:
            return
        loop = asyncio.get_running_loop()
        self._deadlines[eio_sid] = loop.call_later(self._connect_deadline, self._deadline_passed, eio_sid)

    def _deadline_passed(self, eio_sid: str) -> None:
        del self._deadlines[eio_sid]
        if not self._is_in_a_namespace(eio_sid):
            self.eio.spawn(self.cut(eio_sid, "never_connected"))

    def _is_in_a_namespace(self, eio_sid: str) -> bool:
        return any(self.manager.sid_from_eio_sid(eio_sid, namespace) for namespace in self.manager.get_namespaces())


def _failure(error: ThreadlineError) -> dict[str, Any]:
    return {"ok": False, "error": error.as_dict()}


def _library_logger(name: str) -> logging.Logger:
    # The libraries write each packet, as the client sent it, at the level info.
    logger = logging.getLogger(name)
    logger.setLevel(logging.WARNING)
    return logger
