"""What a client writes: the upgrade request, and frames of WebSocket, Engine.IO and Socket.IO in one."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

PONG = b"3"
CONNECT = b"40{}"


def upgrade(host: str, port: int) -> bytes:
    """Return the request that opens a WebSocket (RFC 6455, section 4.1). No extension is offered: deflate off."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n"
        f"Host: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """Return a client's frame. Its mask is zero, which changes nothing and costs nothing (section 5.3)."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65_536:
        head = bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


def call(number: int, event: str, payload: dict[str, Any]) -> bytes:
    """Return the frame of an event that asks for an acknowledgement."""
    return frame(f"42{number}{json.dumps([event, payload], separators=(',', ':'))}".encode())
