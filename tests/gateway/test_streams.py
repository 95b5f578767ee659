"""Streams: what a reader of server-sent events gets, and that it is a member of its room until its response ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import httpx
import pytest
from websockets.asyncio.client import connect

from backplane.errors import NotFound, Unavailable
from backplane.events import Event, dumps
from backplane.settings import Settings
from gateway import streams
from gateway.auth import ANONYMOUS, mint
from gateway.callers import Callers
from gateway.degraded import Degraded
from gateway.metrics import Metrics
from gateway.payloads import ThreadSubscribe
from gateway.streams import Stream
from gateway.verbs import Verbs
from tests.gateway.agents import count, endless
from tests.gateway.conftest import Clients, RunningGateway, serving, working
from tests.support.waiting import wait_until
from worker.turn import AgentEvent, ToolCall, ToolResult, Turn

Make = Callable[..., Settings]
EVENTS = "/v1/threads/t/events"
MANY = 100
SECRET = "a secret of at least 32 bytes, for tests"
CALLERS = Callers(Settings(), Metrics())
RUN = {"threadId": "t", "runId": "run-1", "messages": [{"id": "u1", "role": "user", "content": "3"}]}


class Leaver:
    """A client whose connection takes nothing of one kind of message, and that leaves then."""

    def __init__(self, node: RunningGateway, until: str) -> None:
        self._app = node.gateway.app
        self._until = until
        self._stuck = asyncio.Event()

    async def ask(self, method: str, path: str, body: bytes) -> None:
        """Send one request, and return when the gateway is done with it."""
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "scheme": "http",
            "http_version": "1.1", "asgi": {"version": "3.0"}, "root_path": "",
        }  # fmt: skip
        coming = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if coming:
                return coming.pop()
            await self._stuck.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == self._until:
                self._stuck.set()
                await asyncio.Event().wait()

        await self._app(scope, receive, send)


@pytest.mark.parametrize("until", ["http.response.start", "http.response.body"])
@pytest.mark.parametrize(("method", "path"), [("GET", EVENTS), ("POST", "/v1/agui"), ("GET", "/v1/ai/chat/t/stream")])
async def test_who_leaves_before_the_past_is_written_leaves_the_room_too(
    gateway_settings: Make, method: str, path: str, until: str
) -> None:
    """While the head of the response is written, or the snapshot or a dialect's past behind it."""
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, endless), httpx.AsyncClient(base_url=node.url) as http:
        await http.post("/v1/threads/t/turns", json={"message": "3", "client_message_id": "run-1"})
        await Leaver(node, until).ask(method, path, json.dumps(RUN).encode() if method == "POST" else b"")
        assert len(node.gateway.rooms) == 0


@pytest.mark.parametrize("path", [EVENTS, "/v1/agui/t/stream", "/v1/ai/chat/t/stream"])
async def test_a_head_is_answered_as_a_get_begins_and_joins_no_thread(gateway_settings: Make, path: str) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, endless), httpx.AsyncClient(base_url=node.url) as http:
        gone = await http.head(path)
        async with http.stream("GET", path) as got:
            assert gone.status_code == got.status_code
        await http.post("/v1/threads/t/turns", json={"message": "3"})
        joined: list[int] = []
        node.gateway.rooms.changed = lambda room: joined.append(len(room))
        head = await http.head(path)
        assert joined == []
        async with http.stream("GET", path) as got:
            assert (head.status_code, got.status_code) == (200, 200)
            answers = head.headers.items(), got.headers.items()
            told, begun = ({name: value for name, value in headers if name != "date"} for headers in answers)
            assert told.items() <= begun.items()
            assert told["content-type"].startswith("text/event-stream")
        await wait_until(lambda: len(node.gateway.rooms) == 0, "the reader has left")
        assert joined != []


async def test_who_is_told_a_turn_that_has_ended_stays_no_member(gateway_settings: Make) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, count), httpx.AsyncClient(base_url=node.url) as http:
        for _ in range(2):
            assert "RUN_FINISHED" in (await http.post("/v1/agui", json=RUN)).text
            await wait_until(lambda: len(node.gateway.rooms) == 0, "the stream has left")


async def busy(turn: Turn) -> AsyncIterator[str | AgentEvent]:
    """Call many tools: their events are not merged."""
    for number in range(MANY):
        yield ToolCall("look", {}, f"c{number}")
        yield ToolResult("look", "nothing", f"c{number}")
    yield "done"


async def worked(http: httpx.AsyncClient) -> str:
    """Have the busy agent take a turn; return the epoch of its log."""
    started = (await http.post("/v1/threads/t/turns", json={"message": "x"})).json()

    async def over() -> bool:
        return (await http.get("/v1/threads/t")).json()["turn"] is None

    await wait_until(over, "the turn ends")
    return str(started["epoch"])


async def test_a_reader_that_missed_more_than_may_wait_gets_all_of_it_in_order(gateway_settings: Make) -> None:
    """Behind its cursor, without a snapshot, and then what is new."""
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, busy), httpx.AsyncClient(base_url=node.url) as http:
        epoch = await worked(http)
        async with http.stream("GET", EVENTS, headers={"Last-Event-ID": f"{epoch}:1"}, timeout=20) as response:
            lines = (line.partition(": ") async for line in response.aiter_lines())
            found = [(name, value) async for name, _, value in _until_deleted(lines, http)]
    offsets = [int(value.rpartition(":")[2]) for name, value in found if name == "id"]
    assert offsets == list(range(2, offsets[-1] + 1))
    assert len(offsets) > 2 * MANY
    assert [value for name, value in found if name == "event"][-2:] == ["chat_done", "thread_deleted"]


async def _until_deleted(
    lines: AsyncIterator[tuple[str, str, str]], http: httpx.AsyncClient
) -> AsyncIterator[tuple[str, str, str]]:
    """Delete the thread when all of its turn has come: the stream ends behind that."""
    async for line in lines:
        yield line
        if line[2] == "chat_done":
            assert (await http.delete("/v1/threads/t")).status_code == 200


async def test_who_does_not_read_what_it_missed_comes_back_behind_what_it_got(
    gateway_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told the events that wait, and nothing that is ahead of them."""
    monkeypatch.setattr(streams, "_PATIENCE", 0.1)
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, busy), httpx.AsyncClient(base_url=node.url) as http:
        asked = ThreadSubscribe(thread_id="t", epoch=await worked(http), after=0)
        verbs = Verbs(node.backplane, node.gateway.rooms)
        stream = Stream(verbs, node.gateway.metrics, node.gateway.node.degraded, CALLERS, ANONYMOUS, asked)
        joined = await stream.join()
        await wait_until(lambda: stream.gone, "it is given up")
        offsets = [int(sent.id.rpartition(":")[2]) async for sent in stream.events(joined) if sent.id]
        assert offsets == list(range(1, streams._UNREAD + 1))
        await wait_until(lambda: len(node.gateway.rooms) == 0, "it is no member")


class Verb:
    """Stands for the verbs: sends some events to whoever subscribes, and goes on as the test says."""

    def __init__(self, events: int, then: Callable[[], Awaitable[Any]]) -> None:
        self._events = events
        self._then = then

    async def subscribe(self, identity: object, asked: object, member: Stream) -> Any:
        """Send the events; all of them before anything is awaited."""
        for offset in range(1, self._events + 1):
            member.send(Event(offset, "x", dumps({"epoch": "e", "offset": offset}).encode()))
        return await self._then()

    def stream(self) -> Stream:
        """Return a stream that is to join."""
        asked = ThreadSubscribe(thread_id="t", epoch="e", after=0)
        return Stream(cast(Verbs, self), Metrics(), Degraded(lambda: False), CALLERS, ANONYMOUS, asked)


async def snapshot() -> Any:
    return {"ok": True, "epoch": "e", "offset": 9, "recovered": False, "snapshot": {}}


async def test_nothing_that_was_read_before_a_snapshot_comes_behind_it() -> None:
    """The log may be trimmed between two of its pages."""
    stream = Verb(3, snapshot).stream()
    joined = await stream.join()
    stream.lose("the end of this test")
    assert [sent.id async for sent in stream.events(joined)] == ["e:9"]


async def unavailable() -> Any:
    raise Unavailable("Redis did not answer; try again in a moment")


async def nowhere() -> Any:
    raise NotFound("no such thread")


async def defect() -> Any:
    raise ZeroDivisionError


@pytest.mark.parametrize("then", [snapshot, unavailable, nowhere, defect])
async def test_a_stream_that_has_begun_ends_when_the_rest_of_the_past_cannot_be_read(
    then: Callable[[], Awaitable[Any]],
) -> None:
    stream = Verb(streams._UNREAD, then).stream()
    offsets = [sent.id async for sent in stream.events(await stream.join())]
    assert offsets == [f"e:{offset}" for offset in range(1, streams._UNREAD + 1)]


@pytest.mark.parametrize(("then", "error"), [(unavailable, Unavailable), (nowhere, NotFound)])
async def test_a_stream_that_has_not_begun_is_refused(
    then: Callable[[], Awaitable[Any]], error: type[Exception]
) -> None:
    stream = Verb(3, then).stream()
    with pytest.raises(error):
        await stream.join()
    assert stream.gone


async def test_who_leaves_while_the_past_is_read_ends_the_reading() -> None:
    ended = asyncio.Event()

    async def read() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    stream = Verb(streams._UNREAD, read).stream()
    assert await stream.join() == {}
    stream.leave()
    await asyncio.wait_for(ended.wait(), 10)


@pytest.mark.parametrize("path", [EVENTS, "/v1/agui/t/stream", "/v1/ai/chat/t/stream"])
async def test_a_user_has_so_many_connections_open_and_no_more(
    path: str, gateway_settings: Make, clients: Clients
) -> None:
    """Sockets and streams together. Others are not counted with them, and one that has ended makes room."""
    settings = gateway_settings(jwt_secret=SECRET, max_connections_per_user=2)
    async with serving(settings) as node, working(settings, endless), httpx.AsyncClient(trust_env=False) as http:
        ann, bob = ({"Authorization": f"Bearer {mint(SECRET, name, 60)}"} for name in ("ann", "bob"))
        client = await clients.connect(node.url, mint(SECRET, "ann", 60))
        await client.call("chat:start", thread_id="t", message="go")
        async with http.stream("GET", node.url + path, headers=ann) as stream:
            assert stream.status_code == 200
            refused = await http.get(node.url + path, headers=ann)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
            assert int(refused.headers["Retry-After"]) == 5
            uri = node.url.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
            async with connect(uri, proxy=None) as socket:
                await socket.recv()
                await socket.send("40" + dumps({"token": mint(SECRET, "ann", 60)}))
                assert json.loads(str(await socket.recv())[2:])["data"]["code"] == "rate_limited"
            run = RUN | {"threadId": "other"}
            assert (await http.post(node.url + "/v1/agui", json=run, headers=ann)).status_code == 429
            assert (await http.get(node.url + "/v1/threads/other", headers=ann)).status_code == 404, "nothing was begun"
            assert (await http.get(node.url + EVENTS, headers=bob)).status_code == 404
            await clients.connect(node.url, mint(SECRET, "bob", 60))
        open_ = node.gateway.callers._open
        await wait_until(lambda: open_["default", "ann"] == 1, "the stream has ended")
        await clients.connect(node.url, mint(SECRET, "ann", 60))
        await clients.close()
        await wait_until(lambda: not open_, "nothing is kept of those who have gone")
