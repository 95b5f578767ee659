"""What nodes tell each other about Socket.IO's own features: the messages, and their form on a channel.

    R1 · origin, 16 hex digits · msgpack [number, kind, the message's fields in order]

The origin stands in front, so that a node passes over its own voice without reading on. The number rises with each
message of one origin: who hears a number twice (a lost reply made the origin send again, or the message went out on
two channels that this node listens to) acts once. msgpack makes nothing but plain values, whatever bytes it is given.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import msgpack  # type: ignore[import-untyped]  # the library has no types

Room = str | int
Frame = str | bytes

_MAGIC = b"R1"
_ORIGIN = 16
_WINDOW = 4096
"""Numbers of one origin that are remembered. A batch that is sent again has at most 256; the rest is for clusters,
where messages of one origin come over several connections."""
_MOST_ORIGINS = 1024
"""Origins that are remembered; they change with every restart of a node."""


class Garbage(ValueError):
    """Bytes on a channel that no node publishes."""


class Emit(NamedTuple):
    """Send an event to clients."""

    namespace: str
    rooms: list[Room] | None
    """To whoever is in any of them; None is the whole namespace."""
    skip: list[str]
    """But not to these clients."""
    frames: list[Frame]
    """The Socket.IO packet as its origin encoded it: one text, then its attachments."""
    question: int | None
    """The acknowledgement id in the packet, when the origin wants the answer."""


class CloseRoom(NamedTuple):
    """Take everybody out of a room."""

    namespace: str
    room: Room


class EnterRoom(NamedTuple):
    """Put a client of yours into a room, and say when it is there."""

    namespace: str
    sid: str
    room: Room


class LeaveRoom(NamedTuple):
    """Take a client of yours out of a room, and say so."""

    namespace: str
    sid: str
    room: Room


class Disconnect(NamedTuple):
    """Disconnect a client of yours from a namespace."""

    namespace: str
    sid: str


class Answer(NamedTuple):
    """A client has acknowledged an event of yours."""

    question: int
    frames: list[Frame]
    """Its ACK packet."""


class Done(NamedTuple):
    """What you asked for by a message of this number is done, or was not possible now."""

    number: int
    ok: bool


Message = Emit | CloseRoom | EnterRoom | LeaveRoom | Disconnect | Answer | Done


def head(origin: str) -> bytes:
    """Return how every message of an origin begins."""
    return _MAGIC + origin.encode("ascii")


def encode(origin: str, number: int, message: Message) -> bytes:
    """Return the form of a message on a channel."""
    fields = [number, type(message).__name__, *message]
    body: bytes = msgpack.packb(fields, unicode_errors="surrogatepass")
    return head(origin) + body


def decode(data: bytes) -> tuple[str, int, Message]:
    """Return the origin, the number and the message.

    Raises:
        Garbage: when the bytes are no message.
    """
    start = len(_MAGIC) + _ORIGIN
    if not data.startswith(_MAGIC) or len(data) <= start:
        raise Garbage
    try:
        origin = data[len(_MAGIC) : start].decode("ascii")
        body = msgpack.unpackb(data[start:], unicode_errors="surrogatepass")
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise Garbage from error
    match body:
        case [int(number), str(kind), *fields]:
            return origin, number, _message(kind, fields)
    raise Garbage


def _message(kind: str, fields: list[object]) -> Message:
    match kind, fields:
        case "Emit", [str(namespace), rooms, list(skip), list(frames), int() | None as question]:
            if rooms is None or (isinstance(rooms, list) and _are(rooms, str, int)):
                return Emit(namespace, rooms, _strings(skip), _frames(frames), question)
        case "CloseRoom", [str(namespace), str() | int() as room]:
            return CloseRoom(namespace, room)
        case "EnterRoom", [str(namespace), str(sid), str() | int() as room]:
            return EnterRoom(namespace, sid, room)
        case "LeaveRoom", [str(namespace), str(sid), str() | int() as room]:
            return LeaveRoom(namespace, sid, room)
        case "Disconnect", [str(namespace), str(sid)]:
            return Disconnect(namespace, sid)
        case "Answer", [int(question), list(frames)]:
            return Answer(question, _frames(frames))
        case "Done", [int(number), bool(ok)]:
            return Done(number, ok)
    raise Garbage


def _are(values: list[object], *kinds: type) -> bool:
    return all(isinstance(value, kinds) for value in values)


def _strings(values: list[object]) -> list[str]:
    if not _are(values, str):
        raise Garbage
    return values  # type: ignore[return-value] # checked above


def _frames(values: list[object]) -> list[Frame]:
    if not values or not _are(values, str, bytes) or not _are(values[1:], bytes):
        raise Garbage
    return values  # type: ignore[return-value] # checked above


class Seen:
    """Which numbers of which origins have come before: a sliding window for each origin (RFC 4303, section 3.4.3).

    A number older than the window counts as new: better twice than never.
    """

    def __init__(self) -> None:
        self._windows: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """Origin -> its highest number, and a bit for each number below it; the newest origin last."""

    def first_time(self, origin: str, number: int) -> bool:
        """Note a number; return whether it had not come before."""
        top, bits = self._windows.pop(origin, (number - 1, 0))
        behind = top - number
        if behind < 0:
            is_new = True
            bits = (bits << -behind | 1) & ((1 << _WINDOW) - 1) if -behind < _WINDOW else 1
            top = number
        else:
            is_new = behind >= _WINDOW or not bits >> behind & 1
            if behind < _WINDOW:
                bits |= 1 << behind
        self._windows[origin] = top, bits
        if len(self._windows) > _MOST_ORIGINS:
            self._windows.popitem(last=False)
        return is_new
