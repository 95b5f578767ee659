"""The page at `/`: a chat, and a view of the fleet. Its files are built by `scripts/page` and lie in gateway/bundle.

Two programs ask for `/`: a browser, which says in `Accept` that it takes HTML and gets the page, and everybody else,
who gets the text. What the page may do is said by its Content-Security-Policy: run its own scripts, speak to the
gateways of `page_gateways`, and nothing else. No script in it may make HTML out of text (Trusted Types), so that what
a model or a tool says stays text.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from backplane.errors import Misconfigured
from backplane.settings import Settings
from gateway.auth import is_loopback, is_open

BUNDLE = Path(__file__).parent / "bundle"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_CONFIGURATION = '"configuration"'
"""In index.html, the content of the meta element by which the page is told what it may use."""
_ADDRESS = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.ASCII)
_YEAR = 365 * 24 * 3600
_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    kind: str


class Page:
    """The routes of the page, or of the text alone where `page` is off or the bundle was not built.

    Args:
        settings: `page`, `page_gateways`, and whether a token is needed.
        text: what `/` says to those who are no browser.
        bundle: where the built files are. They are read once, at the start.
    """

    def __init__(self, settings: Settings, text: str, bundle: Path = BUNDLE) -> None:
        self._text = text
        self._keyed = not is_open(settings)
        self._gateways = gateways(settings)
        self._files = _read(bundle) if settings.page else {}

    def routes(self) -> list[BaseRoute]:
        """Return the routes of `/` and of the files that the page needs."""
        return [Route("/", self._index), Mount("/assets", routes=[Route("/{name}", self._asset)])]

    async def _index(self, request: Request) -> Response:
        index = self._files.get("index.html")
        if index is None or not accepts_html(request.headers.get("accept", "")):
            return PlainTextResponse(self._text, headers={"Vary": "Accept"})
        others = _as_seen(self._gateways, request.url.hostname or "")
        told = json.dumps({"gateways": others, "token": self._keyed}, separators=(",", ":"))
        page = index.content.decode().replace(_CONFIGURATION, f'"{html.escape(told)}"', 1).encode()
        tag = f'"{hashlib.sha256(page).hexdigest()[:32]}"'
        headers = _SAFE | {
            "Cache-Control": "no-cache",
            "Content-Security-Policy": _policy(others),
            "ETag": tag,
            "Vary": "Accept, Host",
        }
        if tag in [known.strip().removeprefix("W/") for known in request.headers.get("if-none-match", "").split(",")]:
            return Response(status_code=304, headers=headers)
        return Response(page, media_type=index.kind, headers=headers)

    async def _asset(self, request: Request) -> Response:
        found = self._files.get(f"assets/{request.path_params['name']}")
        if found is None:
            return PlainTextResponse("expected a file of the page, got another name\n", 404)
        # its name has a hash of its content
        headers = _SAFE | {"Cache-Control": f"public, max-age={_YEAR}, immutable"}
        return Response(found.content, media_type=found.kind, headers=headers)


def gateways(settings: Settings) -> tuple[str, ...]:
    """Return the origins of `page_gateways`.

    Raises:
        Misconfigured: for one that is not the address of a gateway.
    """
    found = tuple(url.strip().rstrip("/").lower() for url in settings.page_gateways)
    for url in found:
        if not _ADDRESS.fullmatch(url):
            raise Misconfigured(
                f"THREADLINE_PAGE_GATEWAYS: expected addresses such as http://127.0.0.1:8081, got {url!r}; "
                "give the scheme, the host and the port if it is not the usual one, without a path"
            )
    return found


def accepts_html(accept: str) -> bool:
    """Tell whether a browser asks: `Accept` names HTML; `*/*` alone, as of curl, does not."""
    return any(part.partition(";")[0].strip().lower() == "text/html" for part in accept.split(","))


def _as_seen(urls: tuple[str, ...], host: str) -> list[str]:
    """Return the gateways under the name by which this machine was reached: localhost is not 127.0.0.1 to a browser."""
    if not is_loopback(host):
        return list(urls)
    name = f"[{host.strip('[]')}]" if ":" in host else host
    return [_renamed(url, name) if is_loopback(urlsplit(url).hostname or "") else url for url in urls]


def _renamed(url: str, name: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{name}" + (f":{parts.port}" if parts.port else "")


def _policy(others: list[str]) -> str:
    sockets = [f"ws{url.removeprefix('http')}" for url in others]
    rules: Mapping[str, str] = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": " ".join(["'self'", *others, *sockets]),
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _read(bundle: Path) -> dict[str, _File]:
    found = (path for path in bundle.rglob("*") if path.is_file() and path.suffix in _TYPES)
    return {path.relative_to(bundle).as_posix(): _File(path.read_bytes(), _TYPES[path.suffix]) for path in found}
