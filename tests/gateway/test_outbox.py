"""The queue of one client: at once when nothing waits, else in order, and nothing behind the end."""

from __future__ import annotations

import asyncio

from engineio import packet as wire  # type: ignore[import-untyped] # the library has no types

from gateway.outbox import Outbox
from gateway.websocket import Session


class Line:
    """A WebSocket that takes what it is told to."""

    takes_frames = True

    def __init__(self, *, keeps_up: bool = True) -> None:
        self.keeps_up = keeps_up
        self.sent: list[str | bytes] = []
        self.closed = False

    def send(self, payload: str | bytes) -> None:
        self.sent.append(payload)

    def close(self, code: int = 1000) -> None:
        self.closed = True

    def accept(self, session: Session) -> None: ...

    def write_frame(self, frame: bytes) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def said(text: str) -> wire.Packet:
    return wire.Packet(wire.MESSAGE, text)


async def test_what_waited_for_a_websocket_goes_first_and_what_comes_later_at_once() -> None:
    outbox, line = Outbox(), Line()
    outbox.put_nowait(said("a"))
    outbox.attach(line)
    outbox.put_nowait(said("b"))
    assert line.sent == ["4a", "4b"]
    assert outbox.empty()


async def test_a_client_that_does_not_keep_up_gets_the_rest_in_order_when_it_reads() -> None:
    outbox, line = Outbox(), Line(keeps_up=False)
    outbox.attach(line)
    outbox.put_nowait(said("a"))
    joining = asyncio.create_task(outbox.join())
    line.keeps_up = True
    outbox.put_nowait(said("b"))
    assert (line.sent, outbox.qsize()) == ([], 2)
    outbox.flush()
    await joining
    assert line.sent == ["4a", "4b"]


async def test_a_poll_takes_all_that_waits() -> None:
    outbox = Outbox()
    taking = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    outbox.put_nowait(said("a"))
    outbox.put_nowait(said("b"))
    assert [packet.data for packet in await taking] == ["a", "b"]


async def test_a_poll_that_is_given_up_takes_nothing_along() -> None:
    outbox = Outbox()
    taking = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    taking.cancel()
    await asyncio.wait({taking})
    outbox.put_nowait(said("a"))
    assert [packet.data for packet in await outbox.take()] == ["a"]


async def test_the_end_comes_behind_what_waits_and_nothing_behind_the_end() -> None:
    outbox, line = Outbox(), Line(keeps_up=False)
    outbox.attach(line)
    outbox.put_nowait(said("a"))
    outbox.end()
    outbox.put_nowait(said("late"))
    assert not line.closed
    line.keeps_up = True
    outbox.flush()
    assert (line.sent, line.closed) == (["4a"], True)
    assert await outbox.take() == []
