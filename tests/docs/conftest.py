"""What the tests of the documentation share: the tables of a page, and the product running in this process."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
import socketio  # type: ignore[import-untyped]  # python-socketio ships no types
from socketio.exceptions import ConnectionError as NotConnected  # type: ignore[import-untyped]

from backplane.embedded import free_port
from backplane.settings import Settings
from gateway import server
from tests.support.waiting import wait_until
from worker import runtime

ROOT = Path(__file__).parents[2]
Row = Mapping[str, str]


class TableOf(Protocol):
    """Returns the rows of the one table on a page that begins with these columns."""

    def __call__(self, page: str, *columns: str) -> list[Row]: ...


@pytest.fixture
def table() -> TableOf:
    """Return a reader of the tables in docs/."""

    def rows(page: str, *columns: str) -> list[Row]:
        found = [table for table in _tables(page) if list(table[0])[: len(columns)] == list(columns)]
        assert len(found) == 1, f"expected one table with the columns {columns} on {page}, got {len(found)}"
        return found[0]

    return rows


def _tables(page: str) -> list[list[Row]]:
    blocks = re.findall(r"(?:^\|.*\|\n)+", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    tables: list[list[Row]] = []
    for block in blocks:
        head, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        tables.append([dict(zip(head, row, strict=True)) for row in body])
    return tables


@pytest.fixture
def redis_url(valkey: str) -> str:
    """Return the real server: the pages speak of that one."""
    return valkey


class Client:
    """A Socket.IO client that writes down every frame in the order in which it came."""

    def __init__(self) -> None:
        self.frames: list[tuple[str, dict[str, Any]]] = []
        """(name, fields); an acknowledgement is named `ack` and the call."""
        self.sio = socketio.AsyncClient(reconnection=False, handle_sigint=False)
        # plain functions, not coroutines: those would run as tasks, in any order
        self.sio.on("*", lambda name, *data: self.frames.append((name, data[0])))

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of threads that came, without aliases."""
        return [fields for name, fields in self.frames if fields.get("event") == name and "offset" in fields]

    async def call(self, verb: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Call and return the acknowledgement."""
        answered: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        def acknowledged(answer: dict[str, Any]) -> None:
            self.frames.append((f"ack {verb}", answer))
            answered.set_result(answer)

        await self.sio.emit(verb, payload, callback=acknowledged)
        async with asyncio.timeout(10):
            return await answered

    async def seen(self, name: str, request_id: str) -> dict[str, Any]:
        """Wait for an event of a turn, and return it."""
        found: list[dict[str, Any]] = []

        def came() -> bool:
            found.extend(event for event in self.events if (event["event"], event["request_id"]) == (name, request_id))
            return bool(found)

        await wait_until(came, f"{name} of {request_id}")
        return found[0]


class Product:
    """A gateway and workers, in this process, on the test's store."""

    def __init__(self, settings: Settings, stack: AsyncExitStack) -> None:
        self.settings = settings
        self.url = f"http://127.0.0.1:{settings.port}"
        self._stack = stack

    async def client(self, token: str | None = None) -> Client:
        """Return a connected client; it is disconnected at the end."""
        client = Client()
        await client.sio.connect(self.url, auth={"token": token}, transports=["websocket"], wait_timeout=10)
        self._stack.push_async_callback(client.sio.disconnect)
        return client

    async def refusal(self, token: str | None) -> Any:
        """Return what a client is told whose connection is refused."""
        told: list[Any] = []
        client = Client()
        client.sio.on("connect_error", lambda data: told.append(data))
        with pytest.raises(NotConnected):
            await client.sio.connect(self.url, auth={"token": token}, transports=["websocket"], wait_timeout=10)
        return told[0]

    async def worker(self) -> Callable[[], Any]:
        """Start a worker; return what stops it in order. Otherwise it is stopped at the end."""
        stop, name = asyncio.Event(), f"worker-{id(object())}"
        task = asyncio.create_task(runtime.run(self.settings.model_copy(update={"node_id": name}), stop))

        async def ended() -> None:
            stop.set()
            await task

        self._stack.push_async_callback(ended)
        return ended


class Opener(Protocol):
    """Starts the product; keyword arguments are settings."""

    def __call__(self, **settings: Any) -> Any: ...


@pytest.fixture
def product(settings: Callable[..., Settings]) -> Opener:
    """Return a way to run a gateway and, with `worker()`, workers."""

    @asynccontextmanager
    async def running(**overrides: Any) -> AsyncIterator[Product]:
        given = settings(**{"port": free_port(), "drain_grace": 0.2, **overrides})
        stop = asyncio.Event()
        serving = asyncio.create_task(server.run(given, stop))
        try:
            async with AsyncExitStack() as stack, httpx.AsyncClient(trust_env=False) as http:
                running = Product(given, stack)

                async def ready() -> bool:
                    try:
                        return (await http.get(f"{running.url}/readyz")).is_success
                    except httpx.TransportError:
                        return False

                await wait_until(ready, "the gateway is ready")
                yield running
        finally:
            stop.set()
            await serving

    return running
