"""Row 16 of the threats: who knocks too often waits outside, and disturbs nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from backplane.settings import Settings
from gateway.door import Door
from gateway.metrics import Metrics
from tests.gateway.conftest import Clients, serving

Make = Callable[..., Settings]
PROXIED = {"trusted_proxies": ("127.0.0.1",)}


def at(address: str) -> dict[str, str]:
    return {"X-Forwarded-For": address}


async def storm(url: str, address: str, times: int) -> tuple[int, list[InvalidStatus]]:
    """Connect so many times; return how many got in, and the refusals."""
    entered, refusals = 0, []
    for _ in range(times):
        try:
            uri = url.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
            async with connect(uri, proxy=None, additional_headers=at(address), close_timeout=0):
                entered += 1
        except InvalidStatus as refusal:
            refusals.append(refusal)
    return entered, refusals


async def test_row_16_a_storm_of_connections_of_one_address_is_refused_and_others_are_not(
    gateway_settings: Make, clients: Clients
) -> None:
    async with serving(gateway_settings(**PROXIED, connects_per_second=1)) as node:
        entered, refusals = await storm(node.url, "203.0.113.7", 60)
        assert 5 <= entered < 60
        answer = refusals[-1].response
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) == 1
        await clients.connect(node.url, headers=at("203.0.113.8"))
        await clients.connect(node.url, headers=at("203.0.113.9"), transports=["polling"])


async def test_a_first_poll_is_a_new_connection_too(gateway_settings: Make) -> None:
    async with serving(gateway_settings(**PROXIED, connects_per_second=1)) as node, web(node.url) as http:
        path = "/socket.io/?EIO=4&transport=polling"
        answers = [(await http.get(path, headers=at("203.0.113.7"))).status_code for _ in range(30)]
        assert answers[:5] == [200] * 5
        assert 429 in answers


async def test_http_calls_of_one_address_are_limited_and_health_is_always_answered(gateway_settings: Make) -> None:
    async with serving(gateway_settings(**PROXIED, http_calls_per_second=1)) as node, web(node.url) as http:
        told = [await http.get("/v1/threads", headers=at("203.0.113.7")) for _ in range(30)]
        assert told[0].status_code == 200
        refused = next(answer for answer in told if answer.status_code == 429)
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "rate_limited"
        assert (await http.get("/readyz", headers=at("203.0.113.7"))).status_code == 200
        assert (await http.get("/v1/threads", headers=at("203.0.113.8"))).status_code == 200


async def test_this_machine_is_not_counted(gateway_settings: Make) -> None:
    async with serving(gateway_settings(http_calls_per_second=1)) as node, web(node.url) as http:
        # the header is not believed: no proxy is trusted
        codes = {(await http.get("/v1/threads", headers=at("203.0.113.7"))).status_code for _ in range(30)}
        assert codes == {200}


def web(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, trust_env=False)


class Behind:
    """An application behind a door, which counts who came through."""

    def __init__(self, **settings: Any) -> None:
        self.passed: list[str] = []
        self.answers: list[dict[str, Any]] = []
        self.now = 1000.0
        self.door = Door(self._app, Settings(**settings), Metrics(), lambda: self.now)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.passed.append(scope["threadline.address"])

    async def _send(self, message: Any) -> None:
        self.answers.append(message)

    async def ask(
        self, addresses: Iterable[str], kind: str = "http", path: str = "/v1/threads", query: bytes = b""
    ) -> None:
        for address in addresses:
            scope = {"type": kind, "path": path, "client": (address, 1), "headers": [], "query_string": query}
            await self.door(scope, self._receive, self._send)

    async def _receive(self) -> Any:
        return {"type": "http.request"}


async def test_zero_means_no_limit() -> None:
    behind = Behind(connects_per_second=0, http_calls_per_second=0)
    await behind.ask(["203.0.113.7"] * 5000)
    await behind.ask(["203.0.113.7"] * 5000, "websocket", "/socket.io/")
    assert len(behind.passed) == 10_000


async def test_a_session_that_is_named_is_no_way_around() -> None:
    behind = Behind(connects_per_second=1, http_calls_per_second=1)
    await behind.ask(["203.0.113.7"] * 50, "websocket", "/socket.io/", b"EIO=4&sid=made-up")
    await behind.ask(["203.0.113.7"] * 50, "http", "/socket.io/", b"EIO=4&sid=made-up")
    assert len(behind.passed) == 10


@pytest.mark.parametrize(
    ("kind", "path", "query"),
    [
        ("http", "/socket.io/", b"EIO=4&transport=polling&sid="),
        ("http", "/socket.io/", b"EIO=4&transport=polling&sid=&sid="),
        ("http", "/socket.io/", b"EIO=4&transport=polling&Sid=x"),
        ("http", "/socket.io", b"EIO=4&transport=polling"),
        ("websocket", "/socket.io", b"EIO=4&transport=websocket"),
    ],
)
async def test_whatever_opens_a_session_is_a_new_connection(kind: str, path: str, query: bytes) -> None:
    behind = Behind(connects_per_second=1)
    await behind.ask(["203.0.113.7"] * 50, kind, path, query)
    assert len(behind.passed) == 5


@pytest.mark.parametrize("path", ["/socket.io/", "/socket.io"])
@pytest.mark.parametrize("query", [b"sid=x", b"sid=&sid=x", b"%73id=x"])
async def test_whatever_stays_within_a_session_is_none(path: str, query: bytes) -> None:
    behind = Behind(connects_per_second=1, http_calls_per_second=2)
    await behind.ask(["203.0.113.7"] * 50, "http", path, b"EIO=4&transport=polling&" + query)
    assert len(behind.passed) == 10


async def test_the_door_and_the_engine_agree_on_what_opens_a_session(gateway_settings: Make) -> None:
    """Each address has one new connection: a second session of it would have come around the door."""
    queries = [
        "",
        "&sid=",
        "&sid=&sid=",
        "&Sid=x",
        "&sid=x",
        "&sid=&sid=x",
        "&sid=x&sid=",
        "&%73id=x",
        "&sid=%20",
        "&sid;sid=x",
    ]
    asked = [
        (path, query) for path in ("/socket.io/", "/socket.io", "/socket.io//", "/socket.iox") for query in queries
    ]
    settings = gateway_settings(**PROXIED, connects_per_second=0.01, http_calls_per_second=1000)
    async with serving(settings, roles=False) as node, web(node.url) as http:
        for number, (path, query) in enumerate(asked):
            url, headers = f"{path}?EIO=4&transport=polling{query}", at(f"203.0.113.{number}")
            first, *others = [(await http.get(url, headers=headers)).status_code for _ in range(3)]
            assert 200 not in others, (path, query)
            assert others == [429 if first == 200 else first] * 2, (path, query)


async def test_another_web_server_refuses_by_closing() -> None:
    behind = Behind(connects_per_second=1)
    await behind.ask(["203.0.113.7"] * 6, "websocket", "/socket.io/")
    assert behind.answers == [{"type": "websocket.close", "code": 1008}]


async def test_who_waits_comes_in_again() -> None:
    behind = Behind(http_calls_per_second=1)
    await behind.ask(["203.0.113.7"] * 6)
    behind.now += 1
    await behind.ask(["203.0.113.7"])
    assert len(behind.passed) == 6


async def test_a_flood_is_a_few_lines_of_the_log() -> None:
    behind = Behind(http_calls_per_second=1)
    with capture_logs() as lines:
        await behind.ask(["203.0.113.7"] * 500)
        behind.now += 10
        await behind.ask(["203.0.113.7"] * 500)
    told = [line for line in lines if line["event"] == "too_many_requests"]
    assert [line["refused"] for line in told] == [1, 495]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_who_watches_is_always_let_in(path: str) -> None:
    behind = Behind(http_calls_per_second=1)
    await behind.ask(["203.0.113.7"] * 100, path=path)
    assert len(behind.passed) == 100
