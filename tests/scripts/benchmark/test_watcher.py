"""The benchmark's client: what it counts must be right, or every figure is wrong."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any

import pytest

from scripts.benchmark.tally import Tally
from scripts.benchmark.watcher import Refused, Target, Watcher, _Link

OPENED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return False


def frame(text: str) -> bytes:
    """Return a server's frame."""
    payload = text.encode()
    if len(payload) < 126:
        return bytes((0x81, len(payload))) + payload
    if len(payload) < 65_536:
        return b"\x81\x7e" + len(payload).to_bytes(2, "big") + payload
    return b"\x81\x7f" + len(payload).to_bytes(8, "big") + payload


def event(name: str, offset: int, **fields: Any) -> bytes:
    """Return the frame of an event as a gateway sends it."""
    body = {"event": name, "epoch": "e", "offset": offset, "seq": 0, **fields}
    return frame(f'42["{name}",{json.dumps(body, separators=(",", ":"))}]')


def delta(offset: int, text: str = "00000 ", **fields: Any) -> bytes:
    """Return the frame of a delta."""
    return event("text_delta", offset, delta=text, **fields)


def link(watcher: Watcher, wire: Wire) -> None:
    """Give a watcher a connection."""
    _Link(watcher).connection_made(wire)


def watching(after: int = 0) -> tuple[Watcher, Tally]:
    """Return a watcher whose WebSocket is open, and where it counts."""
    tally = Tally()
    watcher = Watcher(Target("127.0.0.1", 1, "t", "e", after), "threadline", tally)
    link(watcher, Wire())
    watcher.read(OPENED)
    watcher.joined = True
    return watcher, tally


def test_frames_are_counted_however_the_network_cuts_them() -> None:
    stream = b"".join([delta(1), delta(2, "x" * 300), delta(3, "y" * 70_000), delta(4)])
    watcher, tally = watching()
    choose, at = random.Random(1), 0
    while at < len(stream):
        step = choose.choice((1, 2, 3, 7, 100, 5_000))
        watcher.read(stream[at : at + step])
        at += step
    assert (tally.frames, tally.letters, tally.lost, tally.doubled) == (4, 6 + 300 + 70_000 + 6, 0, 0)


def test_a_skipped_offset_is_lost() -> None:
    watcher, tally = watching(after=4)
    watcher.read(delta(5) + delta(8))
    assert (tally.lost, tally.doubled) == (2, 0)


def test_an_offset_that_comes_again_is_doubled() -> None:
    watcher, tally = watching(after=4)
    watcher.read(delta(5) + delta(5))
    assert (tally.lost, tally.doubled) == (0, 1)


def test_a_merged_delta_fills_what_it_says_it_holds() -> None:
    watcher, tally = watching(after=4)
    watcher.read(delta(9, "x" * 30, first_offset=5) + delta(10))
    assert (tally.lost, tally.doubled) == (0, 0)


def test_a_merged_delta_that_begins_too_late_leaves_a_hole() -> None:
    watcher, tally = watching(after=4)
    watcher.read(delta(9, "x" * 24, first_offset=6))
    assert tally.lost == 1


def test_other_events_have_offsets_too_and_their_aliases_do_not_count() -> None:
    watcher, tally = watching()
    stream = event("chat_accepted", 1) + event("chat:accepted", 1) + delta(2) + event("chat_done", 3) + delta(5)
    watcher.read(stream)
    assert (tally.frames, tally.lost, tally.doubled) == (2, 1, 0)


def test_a_delta_that_carries_its_time_is_timed() -> None:
    watcher, tally = watching()
    watcher.read(delta(1, f"@{time.time() - 2:.6f} "))
    assert tally.percentile(0.5) >= 2000


async def test_a_ping_of_either_protocol_is_answered() -> None:
    watcher, _ = watching()
    wire = Wire()
    link(watcher, wire)
    watcher.read(frame("2") + b"\x89\x02hi")
    assert [written[6:] for written in wire.written[1:]] == [b"3", b"hi"]


async def test_a_call_gets_its_own_answer() -> None:
    watcher, _ = watching()
    asked = [asyncio.ensure_future(watcher.call("a", {})), asyncio.ensure_future(watcher.call("b", {}))]
    await asyncio.sleep(0)
    watcher.read(frame('432[{"ok":true,"of":"b"}]') + frame('431[{"ok":true,"of":"a"}]'))
    assert [answer["of"] for answer in await asyncio.gather(*asked)] == ["a", "b"]


async def test_a_call_fails_when_it_is_refused_and_when_the_connection_ends() -> None:
    watcher, _ = watching()
    refused, cut = asyncio.ensure_future(watcher.call("a", {})), asyncio.ensure_future(watcher.call("b", {}))
    await asyncio.sleep(0)
    watcher.read(frame('431[{"ok":false,"error":{"code":"not_found"}}]'))
    watcher.lost()
    with pytest.raises(Refused, match="not_found"):
        await refused
    with pytest.raises(Refused, match="closed"):
        await cut


async def test_what_an_older_connection_still_says_is_not_heard() -> None:
    watcher, tally = watching()
    older = watcher.link
    assert older is not None
    link(watcher, Wire())
    older.data_received(delta(7))
    older.connection_lost(None)
    assert (tally.frames, tally.lost, tally.closed) == (0, 0, 0)
