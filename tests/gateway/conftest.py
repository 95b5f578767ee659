"""A whole gateway in this process: real web server, real Valkey, and a worker whose agent the test writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import socketio  # type: ignore[import-untyped]  # the library has no types

from backplane.connection import Backplane
from backplane.settings import Settings
from backplane.traces import Traces
from gateway.auth import Authenticator
from gateway.server import Gateway, Uvicorn, configuration
from tests.gateway.watched import Thread
from tests.support.waiting import wait_until
from tests.support.working import working as running_worker
from worker.runtime import Worker
from worker.turn import Agent


@dataclass
class RunningGateway:
    """A gateway that serves, and what it is made of."""

    url: str
    gateway: Gateway
    backplane: Backplane


@dataclass
class Client:
    """A bare Socket.IO client that notes every event, in order, as it came."""

    io: Any
    events: list[tuple[str, Any]] = field(default_factory=list)

    async def call(self, verb: str, **payload: Any) -> Any:
        """Send a verb and return its acknowledgement."""
        return await self.io.call(verb, payload, timeout=10)

    def named(self, *names: str) -> list[dict[str, Any]]:
        """Return the events of these names."""
        return [data for name, data in self.events if name in names]

    def log(self) -> list[dict[str, Any]]:
        """Return the events that carry an offset, without their aliases."""
        return [data for name, data in self.events if ":" not in name and isinstance(data, dict) and "offset" in data]

    @property
    def text(self) -> str:
        """The answer as far as it has come."""
        return "".join(data["delta"] for data in self.named("text_delta"))


class Clients:
    """Connects clients, and disconnects them at the end of the test."""

    def __init__(self) -> None:
        self._open: list[Any] = []

    async def connect(self, url: str, token: str | None = None, **options: Any) -> Client:
        """Connect one client."""
        io = socketio.AsyncClient(reconnection=False)
        client = Client(io)
        io.on("*", lambda name, data=None: client.events.append((name, data)))
        await io.connect(url, auth={"token": token}, **({"transports": ["websocket"], "wait_timeout": 10} | options))
        self._open.append(io)
        return client

    async def close(self) -> None:
        """Disconnect all of them."""
        for io in self._open:
            await io.disconnect()
            if io.eio.http is not None:
                await io.eio.http.close()


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    """Return a way to connect clients."""
    made = Clients()
    yield made
    await made.close()


@asynccontextmanager
async def serving(
    settings: Settings, traces: Traces | None = None, *, roles: bool = True
) -> AsyncIterator[RunningGateway]:
    """Serve a gateway on a free port for the length of the block; its spans go to `traces`.

    Without its roles it asks Redis nothing by itself.
    """
    if not roles:
        settings = settings.model_copy(update={"canary_interval": 3600.0})
    async with Authenticator(settings) as authenticator, Backplane.open(settings) as backplane:
        backplane.traces = traces or backplane.traces
        gateway = Gateway(settings, backplane, authenticator)
        server = Uvicorn(configuration(settings, gateway))
        async with gateway.roles() if roles else backplane.revocations:
            task = asyncio.create_task(server.serve())
            await wait_until(lambda: server.started, "the web server listens")
            port = server.servers[0].sockets[0].getsockname()[1]
            try:
                yield RunningGateway(f"http://127.0.0.1:{port}", gateway, backplane)
            finally:
                server.leave()
                await gateway.close()
                await task


@asynccontextmanager
async def working(settings: Settings, agent: Agent, traces: Traces | None = None) -> AsyncIterator[Worker]:
    """Run a worker with connections of its own for the length of the block; its spans go to `traces`.

    With the block its turns end too, handed back: nobody hears any more what an endless agent says.
    """
    settings = settings.model_copy(update={"drain_grace": 0.05})
    async with Backplane.open(settings) as backplane:
        backplane.traces = traces or backplane.traces
        async with running_worker(backplane, agent) as worker:
            yield worker


@pytest.fixture
def gateway_settings(valkey: str) -> Callable[..., Settings]:
    """Return settings of a gateway on a free port and a prefix of its own; keyword arguments override."""
    from backplane.ids import new_id

    prefix = f"test-{new_id()}"

    def make(**overrides: Any) -> Settings:
        given: dict[str, Any] = {
            "redis_url": valkey, "key_prefix": prefix, "partitions": 4, "port": 0, "node_id": new_id(),
            "calls_per_second": 1000, "calls_burst": 1000, "drain_grace": 2,
            "user_calls_per_second": 1000,
        }  # fmt: skip
        return Settings(**(given | overrides))

    return make


@pytest.fixture
async def thread(backplane: Backplane) -> Thread:
    """Return a thread whose turn the test runs, with the rooms of one node."""
    made = Thread(backplane)
    await made.start()
    return made
