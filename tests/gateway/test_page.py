"""The page is served to browsers and nobody else, and is told by its headers what it may do."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from backplane.errors import Misconfigured
from backplane.settings import Settings
from gateway.page import Page, accepts_html

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
SECRET = "a secret of this test that is long enough"
FELLOW = ("http://127.0.0.1:8081", "https://chat.example.com")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Return a folder with what a build leaves."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text('<meta name="threadline" content="configuration" /><p>the page</p>')
    (tmp_path / "assets" / "index-abc.js").write_text("let a")
    (tmp_path / "assets" / "index-abc.css").write_text("a {}")
    (tmp_path / "assets" / "icon-abc.svg").write_text("<svg/>")
    (tmp_path / "built-from").write_text("1 2")
    return tmp_path


async def get(
    settings: Settings,
    bundle: Path,
    path: str = "/",
    accept: str = BROWSER,
    host: str = "127.0.0.1:8080",
    known: str = "",
) -> httpx.Response:
    app = Starlette(routes=Page(settings, "the text\n", bundle).routes())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}") as client:
        return await client.get(path, headers={"accept": accept} | ({"if-none-match": known} if known else {}))


def told(page: httpx.Response) -> dict[str, object]:
    found = re.search(r'content="([^"]*)"', page.text)
    assert found
    parsed: dict[str, object] = json.loads(unescape(found[1]))
    return parsed


def policy(page: httpx.Response) -> dict[str, str]:
    rules = page.headers["content-security-policy"].split("; ")
    return {name: value for name, _, value in (rule.partition(" ") for rule in rules)}


async def test_a_browser_gets_the_page_and_anybody_else_the_text(bundle: Path) -> None:
    page = await get(Settings(), bundle)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "the page" in page.text
    for accept in ("*/*", "application/json", ""):
        text = await get(Settings(), bundle, accept=accept)
        assert (text.text, text.headers["content-type"]) == ("the text\n", "text/plain; charset=utf-8")
    assert "Accept" in page.headers["vary"]
    assert accepts_html("application/json, Text/HTML;q=0.5")
    assert not accepts_html("text/htmlx")


async def test_without_the_page_everybody_gets_the_text(bundle: Path, tmp_path: Path) -> None:
    for settings, place in ((Settings(page=False), bundle), (Settings(), tmp_path / "nothing was built")):
        assert (await get(settings, place)).text == "the text\n"
        assert (await get(settings, place, "/assets/index-abc.js")).status_code == 404


async def test_the_page_is_asked_for_again_each_time_and_its_files_never(bundle: Path) -> None:
    page = await get(Settings(), bundle)
    assert page.headers["cache-control"] == "no-cache"
    again = await get(Settings(), bundle, known=f'"other", W/{page.headers["etag"]}')
    assert (again.status_code, again.text) == (304, "")
    assert again.headers["content-security-policy"] == page.headers["content-security-policy"]
    assert (await get(Settings(), bundle, known='"other"')).status_code == 200
    for name, kind in (
        ("index-abc.js", "text/javascript; charset=utf-8"),
        ("index-abc.css", "text/css; charset=utf-8"),
        ("icon-abc.svg", "image/svg+xml"),
    ):
        file = await get(Settings(), bundle, f"/assets/{name}", accept="*/*")
        assert file.headers["content-type"] == kind
        assert file.headers["cache-control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize("name", ["/assets/../index.html", "/assets/%2e%2e/page.py", "/assets/none.js", "/built-from"])
async def test_nothing_else_is_served(bundle: Path, name: str) -> None:
    assert (await get(Settings(), bundle, name)).status_code == 404


async def test_the_page_may_run_its_own_scripts_and_speak_to_its_gateways_and_nothing_else(bundle: Path) -> None:
    page = await get(Settings(page_gateways=FELLOW), bundle)
    assert policy(page) == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self' http://127.0.0.1:8081 https://chat.example.com"
        " ws://127.0.0.1:8081 wss://chat.example.com",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    for file in (page, await get(Settings(), bundle, "/assets/index-abc.js")):
        assert file.headers["x-content-type-options"] == "nosniff"
        assert file.headers["referrer-policy"] == "no-referrer"


async def test_the_page_is_told_its_gateways_and_whether_a_token_is_needed(bundle: Path) -> None:
    assert told(await get(Settings(), bundle)) == {"gateways": [], "token": False}
    keyed = Settings(jwt_secret=SECRET, page_gateways=FELLOW)
    assert told(await get(keyed, bundle)) == {"gateways": list(FELLOW), "token": True}


async def test_who_came_by_the_name_localhost_is_told_of_gateways_by_that_name(bundle: Path) -> None:
    """A page of localhost is of another site than 127.0.0.1."""
    page = await get(Settings(page_gateways=FELLOW), bundle, host="localhost:8080")
    assert told(page)["gateways"] == ["http://localhost:8081", "https://chat.example.com"]
    assert "ws://localhost:8081" in policy(page)["connect-src"]


@pytest.mark.parametrize("url", ["127.0.0.1:8081", "http://a.b/path", "ftp://a.b", "http://", "http://a.b; img-src *"])
def test_what_is_no_address_of_a_gateway_is_refused(url: str) -> None:
    with pytest.raises(Misconfigured, match="THREADLINE_PAGE_GATEWAYS"):
        Page(Settings(page_gateways=(url,)), "")
