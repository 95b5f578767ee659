"""A client that stops reading costs a node next to nothing, and nobody else anything (threats.md row 6)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import websockets

from backplane.connection import Backplane
from backplane.ids import thread_ref
from backplane.settings import Settings
from backplane.turns import Batch, Ending, Start
from gateway import sockets
from gateway.auth import ANONYMOUS
from tests.gateway.conftest import Clients, RunningGateway, serving, working
from tests.support.waiting import wait_until
from worker.turn import AgentEvent, ToolCall, ToolResult, Turn

Make = Callable[..., Settings]
REF = thread_ref("t")
CALLS = 40
PIECES, PIECE = 80, 250_000  # 20 MB: more than the kernel keeps for both ends


async def torrent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
    """Say 20 MB, as tool outputs: they cannot be merged away."""
    for number in range(PIECES):
        yield ToolCall("pipe", {}, f"c{number}")
        yield ToolResult("pipe", "x" * PIECE, f"c{number}")
    yield "done"


LONG, PAGE = 100_000, 1_100_000
"""Characters of a message, and of the largest answer to one call: a page of the history."""


async def long_talk(settings: Settings) -> None:
    """Fill a thread with more messages than come at once."""
    async with Backplane.open(settings) as backplane:
        for _ in range(8):
            started = await backplane.turns.start(REF, Start("x" * LONG, ANONYMOUS.subject, "sid"))
            claim = await backplane.turns.claim(backplane.keys.thread(REF).member(started.request_id), "w")
            assert claim is not None
            await backplane.turns.finish(
                claim, Batch(1, []), Ending("done", "chat_done", '"full_response":""', "x" * LONG)
            )


class RawClient:
    """A WebSocket client that reads only when it is told to."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def say(self, frame: str) -> None:
        await self._connection.send(frame)

    async def answers(self, count: int) -> list[Any]:
        """Read so many acknowledgements."""
        found: list[Any] = []
        while len(found) < count:
            frame = await self._connection.recv()
            if frame.startswith("43"):
                found.append(json.loads(frame[frame.index("[") :])[0])
        return found

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


async def test_answers_that_nobody_reads_are_not_piled_up_and_all_come_when_they_are_read(
    gateway_settings: Make,
) -> None:
    settings = gateway_settings()
    async with serving(settings) as node:
        await long_talk(settings)
        address = node.url.replace("http", "ws") + "/socket.io/?EIO=4&transport=websocket"
        async with websockets.connect(address, max_queue=1, max_size=None) as connection:
            slow = RawClient(connection)
            await slow.say("40{}")
            await slow.read_until("ready")
            (socket,) = node.gateway.sockets._sockets.values()
            most = 0
            for number in range(CALLS):
                await slow.say(f'42{number}["thread:history",{{"thread_id":"t","limit":200}}]')

            def is_held() -> bool:
                nonlocal most
                most = max(most, buffered(node))
                return socket.calls > 1 and socket._session.queue._waiters is not None

            await wait_until(is_held, "the next answer is not made")
            answers = await slow.answers(CALLS)
            await wait_until(lambda: socket.calls == 0, "all are done")
            assert {len(answer["messages"]) for answer in answers} == {10}
            assert most < 3 * PAGE, "the node held far less than it was asked for"


async def test_who_reads_no_answers_is_cut_and_what_it_asked_for_is_left_undone(
    gateway_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "_PATIENCE", 0.1)
    settings = gateway_settings()
    async with serving(settings) as node:
        await long_talk(settings)
        address = node.url.replace("http", "ws") + "/socket.io/?EIO=4&transport=websocket"
        async with websockets.connect(address, max_queue=1, max_size=None, close_timeout=0.1) as connection:
            dead = RawClient(connection)
            await dead.say("40{}")
            await dead.read_until("ready")
            (socket,) = node.gateway.sockets._sockets.values()
            for number in range(CALLS):
                await dead.say(f'42{number}["thread:history",{{"thread_id":"t","limit":200}}]')
            await wait_until(lambda: len(node.gateway.sockets) == 0, "it is cut", seconds=20)
            await wait_until(lambda: socket.calls == 0, "nothing waits any more")


async def test_who_reads_no_polls_is_bounded_too(gateway_settings: Make) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, httpx.AsyncClient(base_url=node.url, trust_env=False) as http:
        await long_talk(settings)
        poll = "/socket.io/?EIO=4&transport=polling"
        poll += "&sid=" + json.loads((await http.get(poll)).text[1:])["sid"]
        await http.post(poll, content="40{}")
        await wait_until(lambda: len(node.gateway.sockets) == 1, "it is there")
        (socket,) = node.gateway.sockets._sockets.values()
        calls = [f'42{number}["thread:history",{{"thread_id":"t","limit":200}}]' for number in range(CALLS)]
        await http.post(poll, content="\x1e".join(calls))
        await wait_until(lambda: socket._session.queue._waiters is not None, "the next answer is not made")
        assert buffered(node) < 2 * PAGE
        got = 0
        while got < CALLS:
            got += sum(packet.startswith("43") for packet in (await http.get(poll)).text.split("\x1e"))
        await wait_until(lambda: socket.calls == 0, "all are done")
