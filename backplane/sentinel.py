"""Sentinel: one primary, which Sentinels watch over and replace.

The newest configuration counts. A Sentinel that is cut off together with the old primary goes on naming it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import ConnectionError as RedisConnectionError

from backplane.addresses import Address, Server
from backplane.servers import ASK_TIMEOUT, Servers, backing_off, client_options, encrypt
from backplane.tls import WatchedTlsConnection


class WatchedServers(Servers):
    """The primary that the Sentinels name."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._sentinels = _NewestSentinel(  # type: ignore[no-untyped-call]
            [(server.host, server.port) for server in address.servers],
            sentinel_kwargs=client_options(address.sentinel_login, backing_off(0)),
        )
        for sentinel in self._sentinels.sentinels:
            encrypt(sentinel, address)
        self._clients: list[Redis] = []
        self.on_change(self._leave)
        self._leaving: set[asyncio.Task[None]] = set()

    def client(self, retries: int) -> Redis:
        """Return a client that asks the Sentinels whenever it connects."""
        options = client_options(self.address.login, backing_off(retries))
        if self.address.tls:
            options |= {"connection_class": WatchedTlsConnection, "tls": self.address.tls_context}
        made: Redis = self._sentinels.master_for(self.address.service, db=self.address.db, **options)
        self._clients.append(made)
        return made

    async def _locate(self) -> None:
        host, port = await self._sentinels.discover_master(self.address.service)
        self.take((Server(host, port),))

    def _leave(self) -> None:
        """Drop every connection to the old primary: it may live on, and take writes that will be lost."""
        for client in self._clients:
            leaving = asyncio.create_task(client.connection_pool.disconnect(), name="leave-old-primary")
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def aclose(self) -> None:
        """Close the connections to the Sentinels."""
        await super().aclose()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        await asyncio.gather(*(sentinel.aclose() for sentinel in self._sentinels.sentinels), return_exceptions=True)


class _NewestSentinel(Sentinel):
    """Asks all Sentinels at once, where redis-py takes the word of the first that answers."""

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        asked = [asyncio.create_task(self._ask(sentinel, service_name)) for sentinel in self.sentinels]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        known = [answer for answer in answers if isinstance(answer, dict)]
        if not known:
            raise RedisConnectionError(f"no Sentinel of {len(asked)} names the primary {service_name!r}")
        newest = max(known, key=lambda state: int(state["config-epoch"]))
        return str(newest["ip"]), int(newest["port"])

    async def _ask(self, sentinel: Redis, service_name: str) -> dict[str, Any]:
        async with asyncio.timeout(ASK_TIMEOUT):
            pairs: Any = await sentinel.execute_command("SENTINEL MASTER", service_name)  # type: ignore[no-untyped-call]
        return {str(name): value for name, value in dict(pairs).items()}
