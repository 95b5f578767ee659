"""Servers: which primary holds what, now. Here: one server. Sentinel is in sentinel.py, Cluster in cluster.py.

Everything that speaks to Redis asks here, commands and live channels alike, so that both are at the same server. Who
has noticed a failover (a lost connection, an answer that points elsewhere) asks to `locate` the primaries again, and
everybody who was told by `on_change` moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from backplane.addresses import Address, Server
from backplane.tls import TlsConnection

_log = structlog.get_logger("backplane.servers")

BACKOFF_BASE, BACKOFF_CAP = 0.02, 0.3
CONNECT_TIMEOUT = 2.0
ASK_TIMEOUT = 1.0
"""Seconds that a Sentinel or a node may take to say who the primaries are; others are asked at the same time."""


class Servers:
    """One server, which is always the primary."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.primaries: tuple[Server, ...] = ()
        """Those that hold data now; empty until they were located."""
        self._told: list[Callable[[], None]] = []
        self._locating: asyncio.Task[None] | None = None

    def client(self, retries: int) -> Redis:
        """Return a client for one purpose; its owner closes it. `retries` is for a lost connection."""
        server = self.address.servers[0]
        where: dict[str, Any] = {"host": server.host, "port": server.port}
        if server.path:
            where = {"unix_socket_path": server.path}
        return plain_client(self.address, retries, **where)

    def client_of(self, db: int) -> Redis:
        """Return a client for another database of the same server."""
        return Servers(replace(self.address, db=db)).client(0)

    def of(self, name: bytes) -> Server | None:
        """Return the primary that holds a key, or on which a channel is published; None while none is known."""
        return self.primaries[0] if self.primaries else None

    def tag(self, server: Server) -> str:
        """Return a hash tag whose slot is at this server, and empty where everything is at one."""
        return ""

    def on_change(self, told: Callable[[], None]) -> None:
        """Have this called whenever the primaries are others."""
        self._told.append(told)

    async def locate(self) -> None:
        """Find out who the primaries are; those who ask at the same time share one answer.

        Raises:
            redis.RedisError, OSError: when nobody could tell.
        """
        if self._locating is None or self._locating.done():
            self._locating = asyncio.create_task(self._locate(), name="locate-primaries")
            self._locating.add_done_callback(_heard)
        await asyncio.shield(self._locating)

    async def glance(self) -> None:
        """Do what `locate` does where nothing hints at a change; it may take longer to notice one.

        Raises:
            redis.RedisError, OSError: as `locate`.
        """
        await self.locate()

    async def _locate(self) -> None:
        self.take(self.address.servers)

    def take(self, primaries: tuple[Server, ...], *, moved: bool = False) -> None:
        """Note who the primaries are, and tell everybody if that is news (`moved`: if only slots are)."""
        if primaries == self.primaries and not moved:
            return
        if self.primaries:
            _log.warning("the primaries have changed", now=[str(server) for server in primaries])
        self.primaries = primaries
        for told in self._told:
            told()

    async def aclose(self) -> None:
        """Stop asking."""
        if self._locating is not None:
            self._locating.cancel()
            await asyncio.gather(self._locating, return_exceptions=True)


def plain_client(address: Address, retries: int, **where: Any) -> Redis:
    """Return a client for one server. Its calls have no time-out of their own: `connection.answered` gives them one.

    With a `socket_timeout`, redis-py sends through `asyncio.wait_for`, and under Python 3.11 a cancellation that
    comes at that moment is lost (python/cpython#86296): a process that stops would wait for ever.
    """
    made = Redis(db=address.db, **client_options(address.login, backing_off(retries)), **where)
    encrypt(made, address)
    return made


def encrypt(client: Redis, address: Address) -> None:
    """Have a client that has not connected yet speak TLS, if the address says so."""
    if (context := address.tls_context) is not None:  # `Redis()` itself takes no class of connections
        client.connection_pool.connection_class = TlsConnection
        client.connection_pool.connection_kwargs["tls"] = context


def backing_off(retries: int) -> Retry:
    """Return how often a lost connection is made again, and how soon."""
    return Retry(ExponentialBackoff(cap=BACKOFF_CAP, base=BACKOFF_BASE), retries)


def client_options(login: dict[str, Any], retry: Retry) -> dict[str, Any]:
    """Return what redis-py is told for each connection of ours."""
    return login | {
        "protocol": 2,
        "decode_responses": False,
        "socket_timeout": None,
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_keepalive": True,
        "retry": retry,
        "retry_on_error": [RedisConnectionError, RedisTimeoutError],
        # no `CLIENT SETINFO`: Redis 7.0 does not have it, and its ACL cannot even name it
        "driver_info": None,
    }


def as_text(value: Any) -> str:
    """Return what a server said, bytes or not, as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _heard(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # whoever waits is told; nobody may wait any more
