"""The conformance profile, frame by frame: what the official protocol suites ask, and more that servers get wrong."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from backplane.embedded import free_port
from gateway import conformance, frames
from gateway.conformance import ALLOWANCE
from gateway.engine import GuardedEngine
from gateway.packets import GuardedServer
from tests.support.serving import served
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATHS = ["socket.io", "engine.io"]


@dataclass
class Profile:
    """The profile as it is served, and what it is made of."""

    port: int
    server: GuardedServer
    engine: GuardedEngine
    http: httpx.AsyncClient

    @property
    def sessions(self) -> set[str]:
        """The ids of the sessions that live, those that earlier tests left among them."""
        return {*self.engine.sockets, *self.server.eio.sockets}

    def url(self, path: str, transport: str, session_id: str = "") -> str:
        scheme = "ws" if transport == "websocket" else "http"
        sid = f"&sid={session_id}" if session_id else ""
        return f"{scheme}://127.0.0.1:{self.port}/{path}/?EIO=4&transport={transport}{sid}"

    async def polled(self, path: str = "engine.io") -> tuple[str, str]:
        """Open a session by polling; return its id and the URL of its polls."""
        greeting = json.loads((await self.http.get(self.url(path, "polling"))).text[1:])
        return greeting["sid"], self.url(path, "polling", greeting["sid"])

    async def waits(self, session_id: str) -> None:
        """Return when a poll of this session waits for packets."""
        await wait_until(lambda: self.engine.sockets[session_id].polling, "the poll to wait")

    @asynccontextmanager
    async def opened(self, path: str = "engine.io") -> AsyncIterator[ClientConnection]:
        """Open a WebSocket that has seen the greeting, and nothing else."""
        async with connect(self.url(path, "websocket"), proxy=None) as client:
            assert str(await client.recv()).startswith("0{")
            yield client

    @asynccontextmanager
    async def joined(self) -> AsyncIterator[ClientConnection]:
        """Open a WebSocket that is in the namespace `/`, and was greeted there."""
        async with self.opened("socket.io") as client:
            await client.send("40")
            assert str(await received(client)).startswith('40{"sid":')
            assert await received(client) == '42["auth",{}]'
            yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def beating() -> AsyncIterator[Profile]:
    """Return the profile with its heartbeat, in which a client has a fifth of a second for its pong."""
    server, engine = conformance.socketio_server(), conformance.engineio_server()
    app = conformance.application(server, engine)
    async with (
        httpx.AsyncClient(trust_env=False, timeout=10) as http,
        served(lambda port: conformance.configuration(app, port)) as port,
    ):
        yield Profile(port, server, engine, http)
        await server.shutdown()
        await engine.shutdown()


@pytest.fixture
def profile(beating: Profile, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """Return the profile without its deadlines: no ping comes in between and no session ends, however long it takes."""
    monkeypatch.setattr(beating.server, "_connect_deadline", 3600.0)
    give(beating, monkeypatch, ping_interval=3600.0)
    return beating


def give(profile: Profile, monkeypatch: pytest.MonkeyPatch, **heartbeat: float) -> None:
    """Have sessions that are opened from now on, on either path, another heartbeat."""
    for engine in (profile.engine, profile.server.eio):
        for name, seconds in heartbeat.items():
            monkeypatch.setattr(engine, name, seconds)


async def received(client: ClientConnection) -> str | bytes:
    """Return the next frame that is no ping; answer pings on the way."""
    async with asyncio.timeout(10):
        while (frame := await client.recv()) == "2":
            await client.send("3")
    return frame


async def close_code(client: ClientConnection, *, answers: bool = True) -> int:
    """Read until the server closes the connection, answer its pings or not; return the close code."""
    async with asyncio.timeout(10):
        try:
            while True:
                if await client.recv() == "2" and answers:
                    await client.send("3")
        except ConnectionClosed as end:
            return end.rcvd.code if end.rcvd else 1006


# --- Engine.IO: opening -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_the_greeting_announces_the_heartbeat_in_milliseconds(
    beating: Profile, path: str, transport: str
) -> None:
    if transport == "polling":
        greeting = (await beating.http.get(beating.url(path, transport))).text
    else:
        async with connect(beating.url(path, transport), proxy=None) as client:
            greeting = str(await client.recv())
    told = json.loads(greeting.removeprefix("0"))
    assert told.pop("sid")
    assert told == {
        "upgrades": ["websocket"] if transport == "polling" else [],
        "pingInterval": 300,
        "pingTimeout": 200,
        "maxPayload": 1_000_000,
    }


@pytest.mark.parametrize(
    ("method", "query"),
    [
        ("GET", "transport=polling"),
        ("GET", "EIO=abc&transport=polling"),
        ("GET", "EIO=3&transport=polling"),
        ("GET", "EIO=4"),
        ("GET", "EIO=4&transport=abc"),
        ("GET", "EIO=4&transport=polling&transport=abc"),
        ("GET", "EIO=4&transport=websocket"),
        ("GET", "EIO=4&transport=polling&sid=unknown"),
        ("POST", "EIO=4&transport=polling"),
        ("POST", "EIO=4&transport=polling&sid=unknown"),
        ("PUT", "EIO=4&transport=polling"),
        ("DELETE", "EIO=4&transport=polling"),
    ],
)
@pytest.mark.parametrize("path", PATHS)
async def test_a_request_of_another_protocol_is_refused(profile: Profile, path: str, method: str, query: str) -> None:
    before = profile.sessions
    answer = await profile.http.request(method, f"http://127.0.0.1:{profile.port}/{path}/?{query}")
    assert answer.status_code == 400
    assert profile.sessions <= before


@pytest.mark.parametrize(
    "query",
    ["transport=websocket", "EIO=abc&transport=websocket", "EIO=4", "EIO=4&transport=abc", "EIO=4&transport=polling"],
)
async def test_a_websocket_of_another_protocol_is_refused(profile: Profile, query: str) -> None:
    before = profile.sessions
    with pytest.raises(InvalidStatus):
        async with connect(f"ws://127.0.0.1:{profile.port}/engine.io/?{query}", proxy=None):
            pass
    assert profile.sessions <= before


async def test_a_page_of_another_origin_may_read_the_answers(profile: Profile) -> None:
    answer = await profile.http.get(profile.url("engine.io", "polling"), headers={"origin": "http://example.com"})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"


# --- Engine.IO: heartbeat ---------------------------------------------------------------------------------


SLOWLY = {"ping_interval": 0.05, "ping_timeout": 1.0}
"""A heartbeat in which a busy machine has a second for its pong."""


def for_longer_than_a_session_lives_without_pongs() -> Iterator[None]:
    """Return the turns of a loop that goes on for so long."""
    loop = asyncio.get_running_loop()
    end = loop.time() + sum(SLOWLY.values()) + 0.1
    while loop.time() < end:
        yield


async def test_a_session_that_polls_lives_on_its_pongs(beating: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    give(beating, monkeypatch, **SLOWLY)
    _, url = await beating.polled()
    for _ in for_longer_than_a_session_lives_without_pongs():
        assert (await beating.http.get(url)).text == "2"
        assert (await beating.http.post(url, content="3")).status_code == 200


async def test_a_session_that_polls_and_sends_no_pong_ends(beating: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    give(beating, monkeypatch, **SLOWLY)
    _, url = await beating.polled()
    assert (await beating.http.get(url)).text == "2"
    ended = await beating.http.get(url)
    assert (ended.status_code, ended.text) == (200, "1")
    assert (await beating.http.get(url)).status_code == 400


async def test_a_session_that_nobody_polls_ends(beating: Profile) -> None:
    session_id, url = await beating.polled()
    await wait_until(lambda: session_id not in beating.sessions, "the session to end")
    assert (await beating.http.get(url)).status_code == 400


async def test_a_poll_after_the_time_is_refused_although_the_timer_is_late(profile: Profile) -> None:
    session_id, url = await profile.polled()
    connection = profile.engine.sockets[session_id]
    connection._expires = asyncio.get_running_loop().time()
    assert (await profile.http.get(url)).status_code == 400
    assert connection.closed


async def test_a_websocket_lives_on_its_pongs(beating: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    give(beating, monkeypatch, **SLOWLY)
    async with beating.opened() as client:
        for _ in for_longer_than_a_session_lives_without_pongs():
            assert await client.recv() == "2"
            await client.send("3")
        await client.send("4still here")
        assert await received(client) == "4still here"


async def test_pongs_that_nobody_asked_for_prolong_nothing(beating: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    give(beating, monkeypatch, **SLOWLY)
    async with beating.opened() as client:
        await client.send("3")
        assert await client.recv() == "2"
        assert await close_code(client, answers=False) == frames.NORMAL_CLOSURE


async def test_a_websocket_without_pongs_is_closed(beating: Profile) -> None:
    before = beating.sessions
    async with beating.opened() as client:
        assert await close_code(client, answers=False) == frames.NORMAL_CLOSURE
    await wait_until(lambda: beating.sessions <= before, "the session to end")


# --- Engine.IO: messages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["4hello", "4test1\x1e4test2\x1e4test3", "4hello\x1ebAQIDBA==", '4{"a":  1}', "4"])
async def test_what_is_posted_comes_back_unchanged_with_one_poll(profile: Profile, body: str) -> None:
    _, url = await profile.polled()
    posted = await profile.http.post(url, content=body)
    assert (posted.status_code, posted.text) == (200, "ok")
    answer = await profile.http.get(url)
    assert (answer.status_code, answer.text) == (200, body)


@pytest.mark.parametrize("body", ["abc", "", "b!!!", "bAQIDBA=", "4a\x1ex", "2", "5", "6", "0{}"])
async def test_a_malformed_post_ends_the_session(profile: Profile, body: str) -> None:
    _, url = await profile.polled()
    assert (await profile.http.post(url, content=body)).status_code == 400
    assert (await profile.http.get(url)).status_code == 400


async def test_a_second_poll_beside_one_that_waits_ends_the_session(profile: Profile) -> None:
    session_id, url = await profile.polled()
    first = asyncio.create_task(profile.http.get(url))
    await profile.waits(session_id)
    assert (await profile.http.get(url)).status_code == 400
    assert ((await first).status_code, (await first).text) == (200, "1")
    assert (await profile.http.get(url)).status_code == 400


@pytest.mark.parametrize("frame", ["4hello", b"\x01\x02\x03\x04", b""])
async def test_what_is_sent_over_a_websocket_comes_back(profile: Profile, frame: str | bytes) -> None:
    async with profile.opened() as client:
        await client.send(frame)
        assert await received(client) == frame


@pytest.mark.parametrize("frame", ["abc", "", "bAQIDBA==", "2", "2probe", "5", "6", "0{}"])
async def test_a_malformed_frame_closes_the_websocket(profile: Profile, frame: str) -> None:
    async with profile.opened() as client:
        await client.send(frame)
        assert await close_code(client) == frames.PROTOCOL_ERROR


# --- Engine.IO: closing and upgrading ---------------------------------------------------------------------


async def test_a_client_that_closes_has_its_waiting_poll_answered(profile: Profile) -> None:
    session_id, url = await profile.polled()
    waiting = asyncio.create_task(profile.http.get(url))
    await profile.waits(session_id)
    assert (await profile.http.post(url, content="1")).status_code == 200
    assert ((await waiting).status_code, (await waiting).text) == (200, "6")
    assert (await profile.http.get(url)).status_code == 400


async def test_a_client_that_closes_has_its_websocket_closed_at_once(profile: Profile) -> None:
    async with profile.opened() as client:
        await client.send("1")
        with pytest.raises(ConnectionClosed):  # before the first ping, which would be returned here
            await client.recv()


async def test_a_session_that_polls_moves_to_a_websocket(profile: Profile) -> None:
    session_id, url = await profile.polled()
    async with connect(profile.url("engine.io", "websocket", session_id), proxy=None) as client:
        await client.send("2probe")
        assert await client.recv() == "3probe"
        assert (await profile.http.get(url)).text == "6"
        await client.send("5")
        await client.send("4hello")
        assert await client.recv() == "4hello"
        assert (await profile.http.get(url)).status_code == 400
        assert (await profile.http.post(url, content="4x")).status_code == 400
        async with connect(profile.url("engine.io", "websocket", session_id), proxy=None) as second:
            assert await close_code(second) == frames.POLICY_VIOLATION
        await client.send("4still here")
        assert await received(client) == "4still here"


async def test_a_poll_that_waits_is_ended_by_the_upgrade(profile: Profile) -> None:
    session_id, url = await profile.polled()
    waiting = asyncio.create_task(profile.http.get(url))
    await profile.waits(session_id)
    async with connect(profile.url("engine.io", "websocket", session_id), proxy=None) as client:
        await client.send("2probe")
        assert await client.recv() == "3probe"
        assert (await waiting).text == "6"
        await client.send("5")
        await client.send("4hello")
        assert await client.recv() == "4hello"


# --- Socket.IO --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("joins", "joined", "greeted"),
    [
        ("40", "40", '42["auth",{}]'),
        ('40{"token":"123"}', "40", '42["auth",{"token":"123"}]'),
        ("40/custom,", "40/custom,", '42/custom,["auth",{}]'),
        ("40/custom", "40/custom,", '42/custom,["auth",{}]'),
        ('40/custom,{"token":"abc"}', "40/custom,", '42/custom,["auth",{"token":"abc"}]'),
    ],
)
async def test_a_client_that_joins_is_greeted_with_what_it_sent(
    profile: Profile, joins: str, joined: str, greeted: str
) -> None:
    async with profile.opened("socket.io") as client:
        await client.send(joins)
        answer = str(await received(client))
        assert list(json.loads(answer.removeprefix(joined))) == ["sid"]
        assert await received(client) == greeted


async def test_an_unknown_namespace_is_refused_in_the_words_of_the_protocol(profile: Profile) -> None:
    async with profile.opened("socket.io") as client:
        await client.send("40/random")
        assert await received(client) == '44/random,{"message":"Invalid namespace"}'


async def test_a_client_that_never_joins_is_closed_although_it_answers_pings(
    beating: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(beating, monkeypatch, ping_timeout=3600.0)
    async with beating.opened("socket.io") as client:
        assert await close_code(client) == frames.POLICY_VIOLATION


async def test_leaving_one_namespace_leaves_the_other(profile: Profile) -> None:
    async with profile.joined() as client:
        await client.send("40/custom")
        assert str(await received(client)).startswith('40/custom,{"sid":')
        assert await received(client) == '42/custom,["auth",{}]'
        await client.send("41/custom")
        await client.send('42["message","to the main namespace"]')
        assert await received(client) == '42["message-back","to the main namespace"]'


async def test_values_of_an_event_come_back(profile: Profile) -> None:
    async with profile.joined() as client:
        await client.send('42["message",1,"2",{"3":[true]}]')
        assert await received(client) == '42["message-back",1,"2",{"3":[true]}]'
        await client.send('42456["message-with-ack",1,"2",{"3":[false]}]')
        assert await received(client) == '43456[1,"2",{"3":[false]}]'
        await client.send('427["message-with-ack"]')
        assert await received(client) == "437[]"


PLACES = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}'


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (f'452-["message",{PLACES}]', f'452-["message-back",{PLACES}]'),
        (f'452-789["message-with-ack",{PLACES}]', f"462-789[{PLACES}]"),
    ],
)
async def test_bytes_in_an_event_come_back(profile: Profile, sent: str, answered: str) -> None:
    async with profile.joined() as client:
        for frame in (sent, b"\x01\x02\x03", b"\x04\x05\x06"):
            await client.send(frame)
        assert [await received(client) for _ in range(3)] == [answered, b"\x01\x02\x03", b"\x04\x05\x06"]


async def test_bytes_in_an_event_come_back_by_polling(profile: Profile) -> None:
    _, url = await profile.polled("socket.io")
    await profile.http.post(url, content="40")
    came = ""
    await profile.http.post(url, content='451-["message",{"a":[{"_placeholder":true,"num":0}]}]\x1ebAQID')
    while "bAQID" not in came:
        came += (await profile.http.get(url)).text + "\x1e"
        await profile.http.post(url, content="3")
    assert '451-["message-back",{"a":[{"_placeholder":true,"num":0}]}]\x1ebAQID' in came


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (["4abc"], frames.PROTOCOL_ERROR),
        (["42{}"], frames.PROTOCOL_ERROR),
        (['42abc["message-with-ack",1]'], frames.PROTOCOL_ERROR),
        (["40"], frames.PROTOCOL_ERROR),
        (["44{}"], frames.PROTOCOL_ERROR),
        ([b"\x01"], frames.PROTOCOL_ERROR),
        (["450-[]"], frames.MESSAGE_TOO_BIG),
        (["45[]"], frames.PROTOCOL_ERROR),
        (['461-7[{"_placeholder":true,"num":0}]'], frames.PROTOCOL_ERROR),
        ([f'45{ALLOWANCE.attachments + 1}-["message"]'], frames.MESSAGE_TOO_BIG),
        (['459999999999-["message"]'], frames.PROTOCOL_ERROR),
        (['451-["message",{"_placeholder":true,"num":0}]', '42["message",1]'], frames.PROTOCOL_ERROR),
        (['451-["message",{"_placeholder":true,"num":1}]', b"\x01"], frames.PROTOCOL_ERROR),
        (['451-["message",{"_placeholder":true,"num":-1}]', b"\x01"], frames.PROTOCOL_ERROR),
        (['451-["message",{"_placeholder":true,"num":true}]', b"\x01"], frames.PROTOCOL_ERROR),
        (['451-["message",{"_placeholder":true}]', b"\x01"], frames.PROTOCOL_ERROR),
        (['451-["message",1]', b"\x01"], frames.PROTOCOL_ERROR),
        ([f'451-["message",{PLACES.replace("1", "0")}]', b"\x01"], frames.PROTOCOL_ERROR),
        ([f'452-["message",{PLACES}]', b"\x01" * 600_000, b"\x01" * 600_000], frames.MESSAGE_TOO_BIG),
        (['451-["connect",{"_placeholder":true,"num":0}]', b"\x01"], frames.POLICY_VIOLATION),
    ],
)
async def test_what_no_client_library_sends_closes_the_connection(
    profile: Profile, sent: list[str | bytes], code: int
) -> None:
    before = profile.sessions
    async with profile.joined() as client:
        for frame in sent:
            await client.send(frame)
        assert await close_code(client) == code
    await wait_until(lambda: profile.sessions <= before, "the session to end")
    assert not profile.server._binary_packet


async def test_a_wrong_event_is_answered_when_its_bytes_have_come(profile: Profile) -> None:
    async with profile.joined() as client:
        await client.send('451-7["message",')
        await client.send(b"\x01")
        (answer,) = json.loads(str(await received(client)).removeprefix("437"))
        assert answer["error"]["code"] == "invalid_payload"
        many = json.dumps(["message-with-ack", *range(ALLOWANCE.arguments + 1)])
        await client.send(f"428{many}")
        (answer,) = json.loads(str(await received(client)).removeprefix("438"))
        assert answer["error"]["code"] == "invalid_payload"


# --- the command ------------------------------------------------------------------------------------------


async def test_the_command_serves_on_the_port_that_it_is_given() -> None:
    for _ in range(3):
        if await _serves(free_port()):  # unless somebody was faster at that port
            return
    raise AssertionError("the profile does not serve")


async def _serves(port: int) -> bool:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway.conformance",
        "--port",
        str(port),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            greets = False

            async def settled() -> bool:
                nonlocal greets
                greets = process.returncode is None and await _greets(http, port)
                return greets or process.returncode is not None

            await wait_until(settled, "the profile to serve, or to end", 20)
            return greets
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _greets(http: httpx.AsyncClient, port: int) -> bool:
    try:
        answer = await http.get(f"http://127.0.0.1:{port}/engine.io/?EIO=4&transport=polling")
    except httpx.TransportError:
        return False
    greeting: dict[str, Any] = json.loads(answer.text[1:])
    return bool(greeting["pingInterval"] == 300)
