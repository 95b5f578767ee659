"""Which web pages may reach this gateway, judged before anything else is read.

A browser says in `Origin` which page a request comes from; a program that is no browser says nothing, and is
let in. The gateway's own page is known by `Origin` and `Host` agreeing, but only under a name that nobody else
can own: an address, `localhost`, or the configured host. Any other name can be made to point here by whoever
owns it (DNS rebinding), so it must stand in `THREADLINE_CORS_ORIGINS`, or, as a gateway whose page may come
here, in `THREADLINE_PAGE_GATEWAYS`. `X-Forwarded-Host` and its like are not
read at all: whoever sends the request writes them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import structlog
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from backplane.errors import Misconfigured
from backplane.settings import Settings
from gateway import page
from gateway.auth import is_loopback, is_open
from gateway.frames import POLICY_VIOLATION

_ORIGIN = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", re.ASCII)
_AUTHORITY = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", re.ASCII)
_METHODS = ("GET", "POST", "PATCH", "DELETE", "OPTIONS")
_HEADERS = ("Authorization", "Content-Type", "Last-Event-ID", "traceparent", "tracestate")

_log = structlog.get_logger(__name__)


class OriginGuard:
    """An ASGI application that refuses other people's web pages, in front of another application.

    It answers 403 to an origin that is not allowed, for HTTP and WebSocket alike; while the gateway is open,
    it answers 421 to a `Host` that others could own, with or without an origin. For the allowed origins it
    writes the CORS headers, so nothing behind it may write them too.

    Raises:
        Misconfigured: for an origin that is not one, and for `*` where others than this machine can connect.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._allowed = frozenset(_checked(settings)) | frozenset(_pages(settings))
        self._any = "*" in self._allowed
        self._host = settings.host.strip("[]").lower()
        self._open = is_open(settings)
        self._app = app
        self._cors_app: ASGIApp = CORSMiddleware(
            app,
            allow_origins=sorted(self._allowed),
            allow_methods=_METHODS,
            allow_headers=_HEADERS,
            allow_credentials=not self._any,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge a request, then pass it on or refuse it."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        origins = _values(scope, b"origin")
        hosts = _values(scope, b"host")
        if not self.allows_host(hosts):
            await _refuse(scope, receive, send, 421, "host", "expected the name of this machine in `Host`")
        elif not self.allows(origins, hosts):
            await _refuse(scope, receive, send, 403, "origin", "expected an origin of THREADLINE_CORS_ORIGINS")
        elif scope["type"] == "websocket":  # there are no CORS headers on it
            await self._app(scope, receive, send)
        else:
            await self._cors_app(scope, receive, send)

    def allows(self, origins: list[str], hosts: list[str]) -> bool:
        """Tell whether a page of this `Origin` may make a request to this `Host`; both as they came."""
        if not origins:
            return True
        if self._any:
            return len(origins) == 1
        origin = origins[0].lower()
        if len(origins) > 1 or not _ORIGIN.fullmatch(origin):  # so is `null`: a page that hides where it is from
            return False
        if origin in self._allowed:
            return True
        if len(hosts) != 1:
            return False
        host = hosts[0].lower()
        return origin in {f"http://{host}", f"https://{host}"} and self._is_ours(host)

    def allows_host(self, hosts: list[str]) -> bool:
        """Tell whether a request to this `Host` may be served at all.

        A page of another's name that points here sends no `Origin` with a GET; without tokens, only its
        `Host` gives it away.
        """
        if not self._open or self._any:
            return True
        if len(hosts) != 1:
            return False
        host = hosts[0].lower()
        listed = {origin.partition("://")[2] for origin in self._allowed}
        return self._is_ours(host) or host in listed

    def _is_ours(self, authority: str) -> bool:
        found = _AUTHORITY.fullmatch(authority)
        if found is None:
            return False
        name = found[1].strip("[]")
        return name == self._host or is_loopback(name) or _is_address(name)


def _checked(settings: Settings) -> tuple[str, ...]:
    origins = tuple(origin.strip().rstrip("/").lower() for origin in settings.cors_origins)
    for origin in origins:
        if origin == "*":
            if not is_loopback(settings.host):
                raise Misconfigured(
                    "THREADLINE_CORS_ORIGINS: expected a list of origins, got * on a host that others can "
                    "reach; name the origins, or listen on 127.0.0.1"
                )
        elif not _ORIGIN.fullmatch(origin):
            raise Misconfigured(
                f"THREADLINE_CORS_ORIGINS: expected origins such as https://chat.example.com, got {origin!r}; "
                "give the scheme, the host and the port if it is not the usual one, without a path"
            )
    return origins


def _pages(settings: Settings) -> Iterator[str]:
    """Yield the origins of the pages of fellow gateways; on loopback, under both names that people type."""
    for url in page.gateways(settings):
        yield url
        parts = urlsplit(url)
        if is_loopback(parts.hostname or ""):
            port = f":{parts.port}" if parts.port else ""
            yield from (f"{parts.scheme}://{name}{port}" for name in ("localhost", "127.0.0.1"))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for header, value in scope["headers"] if header == name]


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, reason: str, text: str) -> None:
    _log.info("request_refused", reason=reason)
    if scope["type"] == "websocket":  # before it is accepted, this is an answer 403
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
    else:
        await PlainTextResponse(f"{text}, got another\n", status)(scope, receive, send)
