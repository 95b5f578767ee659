"""A client that stops reading costs a node next to nothing, and nobody else anything (threats.md row 6)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import websockets

from backplane.settings import Settings
from gateway import sockets
from tests.gateway.conftest import Clients, RunningGateway, serving, working
from tests.support.waiting import wait_until
from worker.turn import AgentEvent, ToolCall, ToolResult, Turn

Make = Callable[..., Settings]
PIECES, PIECE = 80, 250_000  # 20 MB: more than the kernel keeps for both ends


async def torrent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
    """Say 20 MB, as tool outputs: they cannot be merged away."""
    for number in range(PIECES):
        yield ToolCall("pipe", {}, f"c{number}")
        yield ToolResult("pipe", "x" * PIECE, f"c{number}")
    yield "done"


class RawClient:
    """A WebSocket client that reads only when it is told to."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def say(self, frame: str) -> None:
        await self._connection.send(frame)

    async def read_until(self, name: str) -> list[dict[str, Any]]:
        """Read events up to the first of a name; answer pings."""
        found = []
        while True:
            frame = await self._connection.recv()
            if frame == "2":
                await self._connection.send("3")
            if frame.startswith('42["'):
                event, data = json.loads(frame[2:])
                if ":" not in event and "offset" in data:
                    found.append(data)
                if event == name:
                    return found


def buffered(node: RunningGateway) -> int:
    """Return the bytes that the node holds for its sockets: transports and queues."""
    total = 0
    for socket in node.gateway.sockets._sockets.values():
        queue = socket._session.queue
        if queue.websocket is not None:
            total += queue.websocket._transport.get_write_buffer_size()
        total += sum(len(packet.data or "") for packet in queue._packets or ())
    return total


async def test_a_stopped_reader_is_not_buffered_for_and_gets_everything_when_it_reads(
    gateway_settings: Make, clients: Clients
) -> None:
    settings = gateway_settings(max_tool_output_bytes=PIECE + 1, aliases=False)
    most = 0
    async with serving(settings) as node, working(settings, torrent):
        address = node.url.replace("http", "ws") + "/socket.io/?EIO=4&transport=websocket"
        bystander = await clients.connect(node.url)
        async with websockets.connect(address, max_queue=1, max_size=None) as connection:
            slow = RawClient(connection)
            await slow.say("40{}")
            await slow.read_until("ready")
            await slow.say('42["chat:start",{"thread_id":"t","message":"go"}]')
            accepted = (await slow.read_until("chat_accepted"))[-1]
            await bystander.call("thread:subscribe", thread_id="t", epoch=accepted["epoch"], after=0)

            def over() -> bool:
                nonlocal most
                most = max(most, buffered(node))
                return bystander.named("chat_done") != []

            await wait_until(over, "the other one gets all of it", seconds=40)
            assert len(bystander.named("tool_result")) == PIECES
            assert most < 2_000_000, "the node held far less than the 20 MB that one client did not read"
            rest = await slow.read_until("chat_done")
            assert [data["offset"] for data in rest] == list(range(2, rest[-1]["offset"] + 1))
            assert sum(data["event"] == "tool_result" for data in rest) == PIECES


async def test_a_client_that_never_reads_again_is_cut(
    gateway_settings: Make, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "_PATIENCE", 0.1)
    settings = gateway_settings(max_tool_output_bytes=PIECE + 1, aliases=False)
    async with serving(settings) as node, working(settings, torrent):
        address = node.url.replace("http", "ws") + "/socket.io/?EIO=4&transport=websocket"
        async with websockets.connect(address, max_queue=1, max_size=None, close_timeout=0.1) as connection:
            dead = RawClient(connection)
            await dead.say("40{}")
            await dead.read_until("ready")
            await dead.say('42["chat:start",{"thread_id":"t","message":"go"}]')
            await wait_until(lambda: len(node.gateway.sockets) == 1, "it is there")
            await wait_until(lambda: len(node.gateway.sockets) == 0, "it is cut", seconds=20)
            await wait_until(lambda: len(node.gateway.rooms) == 0, "and watches nothing")


async def test_a_flood_for_a_polling_client_is_bounded_too(gateway_settings: Make, clients: Clients) -> None:
    """Long polling has no transport to ask: what waits in its queue is counted."""

    async def words(turn: Turn) -> AsyncIterator[str]:
        for number in range(2_000):
            yield f"{number} "
            await asyncio.sleep(0)

    settings = gateway_settings(coalesce=0.0)
    async with serving(settings) as node, working(settings, words):
        poller = await clients.connect(node.url, transports=["polling"])
        await poller.call("chat:start", thread_id="t", message="go")
        longest = 0

        def over() -> bool:
            nonlocal longest
            for socket in node.gateway.sockets._sockets.values():
                longest = max(longest, socket._session.queue.qsize())
            return poller.named("chat_done") != []

        await wait_until(over, "all arrives", seconds=30)
        assert poller.text == "".join(f"{n} " for n in range(2_000))
        assert longest < 400
