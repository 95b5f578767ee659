"""The door of a node: where each request comes from, and how many of them one address may make.

It stands in front of everything else, so that a refused request costs next to nothing: no token is read, no session
made.
What an address may do is counted over all nodes (gateway/allowances.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import structlog
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from backplane.errors import RateLimited
from backplane.keys import Keys
from backplane.settings import Settings
from gateway.addresses import ADDRESS, Addresses, group, is_own
from gateway.allowances import Allowances
from gateway.audit import HERE, Where
from gateway.engine import opens_session
from gateway.metrics import Metrics
from gateway.websocket import refuse_handshake

_QUIET = 10.0
"""Seconds between two lines of the log about refusals; a flood must not fill it."""
_FREE = frozenset({"/healthz", "/readyz", "/metrics"})
"""Who balances the load, and who watches, must always be answered."""
_SOCKETS = "/socket.io"
"""The library serves this path too, as if it ended with a slash."""

_log = structlog.get_logger("gateway.door")


class Door:
    """An ASGI application that counts requests by address, in front of another application.

    Connections that begin, over WebSocket or by a first poll, have `connects_per_second`, all other requests
    `http_calls_per_second`; what follows within a session is counted there. This machine's own address is not counted.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._addresses = Addresses(settings)
        self._metrics = metrics
        self._clock = clock
        keys = Keys(settings.key_prefix, settings.partitions)
        connects, calls = "new connections from one address", "HTTP calls from one address"
        self._connects = Allowances(settings.connects_per_second, connects, keys.address_connects, clock)
        self._calls = Allowances(settings.http_calls_per_second, calls, keys.address_calls, clock)
        self.allowances = self._connects, self._calls
        self._refused = 0
        self._told = -math.inf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with status 429."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        address = scope[ADDRESS] = self._addresses.of(scope)
        HERE.set(Where(address))
        allowances = self._which(scope)
        if allowances is not None and not is_own(address):
            try:
                allowances.take(group(address))
            except RateLimited as error:
                self._metrics.limited.labels("address").inc()
                self._tell(address)
                await _refuse(scope, receive, send, error)
                return
        await self._app(scope, receive, send)

    def _which(self, scope: Scope) -> Allowances[str] | None:
        path = scope["path"]
        if path == _SOCKETS or path.startswith(_SOCKETS + "/"):
            # a session that is named and not there must not be a way around
            is_new = scope["type"] == "websocket" or opens_session(scope)
            return self._connects if is_new else self._calls
        return None if path in _FREE else self._calls

    def _tell(self, address: str) -> None:
        self._refused += 1
        now = self._clock()
        if now - self._told >= _QUIET:
            _log.warning("too_many_requests", address=address, refused=self._refused)
            self._told, self._refused = now, 0


async def _refuse(scope: Scope, receive: Receive, send: Send, error: RateLimited) -> None:
    headers = {"retry-after": str(-(-int(error.details["retry_after_ms"]) // 1000))}
    if scope["type"] == "http":
        await JSONResponse({"ok": False, "error": error.as_dict()}, error.http_status, headers)(scope, receive, send)
    else:
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await refuse_handshake(scope, send, error.http_status, raw)
