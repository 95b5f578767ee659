"""Engine.IO sessions whose clients misbehave or leave halfway, on an engine that echoes."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise

import httpx
import pytest
import uvicorn
from engineio import ASGIApp  # type: ignore[import-untyped] # the library has no types
from engineio import packet as wire
from structlog.testing import capture_logs
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from backplane.events import Event
from backplane.settings import Settings
from gateway import connections, frames, strictjson, websocket
from gateway.connections import Connection
from gateway.engine import GuardedEngine, server_options
from gateway.limits import Bucket
from gateway.sockets import Encoded
from tests.support.serving import served
from tests.support.waiting import wait_until

LIMIT = 20_000


@dataclass
class Echo:
    """An engine that sends back what it is sent, and notes who came and why they left."""

    http: httpx.AsyncClient
    port: int = 0
    left: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.engine = GuardedEngine(max_http_buffer_size=LIMIT, json=strictjson, async_handlers=False)
        self.engine.on("message", self.engine.send)
        self.engine.on("disconnect", self._note)

    async def _note(self, sid: str, reason: str) -> None:
        self.left.append(reason)

    def configuration(self, port: int) -> uvicorn.Config:
        app = ASGIApp(self.engine)
        options = server_options(Settings(max_frame_bytes=LIMIT))
        return uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=1,
            **options,
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/engine.io/?EIO=4&transport=polling"

    async def opened(self) -> tuple[Connection, str]:
        """Open a session by polling; return it, and the URL of its polls."""
        sid = json.loads((await self.http.get(self.url)).text[1:])["sid"]
        connection: Connection = self.engine.sockets[sid]
        return connection, f"{self.url}&sid={sid}"


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        echo = Echo(http)
        async with served(echo.configuration) as echo.port:
            yield echo
            await echo.engine.shutdown()


def upgraded(url: str) -> str:
    """Return the URL by which the session moves to a WebSocket."""
    return url.replace("http://", "ws://").replace("polling", "websocket")


async def half_a_request(port: int, url: str, head: str, body: bytes = b"") -> asyncio.StreamWriter:
    """Send a request, and leave the connection open."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    path = url.partition(f":{port}")[2]
    writer.write(head.format(path).replace("\n", "\r\n").encode() + body)
    await writer.drain()
    return writer


GET = "GET {} HTTP/1.1\nhost: x\n\n"
POST = "POST {} HTTP/1.1\nhost: x\ncontent-length: 100\n\n"


async def test_a_poll_that_is_abandoned_takes_no_packet_along(echo: Echo) -> None:
    connection, url = await echo.opened()
    writer = await half_a_request(echo.port, url, GET)
    await wait_until(lambda: connection.polling, "the poll to wait")
    writer.close()
    await wait_until(lambda: echo.left == ["transport close"], "the session to end, so that the client resumes")
    assert (await echo.http.get(url)).status_code == 400


async def test_half_a_post_ends_the_session(echo: Echo) -> None:
    connection, url = await echo.opened()
    writer = await half_a_request(echo.port, url, POST, b"4hel")
    await wait_until(lambda: connection.posting, "the post to be read")
    writer.close()
    await wait_until(lambda: echo.left == ["transport error"], "the session to end")


async def test_a_post_beside_another_ends_the_session(echo: Echo) -> None:
    connection, url = await echo.opened()
    writer = await half_a_request(echo.port, url, POST, b"4hel")
    await wait_until(lambda: connection.posting, "the post to be read")
    with capture_logs() as logs:
        assert (await echo.http.post(url, content="4x")).status_code == 400
    assert [line["reason"] for line in logs] == ["overlapping_posts"]
    assert echo.left == ["server disconnect"]
    writer.close()


async def test_an_upgrade_that_is_not_finished_leaves_the_session_where_it_is(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, url = await echo.opened()
    for seconds, sent in ((0.05, []), (0.5, ["2probe"])):
        with monkeypatch.context() as hurried:
            hurried.setattr(connections, "UPGRADE_DEADLINE", seconds)
            async with connect(upgraded(url), proxy=None) as client:
                for frame in sent:
                    await client.send(frame)
                    assert await client.recv() == "3probe"
                with pytest.raises(ConnectionClosed):
                    await client.recv()
    await echo.http.post(url, content="4hello")
    assert (await echo.http.get(url)).text == "4hello"
    async with connect(upgraded(url), proxy=None) as client:
        await client.send("2probe")
        assert await client.recv() == "3probe"
        await client.send("5")
        await wait_until(lambda: connection.upgraded, "the upgrade to be done")


async def test_packets_still_come_by_polling_while_the_second_transport_opens(echo: Echo) -> None:
    _, url = await echo.opened()
    async with connect(upgraded(url), proxy=None):
        await echo.http.post(url, content="4hello")
        assert (await echo.http.get(url)).text == "4hello"


async def test_a_session_that_ends_during_its_upgrade_closes_both_transports(echo: Echo) -> None:
    _, url = await echo.opened()
    async with connect(upgraded(url), proxy=None) as client:
        await client.send("2probe")
        assert await client.recv() == "3probe"
        await echo.http.post(url, content="1")
        with pytest.raises(ConnectionClosed):
            await client.recv()
    assert (await echo.http.get(url)).status_code == 400


async def test_a_long_answer_to_a_poll_is_compressed_for_those_who_take_it(echo: Echo) -> None:
    for accepted, encoding in [("br, gzip;q=0.5", "gzip"), ("identity", None)]:
        _, url = await echo.opened()
        await echo.http.post(url, content="4" + "x" * 5000)
        async with echo.http.stream("GET", url, headers={"accept-encoding": accepted}) as answer:
            raw = b"".join([part async for part in answer.aiter_raw()])
        assert answer.headers.get("content-encoding") == encoding
        assert (gzip.decompress(raw) if encoding else raw) == b"4" + b"x" * 5000


async def test_waiting_for_the_queue_ends_when_all_is_written(echo: Echo) -> None:
    async with connect(upgraded(echo.url), proxy=None) as client:
        sid = json.loads(str(await client.recv())[1:])["sid"]
        connection = echo.engine.sockets[sid]
        connection.queue.put_nowait(wire.Packet(wire.MESSAGE, "hello"))
        async with asyncio.timeout(10):
            await connection.queue.join()
            assert await client.recv() == "4hello"


async def test_waiting_for_the_queue_ends_with_the_session(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "CLOSE_GRACE", 0.1)
    # it reads no farewell either
    async with connect(upgraded(echo.url), proxy=None, max_queue=1, close_timeout=0.1) as client:
        sid = json.loads(str(await client.recv())[1:])["sid"]
        connection = echo.engine.sockets[sid]
        for _ in range(500):  # more than the buffers between the two take: the writer waits
            connection.queue.put_nowait(wire.Packet(wire.MESSAGE, "x" * 100_000))
        waiting = asyncio.create_task(connection.queue.join())
        with capture_logs():
            await echo.engine.cut(sid, frames.Breach("no_reason"))
        async with asyncio.timeout(10):
            await waiting
        assert connection.queue.empty()


async def test_a_connect_handler_may_refuse(echo: Echo) -> None:
    async def refuse(sid: str, environ: dict[str, object]) -> bool:
        return False

    echo.engine.on("connect", refuse)
    assert (await echo.http.get(echo.url)).status_code == 401
    assert not echo.engine.sockets


async def test_a_defect_in_a_request_is_one_line_without_its_words(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    _, url = await echo.opened()

    async def fail(connection: Connection, receive: object) -> list[object]:
        raise ValueError("secret-word")

    monkeypatch.setattr(Connection, "handle_poll", fail)
    with capture_logs() as logs:
        assert (await echo.http.get(url)).status_code == 500
    assert [line["event"] for line in logs] == ["request_failed"]
    assert "secret-word" not in json.dumps(logs)


async def test_what_a_poll_has_not_taken_is_bounded_by_its_size(echo: Echo) -> None:
    """A few large events are as much as many small ones; one is always taken, or nothing would ever come."""
    connection, _ = await echo.opened()
    event = Event(1, "tool_result", f'{{"output":"{"x" * connections.UNREAD_BYTES}"}}'.encode())
    small = Event(2, "text_delta", b'{"delta":"x"}')
    assert connection.write(Encoded(small, aliases=False))
    assert not connection.write(Encoded(event, aliases=False))
    assert len(await connection.queue.take()) == 2
    assert connection.write(Encoded(small, aliases=False))


class Still:
    """As much of a WebSocket as a session needs to be read from."""

    def __init__(self) -> None:
        self.paused = False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


@pytest.mark.parametrize(("size", "at_once"), [(1, connections.AT_ONCE), (64 * 1024, 1)], ids=["small", "large"])
async def test_a_flood_of_frames_leaves_others_their_turn(echo: Echo, size: int, at_once: int) -> None:
    """However many of them were read in one step; meanwhile nothing more is read, and the order stands."""
    seen: list[str] = []
    steps: list[int] = []
    echo.engine.reader = lambda connection, data: seen.append(str(data))
    session, flood = Connection(echo.engine, "flood"), Still()
    session.server.max_http_buffer_size = 100_000
    sent = [f"{number}".rjust(size) for number in range(200)]
    for frame in sent:
        session.frame_received(flood, "4" + frame)  # type: ignore[arg-type] # it is enough of one
    assert len(seen) == at_once
    while flood.paused:
        steps.append(len(seen))
        await asyncio.sleep(0)
    assert seen == sent
    assert max(after - before for before, after in pairwise(steps)) <= at_once


@pytest.mark.parametrize("size", [1, 64 * 1024], ids=["small", "large"])
async def test_more_than_a_share_of_frames_is_read_as_slowly_as_the_share_says(
    echo: Echo, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Whoever ignores refusals fills its own line, and not the node's time."""
    now, yielded = [100.0], asyncio.sleep

    async def pass_time(seconds: float) -> None:
        now[0] += seconds
        await yielded(0)

    monkeypatch.setattr(asyncio, "sleep", pass_time)
    seen: list[str] = []
    echo.engine.reader = lambda connection, data: seen.append(str(data))
    echo.engine.pace = lambda: Bucket(100, 50, lambda: now[0])
    session, flood = Connection(echo.engine, "flood"), Still()
    session.server.max_http_buffer_size = 100_000
    frame = "4" + "x".rjust(size)
    for _ in range(200):
        session.frame_received(flood, frame)  # type: ignore[arg-type] # it is enough of one
    while flood.paused:
        await yielded(0)
    assert len(seen) == 200
    assert now[0] - 100.0 == pytest.approx((200 * connections.weight(frame) - 50) / 100, abs=connections.AT_ONCE / 100)


async def test_what_a_client_sent_before_it_left_is_forgotten_with_it(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for its share of what nobody acts on: else it would keep its line after its connection has gone."""
    rests: list[float] = []
    yielded = asyncio.sleep

    async def pass_time(seconds: float) -> None:
        rests.append(seconds)
        await yielded(0)

    echo.engine.reader = lambda connection, data: None
    echo.engine.pace = lambda: Bucket(100, 50, lambda: 0.0)
    session, flood = Connection(echo.engine, "flood"), Still()
    for _ in range(1000):
        session.frame_received(flood, "4x")  # type: ignore[arg-type] # it is enough of one
    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "sleep", pass_time)
        await yielded(0)
        await session.close()
        while flood.paused:
            await yielded(0)
    assert len(rests) == 1


async def test_a_post_beyond_the_share_is_answered_when_it_is_paid_back(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polls are no way around what a WebSocket is held to."""
    rests: list[float] = []
    _, url = await echo.opened()
    bucket = Bucket(100, 5, lambda: 0.0)
    echo.engine.pace = lambda: bucket
    yielded = asyncio.sleep

    async def pass_time(seconds: float) -> None:
        rests.append(seconds)
        await yielded(0)

    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "sleep", pass_time)
        answer = await echo.http.post(url, content="\x1e".join(["4a"] * 15))
    assert answer.text == "ok"
    assert max(rests) == pytest.approx(0.1)
