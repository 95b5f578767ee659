"""Other people's web pages stay outside; programs and the gateway's own page come in."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse
from structlog.testing import capture_logs

from backplane.errors import Misconfigured
from backplane.settings import Settings
from gateway.origins import OriginGuard

SECRET = "a secret of this test that is long enough"
OPEN = Settings()
KEYED = Settings(jwt_secret=SECRET, host="0.0.0.0")
LISTED = Settings(jwt_secret=SECRET, host="0.0.0.0", cors_origins=("https://chat.example.com", "http://a.b:8"))


class App:
    """Says that it was reached."""

    def __init__(self) -> None:
        self.reached = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached += 1
        if scope["type"] == "http":
            await PlainTextResponse("reached")(scope, receive, send)


async def ask(
    settings: Settings, headers: dict[str, str] | list[tuple[str, str]], method: str = "GET"
) -> httpx.Response:
    app = App()
    transport = httpx.ASGITransport(OriginGuard(app, settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
        with capture_logs():
            response = await client.request(method, "/healthz", headers=headers)
    assert app.reached == (response.text == "reached")
    return response


@pytest.mark.parametrize("settings", [OPEN, KEYED, LISTED])
async def test_who_is_no_browser_says_nothing_and_passes(settings: Settings) -> None:
    assert (await ask(settings, {})).status_code == 200


@pytest.mark.parametrize("settings", [OPEN, KEYED, LISTED])
@pytest.mark.parametrize(
    "host", ["127.0.0.1:8080", "localhost:8080", "[::1]:8080", "LocalHost:3000", "10.0.0.5", "127.0.0.1"]
)
async def test_the_gateways_own_page_passes(settings: Settings, host: str) -> None:
    for scheme in ("http", "https"):  # behind a proxy that ends TLS the gateway cannot know which
        assert (await ask(settings, {"host": host, "origin": f"{scheme}://{host}"})).status_code == 200


async def test_the_page_of_the_configured_host_passes() -> None:
    settings = Settings(jwt_secret=SECRET, host="chat.example.com")
    own = {"host": "chat.example.com:8080", "origin": "http://chat.example.com:8080"}
    assert (await ask(settings, own)).status_code == 200


@pytest.mark.parametrize("settings", [OPEN, KEYED, LISTED])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "*"},
        {"origin": "file://"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "http://localhost:8080"},
        {"origin": "http://127.0.0.1:8080.evil.example"},
        {"origin": "http://127.0.0.1:8080@evil.example"},
        {"origin": "http://127.0.0.1:8080/"},
        {"origin": "https://chat.example.com.evil.example"},
        {"origin": "https://evilchat.example.com"},
        {"origin": "http://chat.example.com"},
        {"origin": "https://chat.example.com:444"},
        {"origin": "https://evil.example", "x-forwarded-host": "evil.example", "x-forwarded-proto": "https"},
        {"origin": "https://evil.example", "forwarded": "host=evil.example;proto=https"},
    ],
)
async def test_other_pages_are_refused(settings: Settings, headers: dict[str, str]) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        refused = await ask(settings, headers, method)
        assert refused.status_code == 403
        assert "evil" not in refused.text
        assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize("settings", [OPEN, KEYED, LISTED])
async def test_a_name_that_points_here_is_not_ours_because_host_says_so(settings: Settings) -> None:
    forged = {"host": "evil.example:8080", "origin": "http://evil.example:8080"}
    assert (await ask(settings, forged)).status_code in {403, 421}


async def test_an_open_gateway_refuses_another_name_even_without_an_origin() -> None:
    """A page whose name was rebound to 127.0.0.1 sends no Origin with a GET."""
    assert (await ask(OPEN, {"host": "evil.example:8080"})).status_code == 421
    assert (await ask(OPEN, [("host", "127.0.0.1"), ("host", "evil.example")])).status_code == 421
    assert (await ask(KEYED, {"host": "chat.example.com"})).status_code == 200


async def test_two_origins_are_none() -> None:
    twice = [("origin", "https://chat.example.com"), ("origin", "https://evil.example")]
    assert (await ask(LISTED, twice)).status_code == 403


@pytest.mark.parametrize("origin", ["https://chat.example.com", "http://a.b:8", "HTTPS://CHAT.example.com"])
async def test_a_listed_origin_passes_and_may_read_the_answer(origin: str) -> None:
    allowed = await ask(LISTED, {"origin": origin})
    assert allowed.status_code == 200
    if origin.islower():  # what browsers send
        assert allowed.headers["access-control-allow-origin"] == origin


async def test_a_listed_origin_may_send_a_token() -> None:
    asked = {
        "origin": "https://chat.example.com",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    preflight = await ask(LISTED, asked, "OPTIONS")
    assert preflight.status_code == 200
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()


async def test_a_star_lets_every_page_in_on_loopback() -> None:
    star = Settings(cors_origins=("*",))
    for headers in ({"origin": "https://any.example"}, {"origin": "null"}, {"host": "dev.example"}):
        assert (await ask(star, headers)).status_code == 200
    assert (await ask(star, {"origin": "https://any.example"})).headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "chat.example.com", "10.0.0.5"])
def test_a_star_is_refused_where_others_can_connect(host: str) -> None:
    with pytest.raises(Misconfigured, match=r"THREADLINE_CORS_ORIGINS.*127\.0\.0\.1"):
        OriginGuard(App(), Settings(jwt_secret=SECRET, host=host, cors_origins=("https://a.b", "*")))


@pytest.mark.parametrize("origin", ["chat.example.com", "https://", "ftp://a.b", "https://a.b/path", "https://*.a.b"])
def test_an_origin_that_can_never_match_stops_the_start(origin: str) -> None:
    with pytest.raises(Misconfigured, match="expected origins such as"):
        OriginGuard(App(), Settings(cors_origins=(origin,)))


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ([(b"host", b"127.0.0.1")], True),
        ([(b"host", b"127.0.0.1"), (b"origin", b"http://127.0.0.1")], True),
        ([(b"host", b"127.0.0.1"), (b"origin", b"https://evil.example")], False),
        ([(b"host", b"evil.example"), (b"origin", b"http://evil.example")], False),
        ([(b"host", b"127.0.0.1"), (b"origin", b"null")], False),
        ([(b"host", b"127.0.0.1"), (b"origin", b"http://\xff")], False),
    ],
)
async def test_a_websocket_is_judged_like_a_request(headers: list[tuple[bytes, bytes]], passes: bool) -> None:
    app = App()
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    with capture_logs():
        await OriginGuard(app, OPEN)({"type": "websocket", "headers": headers}, receive, send)
    assert app.reached == passes
    assert sent == ([] if passes else [{"type": "websocket.close", "code": 1008}])


async def test_the_lifespan_is_passed_on() -> None:
    app = App()
    await OriginGuard(app, OPEN)({"type": "lifespan"}, None, None)  # type: ignore[arg-type] # not looked at
    assert app.reached == 1


@pytest.mark.parametrize("settings", [Settings(page_gateways=("http://127.0.0.1:8081",))])
async def test_the_pages_of_fellow_gateways_pass_by_both_names_of_this_machine(settings: Settings) -> None:
    host = "127.0.0.1:8080"
    for name in ("127.0.0.1", "localhost"):
        answer = await ask(settings, {"host": host, "origin": f"http://{name}:8081"})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == f"http://{name}:8081"
    for other in ("http://127.0.0.1:8082", "https://127.0.0.1:8081", "http://evil.example:8081"):
        assert (await ask(settings, {"host": host, "origin": other})).status_code == 403
