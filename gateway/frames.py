"""What an Engine.IO frame may be: decided from its bytes alone, without I/O (Engine.IO protocol v4, "Packet encoding").

A frame that no client library sends ends the connection: a `Breach`.
"""

from __future__ import annotations

import base64
import binascii

from engineio import packet as wire  # type: ignore[import-untyped] # the library has no types

CLOSE, PONG, MESSAGE = "1", "3", "4"
"""The types that a client may send when it is neither opening nor upgrading."""
PROBE, PROBED, UPGRADE = "2probe", "3probe", "5"
"""The frames by which a session moves from polls to a WebSocket: asked, answered, done."""

MAX_POLL_PACKETS = 128
"""Packets in one HTTP post. A client gathers what it sends while its last post is on its way: up to a burst of calls
(`calls_burst`, 60) or one event with its attachments. The limit bounds the tasks that one post may start."""

NORMAL_CLOSURE = 1000  # RFC 6455, section 7.4.1
PROTOCOL_ERROR = 1002
UNSUPPORTED_DATA = 1003
POLICY_VIOLATION = 1008
MESSAGE_TOO_BIG = 1009

_SEPARATOR = "\x1e"
_WIDEST = 4
"""Bytes of UTF-8 that one character can take (RFC 3629)."""


class Breach(Exception):
    """A frame that no client library sends. `reason` is ours, and holds nothing of the frame."""

    def __init__(self, reason: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


def read_frame(frame: str | bytes, limit: int, *, binary: bool = False) -> tuple[str, str | bytes]:
    """Return the type of a WebSocket frame and what is in it.

    Args:
        frame: as it came.
        limit: bytes that it may have.
        binary: whether clients may send bytes.

    Raises:
        Breach: with the reason and the WebSocket close code.
    """
    if not isinstance(frame, str):
        if not binary:
            raise Breach("binary_frame", UNSUPPORTED_DATA)
        if len(frame) > limit:
            raise Breach("frame_too_large", MESSAGE_TOO_BIG)
        return MESSAGE, frame
    if len(frame) * _WIDEST > limit and len(frame.encode()) > limit:
        raise Breach("frame_too_large", MESSAGE_TOO_BIG)
    if frame[:1] == MESSAGE:
        return MESSAGE, frame[1:]
    if frame not in (CLOSE, PONG):
        raise Breach("no_engineio_packet")
    return frame, ""


def read_payload(body: bytes, limit: int, *, binary: bool = False) -> list[tuple[str, str | bytes]]:
    """Return what is in the body of an HTTP post, as `read_frame` does for each of its packets.

    Raises:
        Breach: when any of them is wrong; then none is to be acted on.
    """
    if len(body) > limit:
        raise Breach("frame_too_large", MESSAGE_TOO_BIG)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise Breach("not_utf8") from None
    if text.count(_SEPARATOR) >= MAX_POLL_PACKETS:
        raise Breach("too_many_packets")
    return [_read_packet(packet, limit, binary) for packet in text.split(_SEPARATOR)]


def _read_packet(packet: str, limit: int, binary: bool) -> tuple[str, str | bytes]:
    if packet[:1] != "b":
        return read_frame(packet, limit, binary=binary)
    try:
        content = base64.b64decode(packet[1:].encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise Breach("not_base64") from None
    return read_frame(content, limit, binary=binary)


def write_frame(packet: wire.Packet) -> str | bytes:
    """Return the WebSocket frame of a packet. It is the packet's own, kept for the next socket."""
    # The library keeps one form of a packet, whichever was asked for first: bytes must not be asked of it twice.
    frame: str | bytes = packet.data if packet.binary else packet.encode()
    return frame


def write_payload(packets: list[wire.Packet]) -> str:
    """Return the body of an HTTP poll."""
    return _SEPARATOR.join(_write_packet(packet) for packet in packets)


def _write_packet(packet: wire.Packet) -> str:
    if packet.binary:
        return "b" + base64.b64encode(packet.data).decode()
    return str(packet.encode())
