"""Handshakes and frames, byte by byte, against an engine that echoes; and the same engine over plain ASGI."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from structlog.testing import capture_logs
from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway import frames, websocket
from gateway.connections import Connection
from gateway.outbox import Outbox
from gateway.websocket import HttpProtocol, WebSocketProtocol
from tests.gateway.echo import LIMIT, Echo, echoing, opened
from tests.support.waiting import wait_until

KEY = base64.b64encode(b"0123456789abcdef").decode()
MORE_THAN_A_KERNEL_TAKES = 16 * 1024 * 1024
"""Bytes for a client that reads nothing of them: most of them wait in the transport, and go on waiting there."""


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    async with echoing() as echo:
        yield echo


def request(
    *, method: str = "GET", version: str = "1.1", path: str = "/engine.io/?EIO=4&transport=websocket", **headers: str
) -> bytes:
    """Return a handshake; keyword arguments change its headers, an empty one leaves a header out."""
    given = {
        "host": "x", "upgrade": "websocket", "connection": "keep-alive, Upgrade", "sec-websocket-key": KEY,
        "sec-websocket-version": "13",
    }  # fmt: skip
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in given.items() if value)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def masked(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """Return a client's frame with a mask of zeros (RFC 6455, section 5.3)."""
    return bytes((opcode | (0x80 if fin else 0), 0x80 | len(payload), 0, 0, 0, 0)) + payload


async def test_the_answer_proves_that_the_handshake_was_read(echo: Echo) -> None:
    """With the key and the answer of RFC 6455, section 1.3."""
    reader, writer = await echo.say(request(sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ=="))
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    assert head.startswith("http/1.1 101 switching protocols\r\n")
    assert "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in head
    assert "sec-websocket-extensions" not in head
    writer.close()


@pytest.mark.parametrize(
    ("handshake", "status"),
    [
        (request(sec_websocket_version="8"), 426),
        (request(sec_websocket_version=""), 426),
        (request(sec_websocket_key=""), 400),
        (request(sec_websocket_key="short"), 400),
        (request(sec_websocket_key="!" * 24), 400),
        (request(sec_websocket_key=f"{KEY}\r\nsec-websocket-key: {KEY}"), 400),
        (request(method="POST"), 400),
        (request(version="1.0"), 400),
        (request(content_length="5"), 400),
        (request(transfer_encoding="chunked"), 400),
        (request(path="/engine.io/?EIO=3&transport=websocket"), 403),
        (request(path="/elsewhere"), 500),  # the library answers a WebSocket with an HTTP page: a defect
    ],
)
async def test_a_malformed_handshake_is_refused(echo: Echo, handshake: bytes, status: int) -> None:
    with capture_logs():
        reader, writer = await echo.say(handshake)
        async with asyncio.timeout(10):
            answer = await reader.read()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert not echo.engine.sockets
    writer.close()


async def test_a_client_that_does_not_wait_for_the_answer_is_dropped() -> None:
    async with echoing() as echo:
        asked, go = asyncio.Event(), asyncio.Event()

        async def hesitate(sid: str, environ: object) -> None:
            asked.set()
            await go.wait()

        echo.engine.on("connect", hesitate)
        reader, writer = await echo.say(request())
        await asked.wait()
        writer.write(masked(1, b"4early"))
        async with asyncio.timeout(10):
            assert not await _read_to_the_end(reader)
        go.set()
        await wait_until(lambda: not echo.engine.sockets, "the session to end")
        writer.close()


async def test_a_message_in_pieces_comes_as_one_and_pings_between_them_are_answered(echo: Echo) -> None:
    reader, writer = await echo.say(request())
    await reader.readuntil(b"}")
    writer.write(masked(1, b"4he", fin=False) + masked(9, b"ping") + masked(0, b"", fin=False) + masked(0, b"llo"))
    async with asyncio.timeout(10):
        assert await reader.readexactly(6) == b"\x8a\x04ping"
        assert await reader.readexactly(8) == b"\x81\x064hello"
    writer.close()


async def test_text_that_is_not_utf8_closes_the_connection(echo: Echo) -> None:
    reader, writer = await echo.say(request())
    await reader.readuntil(b"}")
    writer.write(masked(1, b"4\xff"))
    async with asyncio.timeout(10):
        assert (await reader.read())[:4] == b"\x88\x02" + (1007).to_bytes(2)
    await wait_until(lambda: not echo.engine.sockets, "the session to end")
    writer.close()


@pytest.mark.parametrize("sent", [masked(3, b""), b"\x81\x054hell", masked(0, b"4x"), masked(0x41, b"4x")])
async def test_what_is_no_frame_of_a_client_closes_the_connection(echo: Echo, sent: bytes) -> None:
    reader, writer = await echo.say(request())
    await reader.readuntil(b"}")
    writer.write(sent)
    async with asyncio.timeout(10):
        assert (await reader.read())[2:4] == frames.PROTOCOL_ERROR.to_bytes(2)
    await wait_until(lambda: not echo.engine.sockets, "the session to end")
    writer.close()


async def test_pings_of_a_client_that_reads_nothing_fill_no_buffer(echo: Echo) -> None:
    async with connect(echo.url, proxy=None, max_queue=1, ping_interval=None, close_timeout=0.1) as client:
        sid = await opened(client)
        line = echo.engine.sockets[sid].queue.websocket
        while line._transport.get_write_buffer_size() < MORE_THAN_A_KERNEL_TAKES:
            line.send("4" + "x" * 100_000)
            await asyncio.sleep(0)
        pongs = [asyncio.ensure_future(await client.ping()) for _ in range(20)]
        await client.send("4last")
        await wait_until(lambda: not echo.engine.sockets[sid].queue.empty(), "the echo of what came behind them")
        async with asyncio.timeout(10):
            while await client.recv() != "4last":
                pass
        assert not any(pong.done() for pong in pongs)


async def test_an_idle_connection_has_no_task_and_nothing_of_its_request(echo: Echo) -> None:
    async with connect(echo.url, proxy=None) as client:
        await opened(client)
        assert not [task for task in asyncio.all_tasks() if "handshake" in task.get_name()]
        assert not [found for found in gc.get_objects() if type(found) is dict and websocket.WEBSOCKET in found]


async def test_a_connection_that_has_ended_is_forgotten_without_the_garbage_collector(echo: Echo) -> None:
    gc.collect()
    gc.disable()
    try:
        async with connect(echo.url, proxy=None) as client:
            await opened(client)
            assert _kept()
        await wait_until(lambda: not echo.engine.sockets, "the session to end")
        await wait_until(lambda: not _kept(), "its memory to be free")
    finally:
        gc.enable()


async def test_a_frame_behind_one_that_is_still_handled_waits_for_its_end() -> None:
    async with echoing() as echo:
        handled: list[object] = []
        go = asyncio.Event()

        async def slowly(sid: str, content: object) -> None:
            await go.wait()
            handled.append(content)

        echo.engine.on("message", slowly)
        async with connect(echo.url, proxy=None) as client:
            await opened(client)
            for content in ("4one", b"two", "4three"):
                await client.send(content)
            await client.send("4" + "x" * (LIMIT + 1))
            go.set()
            with capture_logs(), pytest.raises(ConnectionClosed):
                await client.recv()
        assert handled == ["one", b"two", "three"]


async def _read_to_the_end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


def _kept() -> list[object]:
    kinds = (Connection, Outbox, WebSocketProtocol)
    return [found for found in gc.get_objects() if type(found) in kinds]


# --- the bounds of a request ---------------------------------------------------------------------------------

POST = b"POST /engine.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    ("begun", "piece"),
    [
        (b"GET /", b"a" * 4096),
        (b"GET / HTTP/1.1\r\nhost: x\r\n", b"x-more: " + b"a" * 4096 + b"\r\n"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx-long: ", b"a" * 4096),
        (POST + b"transfer-encoding: chunked\r\n\r\n", b"1;" + b"a" * 4096 + b"\r\nx\r\n"),
        (POST + b"transfer-encoding: chunked\r\n\r\n0\r\n", b"x-more: " + b"a" * 4096 + b"\r\n"),
    ],
    ids=["address", "headers", "one header", "chunks", "trailers"],
)
async def test_a_head_that_does_not_end_is_not_kept(echo: Echo, begun: bytes, piece: bytes) -> None:
    reader, writer = await echo.say(begun)
    with capture_logs():
        async with asyncio.timeout(10):
            with suppress(ConnectionError):
                for _ in range(1000):
                    writer.write(piece)
                    await writer.drain()
                    if reader.at_eof():
                        break
            with suppress(ConnectionError):
                await reader.read()
    assert reader.at_eof() or reader.exception() is not None
    writer.close()


async def test_a_long_body_is_no_long_head(echo: Echo) -> None:
    """The engine bounds a body: a client that posts too much is told so, and its connection goes on."""
    reader, writer = await echo.say(
        POST
        + b"content-length: 200000\r\n\r\n"
        + b"a" * 200_000
        + b"GET /engine.io/?EIO=4&transport=polling HTTP/1.1\r\n"
        b"host: x\r\nconnection: close\r\n\r\n"
    )
    async with asyncio.timeout(10):
        answers = await reader.read()
    assert b"pingInterval" in answers
    writer.close()


@pytest.mark.parametrize(
    "sent",
    [b"", b"\r\n", b"GET / HT", POST + b"content-length: 9\r\n\r\nhalf", b"GET /x HTTP/1.1\r\nhost: x\r\n\r\nGET / HT"],
    ids=["nothing", "an empty line", "half a head", "half a body", "half a head behind another request"],
)
async def test_a_request_that_does_not_end_costs_its_connection(
    sent: bytes, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "REQUEST_DEADLINE", 0.1)
    reader, writer = await echo.say(sent)
    async with asyncio.timeout(10):
        with suppress(ConnectionError):
            await reader.read()
    writer.close()


async def test_a_request_that_has_ended_may_take_long_to_answer(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "REQUEST_DEADLINE", 0.5)
    later = asyncio.Event()
    asyncio.get_running_loop().call_later(1.0, later.set)

    async def hesitate(sid: str, environ: object) -> None:
        await later.wait()

    echo.engine.on("connect", hesitate)
    for handshake in (request(), b"GET /engine.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: x\r\n\r\n"):
        reader, writer = await echo.say(handshake)
        async with asyncio.timeout(10):
            assert b"pingInterval" in await reader.readuntil(b"}")
        writer.close()


POLL = b"GET /engine.io/?EIO=4&transport=polling%s HTTP/1.1\r\nhost: x\r\n\r\n"
MUCH = "x" * 20_000_000


@pytest.mark.parametrize("connection", [b"", b"connection: close\r\n"], ids=["kept alive", "closed"])
async def test_an_answer_that_nobody_reads_costs_its_connection(
    connection: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "UNREAD_DEADLINE", 0.1)
    lost: list[HttpProtocol] = []

    class Noting(HttpProtocol):
        def connection_lost(self, exc: Exception | None) -> None:
            lost.append(self)
            super().connection_lost(exc)

    async with echoing(http=Noting) as echo:
        reader, writer = await echo.say(POLL.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") % b"")
        sid = json.loads((await reader.read()).partition(b"\r\n\r\n0")[2])["sid"].encode()
        writer.close()
        await wait_until(lambda: len(lost) == 1, "the first connection to end")
        await echo.engine.send(sid.decode(), MUCH)
        asked = (POLL % (b"&sid=" + sid)).replace(b"host: x\r\n", b"host: x\r\n" + connection)
        reader, writer = await echo.say(asked)
        await wait_until(lambda: len(lost) == 2, "the connection of the answer to end")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(len(MUCH))
        writer.close()


async def test_an_answer_that_is_read_slowly_is_sent_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "UNREAD_DEADLINE", 0.01)
    waiting = [9, 8, 8, 7, 7, 7, 6]
    aborted = asyncio.Event()

    class Transport(asyncio.Transport):
        def get_write_buffer_size(self) -> int:
            return waiting.pop(0)

        def abort(self) -> None:
            aborted.set()

        def close(self) -> None:
            aborted.set()

    protocol = HttpProtocol(Config(Echo), ServerState(), {})
    protocol.connection_made(Transport())
    protocol.pause_writing()
    async with asyncio.timeout(10):
        await aborted.wait()
    assert waiting == [6], "at 9 it began, at 8 and at 7 something was read, and then nothing"
    protocol.connection_lost(None)
