"""The two systems that every probe meets: Threadline, and python-socketio as its documentation has it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fleet.fleet import Fleet
from tests.threats.target import Process, Target, started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """Return two gateways and a worker."""
    folder = tmp_path_factory.mktemp("threats")
    settings = {
        "agent": "tests.threats.torrent:agent", "max_tool_output_bytes": 250_001, "aliases": False,
        "trusted_proxies": "127.0.0.1", "connects_per_second": 1,
    }  # fmt: skip
    async with Fleet(folder, gateways=2, workers=1, settings=settings) as fleet:
        yield fleet


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def threadline(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """Return two nodes of Threadline."""
    folder = tmp_path_factory.mktemp("threadline")
    first, second = fleet.gateways

    async def start(redis_url: str) -> Process:
        environment = fleet.environment | {"THREADLINE_REDIS_URL": redis_url, "THREADLINE_PORT": "{port}"}
        return await started(folder, environment, "cli.main", "gateway")

    hurried = await started(folder, fleet.environment, "gateway.conformance", "--port", "{port}")
    try:
        assert await hurried.serves(), hurried.said()
        urls = (str(first.url), str(second.url))
        yield Target(urls, first.pid, lambda: first.said, fleet.store.url, folder, hurried.url, start)
    finally:
        await hurried.end()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stock(valkey: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """Return two nodes of python-socketio with its own Redis manager."""
    folder: Path = tmp_path_factory.mktemp("stock")

    async def start(redis_url: str) -> Process:
        return await started(folder, dict(os.environ), "tests.threats.stock", "{port}", redis_url)

    async with AsyncExitStack() as stack:
        nodes = []
        for _ in range(2):
            nodes.append(await start(valkey))
            stack.push_async_callback(nodes[-1].end)
            assert await nodes[-1].serves(), nodes[-1].said()
        first, second = nodes
        yield Target((first.url, second.url), first.process.pid, first.said, valkey, folder, first.url, start)
