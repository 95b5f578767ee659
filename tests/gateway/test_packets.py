"""Raw frames against a real server: what is let in, what is answered, what ends the connection."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
import socketio  # type: ignore[import-untyped] # the library has no types
import uvicorn
from structlog.testing import capture_logs
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from backplane.errors import NotFound
from backplane.settings import Settings
from gateway import frames, packets, websocket
from gateway.engine import server_options
from gateway.frames import Breach
from gateway.packets import GuardedPacket, GuardedServer
from gateway.server import Uvicorn
from tests.support.waiting import wait_until

LIMIT = 20_000


class Node:
    """A guarded server on a loopback port, with handlers that remember what they were called with."""

    def __init__(self, **options: Any) -> None:
        self.settings = Settings(max_frame_bytes=LIMIT)
        self.sio = GuardedServer(self.settings, **options)
        self.connects: list[object] = []
        self.disconnects: list[str] = []
        self.calls: list[tuple[str, object]] = []
        self.sio.on("connect", self._on_connect)
        self.sio.on("disconnect", self._on_disconnect)
        self.sio.on("call", self._on_call)
        self.sio.on("missing", self._on_missing)
        self.sio.on("broken", self._on_broken)
        self.port = 0

    async def _on_connect(self, sid: str, environ: dict[str, Any], auth: object) -> None:
        self.connects.append(auth)
        if auth == {"token": "bad"}:
            raise socketio.exceptions.ConnectionRefusedError("unauthorized", {"retryable": False})
        if auth == {"token": "defect"}:
            raise RuntimeError("a defect in the handler")

    async def _on_disconnect(self, sid: str, reason: str) -> None:
        self.disconnects.append(sid)

    async def _on_call(self, sid: str, payload: object) -> dict[str, Any]:
        self.calls.append((sid, payload))
        return {"ok": True, "payload": payload}

    async def _on_missing(self, sid: str, payload: object) -> None:
        raise NotFound("expected a thread, got none of that name; check its id")

    async def _on_broken(self, sid: str, payload: object) -> None:
        raise RuntimeError("a defect in the handler")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}/socket.io/?EIO=4"

    @asynccontextmanager
    async def opened(self, **options: Any) -> AsyncIterator[ClientConnection]:
        """Open a WebSocket that has seen Engine.IO's greeting, and nothing else."""
        async with connect(f"ws://{self.address}&transport=websocket", proxy=None, **options) as client:
            assert str(await client.recv()).startswith("0{")
            yield client

    @asynccontextmanager
    async def joined(self, **options: Any) -> AsyncIterator[ClientConnection]:
        """Open a WebSocket that is in the namespace `/`."""
        async with self.opened(**options) as client:
            await client.send("40")
            assert str(await client.recv()).startswith('40{"sid":')
            yield client


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Node]:
    node = Node(**options)
    listener = socket.create_server(("127.0.0.1", 0))
    node.port = listener.getsockname()[1]
    config = uvicorn.Config(
        socketio.ASGIApp(node.sio),
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=1,
        **server_options(node.settings),
    )
    server = Uvicorn(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await wait_until(lambda: server.started, "the server to start")
        yield node
    finally:
        await node.sio.shutdown()
        server.leave()
        await serving


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with running() as started:
        yield started


async def answer(client: ClientConnection, frame: str) -> dict[str, Any]:
    """Send a call and return its acknowledgement."""
    await client.send(frame)
    received = str(await client.recv())
    assert received.startswith("43"), received
    (result,) = json.loads(received[received.index("[") :])
    assert isinstance(result, dict)
    return result


async def closed(client: ClientConnection) -> int:
    """Answer pings until the server closes the connection; return its close code."""
    async with asyncio.timeout(10):
        try:
            while True:
                if await client.recv() == "2":
                    await client.send("3")
        except ConnectionClosed as end:
            return end.rcvd.code if end.rcvd else 1006


async def until_it_is_cut_off(client: ClientConnection, frame: str | bytes) -> None:
    """Send a frame again and again until the server has closed the connection."""
    async with asyncio.timeout(10):
        with suppress(ConnectionClosed):
            while True:
                await client.send(frame)
                await asyncio.sleep(0)


# --- what is let in ---------------------------------------------------------------------------------------


async def test_a_call_is_answered(node: Node) -> None:
    async with node.joined() as client:
        result = await answer(client, '4217["call",{"thread_id":"t","n":[1,2.5,null,"é"]}]')
        assert result == {"ok": True, "payload": {"thread_id": "t", "n": [1, 2.5, None, "é"]}}
        assert (await answer(client, '421["call"]'))["payload"] is None
        await client.send('42["call",1]')  # no acknowledgement was asked for
        assert (await answer(client, '422["call",2]'))["payload"] == 2


async def test_the_handlers_own_error_is_the_answer(node: Node) -> None:
    async with node.joined() as client:
        error = (await answer(client, '421["missing",{}]'))["error"]
        assert error["code"] == "not_found"


async def test_a_defect_in_a_handler_is_answered_and_keeps_its_words_to_itself(node: Node) -> None:
    async with node.joined() as client:
        with capture_logs() as logs:
            result = await answer(client, '421["broken",{}]')
        assert result["error"]["code"] == "internal"
        assert result["error"]["retryable"] is True
        assert "defect" not in json.dumps(result)
        assert [line["event"] for line in logs] == ["handler_failed"]


async def test_the_connect_packet_brings_the_token(node: Node) -> None:
    async with node.opened() as client:
        await client.send('40{"token":"good"}')
        assert str(await client.recv()).startswith('40{"sid":')
    assert node.connects == [{"token": "good"}]


async def test_a_refused_connect_reaches_the_client_with_its_reason(node: Node) -> None:
    async with node.opened() as client:
        await client.send('40{"token":"bad"}')
        assert json.loads(str(await client.recv())[2:]) == {"message": "unauthorized", "data": {"retryable": False}}


async def test_a_defect_in_the_connect_handler_is_answered(node: Node) -> None:
    async with node.opened() as client:
        with capture_logs():
            await client.send('40{"token":"defect"}')
            refused = json.loads(str(await client.recv()).removeprefix("44"))
        assert refused["message"] == "internal"
        assert refused["data"]["retryable"] is True
        await client.send("40")
        assert str(await client.recv()).startswith('40{"sid":')


async def test_an_unknown_namespace_is_refused_and_hears_nothing(node: Node) -> None:
    async with node.joined() as client:
        await client.send("40/admin,")
        assert str(await client.recv()).startswith("44/admin,")
        await client.send('42/admin,1["call",{}]')
        await answer(client, '422["call",{}]')
        assert len(node.calls) == 1


# --- what is merely wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('["no:such",{}]', "unknown_event"),
        ('["secret-word\\n2026 CRITICAL",{}]', "unknown_event"),
        ('["",{}]', "unknown_event"),
        (f'["{"x" * 65}",{{}}]', "unknown_event"),
        ("[7,{}]", "unknown_event"),
        ("[null]", "unknown_event"),
        ('[{"secret-word":1},{}]', "unknown_event"),
        ('[["call"],{}]', "unknown_event"),
        ("[true]", "unknown_event"),
        ('["call",{},{}]', "invalid_payload"),
        ('["call",NaN]', "invalid_payload"),
        ('["call",{"temperature":-Infinity}]', "invalid_payload"),
        ('["call",1e999]', "invalid_payload"),
        ('["call","\\ud800"]', "invalid_payload"),
        ('["call",' + "9" * 5000 + "]", "invalid_payload"),
        ('["call",' + "[" * 5000 + "]" * 5000 + "]", "invalid_payload"),
        ('["call",' + "[" * 15_000, "invalid_payload"),
        ('["call",secret-word]', "invalid_payload"),
        ('["call",{}', "invalid_payload"),
        ('["call",{}]]', "invalid_payload"),
        ('["connect"', "invalid_payload"),
    ],
)
async def test_a_wrong_call_gets_the_clear_error_and_changes_nothing(
    node: Node, caplog: pytest.LogCaptureFixture, body: str, code: str
) -> None:
    async with node.joined() as client, node.joined() as bystander:
        with capture_logs() as logs:
            result = await answer(client, "427" + body)
            await client.send("42" + body)  # without an acknowledgement: nothing comes, nothing breaks
            assert (await answer(client, '428["call",1]'))["ok"] is True
        assert result["ok"] is False
        assert result["error"]["code"] == code
        assert "expected" in result["error"]["message"]
        assert (await answer(bystander, '421["call",2]'))["ok"] is True
        assert [payload for _, payload in node.calls] == [1, 2]
        for text in (json.dumps(result), json.dumps(logs), caplog.text):
            assert "secret-word" not in text
            assert "CRITICAL" not in text
            assert "Traceback" not in text


async def test_calls_before_the_connect_are_not_handled(node: Node) -> None:
    async with node.opened() as client:
        await client.send('421["call",{}]')
        await client.send("40")
        assert str(await client.recv()).startswith('40{"sid":')
        await answer(client, '422["call",2]')
        assert [payload for _, payload in node.calls] == [2]


# --- what ends the connection -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(packets.RESERVED_EVENTS))
@pytest.mark.parametrize("packet_id", ["", "5"])
async def test_an_event_with_a_reserved_name_runs_no_handler(node: Node, name: str, packet_id: str) -> None:
    async with node.joined() as client, node.joined() as bystander:
        connects = list(node.connects)
        await client.send(f'42{packet_id}["{name}",{{"token":"somebody else\'s"}},{{}}]')
        assert await closed(client) == frames.POLICY_VIOLATION
        await wait_until(lambda: len(node.disconnects) == 1, "one disconnect")
        assert node.connects == connects
        assert node.calls == []
        assert (await answer(bystander, '421["call",1]'))["ok"] is True
        assert len(node.disconnects) == 1


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ('451-["call",{"_placeholder":true,"num":0}]', frames.UNSUPPORTED_DATA),
        ('459999999999-["call",{"_placeholder":true,"num":0}]', frames.UNSUPPORTED_DATA),
        ('4510000000000-["call",{}]', frames.UNSUPPORTED_DATA),
        ('461-1["x"]', frames.UNSUPPORTED_DATA),
        ('423-["call",{"_placeholder":true,"num":0}]', frames.PROTOCOL_ERROR),
        (b"\x04attachment", frames.UNSUPPORTED_DATA),
        (b"", frames.UNSUPPORTED_DATA),
        ("bAAAA", frames.PROTOCOL_ERROR),
        ("", frames.PROTOCOL_ERROR),
        ("4", frames.PROTOCOL_ERROR),
        ("44", frames.PROTOCOL_ERROR),
        ("44{}", frames.PROTOCOL_ERROR),
        ("47", frames.PROTOCOL_ERROR),
        ("4²", frames.PROTOCOL_ERROR),
        ("4[" + "[" * 10_000, frames.PROTOCOL_ERROR),
        ('4{"a":1}', frames.PROTOCOL_ERROR),
        ("42", frames.PROTOCOL_ERROR),
        ("42[]", frames.PROTOCOL_ERROR),
        ('42{"0":"call"}', frames.PROTOCOL_ERROR),
        ('42"call"', frames.PROTOCOL_ERROR),
        ("42" + "1" * 16 + '["call"]', frames.PROTOCOL_ERROR),
        ('42²["call"]', frames.PROTOCOL_ERROR),
        ("42/" + "x" * 100 + ',["call"]', frames.PROTOCOL_ERROR),
        ('42/a\nb,["call"]', frames.PROTOCOL_ERROR),
        ("40[1]", frames.PROTOCOL_ERROR),
        ("40NaN", frames.PROTOCOL_ERROR),
        ("40{", frames.PROTOCOL_ERROR),
        ('40"token"', frames.PROTOCOL_ERROR),
        ("41{}", frames.PROTOCOL_ERROR),
        ("0", frames.PROTOCOL_ERROR),
        ("6", frames.PROTOCOL_ERROR),
        ("9", frames.PROTOCOL_ERROR),
        ("x", frames.PROTOCOL_ERROR),
        ("3" + "[" * 10_000, frames.PROTOCOL_ERROR),
        ("\n2026-01-01 CRITICAL", frames.PROTOCOL_ERROR),
    ],
)
async def test_a_frame_that_no_client_library_sends_ends_its_connection_alone(
    node: Node, caplog: pytest.LogCaptureFixture, frame: str | bytes, code: int
) -> None:
    async with node.joined() as client, node.joined() as bystander:
        with capture_logs() as logs:
            await client.send(frame)
            assert await closed(client) == code
            await wait_until(lambda: len(node.disconnects) == 1, "one disconnect")
        assert [line["event"] for line in logs] == ["connection_cut"]
        assert "CRITICAL" not in json.dumps(logs)
        assert caplog.text == ""
        assert node.calls == []
        assert (await answer(bystander, '421["call",1]'))["ok"] is True
    await wait_until(lambda: not node.sio.eio.sockets, "no socket to be left")
    assert not node.sio.environ


async def test_a_second_connect_packet_does_not_run_the_handler_again(node: Node) -> None:
    async with node.joined() as client:
        with capture_logs() as logs:
            await client.send('40{"token":"somebody else\'s"}')
            assert await closed(client) == frames.PROTOCOL_ERROR
        assert [line["reason"] for line in logs] == ["connected_already"]
    assert node.connects == [None]


@pytest.mark.parametrize(
    "frames_of_one",
    [('40{"token":"bad"}',), ("40", "41"), ("40/x,",)],
    ids=["refused each time", "leaves each time", "namespaces that are not there"],
)
async def test_a_session_that_connects_again_and_again_is_closed(node: Node, frames_of_one: tuple[str, ...]) -> None:
    async with node.opened() as client:
        for _ in range(packets.MAX_CONNECTS):
            for frame in frames_of_one:
                await client.send(frame)
            assert str(await client.recv()).startswith("4")
        with capture_logs() as logs:
            await client.send(frames_of_one[0])
            assert await closed(client) == frames.POLICY_VIOLATION
        assert [line["reason"] for line in logs] == ["too_many_connects"]
    assert len(node.connects) <= packets.MAX_CONNECTS
    await wait_until(lambda: not node.sio._connects, "nothing to be kept of it")


async def test_announced_attachments_are_not_waited_for(node: Node) -> None:
    async with node.joined() as client:
        await client.send('459999999999-["call",{"_placeholder":true,"num":0}]')
        await until_it_is_cut_off(client, b"x" * 10_000)
        await wait_until(lambda: not node.sio.eio.sockets, "no socket to be left")
    assert node.sio._binary_packet == {}
    assert node.calls == []


async def test_a_frame_over_the_limit_is_refused_as_too_big(node: Node) -> None:
    async with node.joined() as client:
        await client.send('421["call","' + "x" * LIMIT + '"]')
        assert await closed(client) == frames.MESSAGE_TOO_BIG
    async with node.joined() as client:
        assert (await answer(client, '421["call","' + "x" * (LIMIT - 100) + '"]'))["ok"] is True


async def test_compression_is_not_negotiated(node: Node) -> None:
    async with node.joined(compression="deflate") as client:
        assert client.response is not None
        assert "Sec-WebSocket-Extensions" not in client.response.headers


async def test_malformed_calls_without_end_end_the_connection_without_a_traceback(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    async with node.joined() as client, node.joined() as bystander:
        with capture_logs() as logs:
            await until_it_is_cut_off(client, '42["call",NaN]')
            assert await closed(client) == frames.POLICY_VIOLATION
        assert len(logs) <= packets.MAX_REFUSALS + 2
        assert logs[-1]["reason"] == "too_many_malformed_packets"
        assert caplog.text == ""
        assert (await answer(bystander, '421["call",1]'))["ok"] is True


async def test_answers_to_questions_that_nobody_asked_are_counted_as_malformed(node: Node) -> None:
    async with node.joined() as client:
        with capture_logs():
            await until_it_is_cut_off(client, "431[]")
        assert await closed(client) == frames.POLICY_VIOLATION


async def test_a_client_that_calls_and_never_reads_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets, "MAX_UNREAD", 20)
    monkeypatch.setattr(websocket, "CLOSE_GRACE", 0.1)
    async with running() as node:
        call = '421["call","' + "x" * (LIMIT - 100) + '"]'
        async with node.joined(max_queue=1, close_timeout=0.1) as client:  # nor does it read a farewell
            with capture_logs() as logs:
                calling = asyncio.create_task(_call_for_ever(client, call))
                await wait_until(
                    lambda: any(line.get("reason") == "reads_too_slowly" for line in logs), "the log to say so"
                )
                await wait_until(
                    lambda: not node.sio.eio.sockets, "no socket to be left"
                )  # although the client still does not read
                calling.cancel()
                await asyncio.gather(calling, return_exceptions=True)
            async with node.joined() as bystander:
                assert (await answer(bystander, '421["call",1]'))["ok"] is True


async def _call_for_ever(client: ClientConnection, call: str) -> None:
    while True:
        await client.send(call)


# --- sockets that are in no namespace ---------------------------------------------------------------------


@pytest.mark.parametrize("first", [None, '40{"token":"bad"}', "40/admin,", "leave"])
async def test_a_socket_in_no_namespace_is_closed_although_it_answers_pings(first: str | None) -> None:
    with capture_logs() as logs:
        async with running(connect_deadline=0.2, ping_interval=0.03) as node, node.opened() as client:
            with suppress(ConnectionClosed):  # a busy machine may be at the deadline by now
                for frame in ["40", "41"] if first == "leave" else [first] if first else []:
                    await client.send(frame)
            assert await closed(client) == frames.POLICY_VIOLATION
            await wait_until(lambda: not node.sio.eio.sockets, "no socket to be left")
    assert [line["reason"] for line in logs] == ["never_connected"]


async def test_a_socket_whose_client_was_told_to_leave_is_closed_too() -> None:
    async with running() as node, node.joined() as client:
        await answer(client, '421["call",1]')
        node.sio._connect_deadline = 0.05
        await node.sio.disconnect(node.calls[0][0])
        with capture_logs():
            assert await closed(client) == frames.POLICY_VIOLATION


async def test_a_socket_in_a_namespace_outlives_the_deadline() -> None:
    async with running(connect_deadline=0.5) as node, node.joined() as client, node.opened() as silent:
        with capture_logs():
            await closed(silent)  # so the deadline of the one that joined before it has passed as well
        assert (await answer(client, '421["call",1]'))["ok"] is True


# --- HTTP polling -----------------------------------------------------------------------------------------


@asynccontextmanager
async def polling(node: Node) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    async with httpx.AsyncClient(trust_env=False) as http:
        url = f"http://{node.address}&transport=polling"
        greeting = json.loads((await http.get(url)).text[1:])
        yield http, f"{url}&sid={greeting['sid']}"


async def test_a_call_by_http_polling_is_answered(node: Node) -> None:
    async with polling(node) as (http, url):
        assert (await http.post(url, content="40")).text == "ok"
        assert (await http.get(url)).text.startswith('40{"sid":')
        chunks = _chunks(b'421["call","\xc3\xa9"]\x1e422["call",NaN]')
        assert (await http.post(url, content=chunks)).status_code == 200
        answers = (await http.get(url)).text
        if "\x1e" not in answers:  # each call is handled by a task of its own, so its answer may come alone
            answers += (await http.get(url)).text
        assert '{"ok":true,"payload":"é"}' in answers
        assert '"invalid_payload"' in answers


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), 5):
        yield body[at : at + 5]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"bAAAA",
        b"\xff\xfe",
        b'451-["call",{}]',
        b'42["connect",{}]',
        b"\x1e".join([b'42["call",1]'] * (frames.MAX_POLL_PACKETS + 1)),
        b'42["call","' + b"x" * LIMIT + b'"]',
        b'd=42["call",1]',
        b'42["call",1]\x1e9\x1e42["call",2]',
    ],
)
async def test_a_malformed_poll_ends_its_session(node: Node, caplog: pytest.LogCaptureFixture, body: bytes) -> None:
    caplog.set_level(logging.WARNING)
    async with polling(node) as (http, url):
        await http.post(url, content="40")
        await http.get(url)
        with capture_logs() as logs:
            await http.post(url, content=body)
        assert [line["event"] for line in logs] == ["connection_cut"]
        assert (await http.get(url)).status_code == 400
        assert "Traceback" not in caplog.text
    assert node.calls == []
    assert node.disconnects
    assert not node.sio.eio.sockets


async def test_a_poll_that_waits_ends_with_its_session(node: Node) -> None:
    async with polling(node) as (http, url):
        await http.post(url, content="40")
        await http.get(url)
        waiting = asyncio.create_task(http.get(url))
        with capture_logs():
            await http.post(url, content="x")
        async with asyncio.timeout(10):
            assert (await waiting).status_code in {200, 400}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("query", ["&sid=x%0a%0aCRITICAL%20root", "&sid=" + "a" * 5000, "&j=0", "&sid=unknown"])
async def test_a_malformed_query_reaches_no_log_line(
    node: Node, caplog: pytest.LogCaptureFixture, method: str, query: str
) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        with capture_logs() as logs:
            got = await http.request(method, f"http://{node.address}&transport=polling{query}", content=b"")
    assert got.status_code == 400
    text = json.dumps(logs) + caplog.text
    assert "CRITICAL" not in text
    assert len(text) < 500


async def test_a_malformed_query_opens_no_websocket(node: Node) -> None:
    with capture_logs(), pytest.raises(InvalidStatus):
        async with connect(f"ws://{node.address}&transport=websocket&sid=x%0ay", proxy=None):
            pass


async def test_a_session_that_polls_may_move_to_a_websocket(node: Node) -> None:
    async with polling(node) as (http, url):
        await http.post(url, content="40")
        await http.get(url)
        ws = url.replace("http://", "ws://").replace("polling", "websocket")
        async with connect(ws, proxy=None) as client:
            await client.send("2probe")
            assert await client.recv() == "3probe"
            await client.send("5")
            received = ""
            await client.send('421["call",1]')
            while not received.startswith("431"):
                received = str(await client.recv())
            await client.send("x")
            with capture_logs():
                assert await closed(client) == frames.PROTOCOL_ERROR
    await wait_until(
        lambda: len(node.disconnects) == 1 and not node.sio.eio.sockets, "one disconnect, and no socket to be left"
    )


async def test_a_malformed_upgrade_ends_the_session(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    async with polling(node) as (http, url):
        await http.post(url, content="40")
        await http.get(url)
        ws = url.replace("http://", "ws://").replace("polling", "websocket")
        with capture_logs():
            async with connect(ws, proxy=None) as client:
                await client.send("x")
                assert await closed(client) == frames.PROTOCOL_ERROR
            assert (await http.get(url)).status_code == 400
    assert node.disconnects
    assert caplog.text == ""


# --- everything at once -----------------------------------------------------------------------------------


async def test_random_frames_leave_the_node_and_a_bystander_alone(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    source = random.Random(20260101)
    alphabet = '0123456789[]{}",:-/bcallNaN\\ud8\n\x00é\U0001f600'
    async with node.joined() as bystander:
        with capture_logs():
            for turn in range(150):
                async with node.joined() as client:
                    await _send_noise(client, source, alphabet)
                if turn % 50 == 0:
                    assert (await answer(bystander, f'42{turn}["call",1]'))["ok"] is True
        assert (await answer(bystander, '421["call",1]'))["ok"] is True
        await wait_until(lambda: len(node.sio.eio.sockets) == 1, "one socket to be left")
    assert "Traceback" not in caplog.text


async def _send_noise(client: ClientConnection, source: random.Random, alphabet: str) -> None:
    starts = ["", "4", "42", "421[", '42["call",', "40", "451-", "43"]
    try:
        for _ in range(20):
            noise = "".join(source.choices(alphabet, k=source.randrange(30)))
            await client.send(source.choice(starts) + noise)
    except ConnectionClosed:
        return


@pytest.mark.parametrize("text", ['2["connect"]', "2[]", "2", "", "5", '51-["x"]', "7", "2²[]", None, 7, {"a": 1}])
def test_reading_a_packet_raises_a_breach_and_nothing_else(text: Any) -> None:
    with pytest.raises(Breach):
        GuardedPacket().decode(text)


def test_the_library_writes_no_packet_to_the_log_at_any_level_of_ours() -> None:
    logging.getLogger("socketio.server").setLevel(logging.DEBUG)
    GuardedServer(Settings())
    assert logging.getLogger("socketio.server").level == logging.WARNING
    assert logging.getLogger("engineio.server").level == logging.WARNING


def test_of_one_client_is_read_in_proportion_to_the_calls_that_it_may_make() -> None:
    pace = GuardedServer(Settings(calls_per_second=2, calls_burst=4)).eio.pace()
    pace.charge(100)
    assert pace.debt == 0
    pace.charge(50_000)
    assert pace.debt == pytest.approx(1000, abs=10), "the clock goes on meanwhile"
