"""The way to the store that can go deaf."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from scripts.benchmark.proxy import Proxy
from tests.support.waiting import wait_until


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """Return a proxy in front of a store that answers with what it is sent."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with Proxy() as proxy:
        proxy.to = server.sockets[0].getsockname()[1]
        yield proxy
    server.close()


async def test_only_those_who_have_subscribed_are_told_nothing_more(proxy: Proxy) -> None:
    one_reader, one = await asyncio.open_connection("127.0.0.1", proxy.port)
    other_reader, other = await asyncio.open_connection("127.0.0.1", proxy.port)
    one.write(b"ssubscribe a")
    assert await one_reader.readexactly(12) == b"ssubscribe a"
    proxy.cut = True
    one.write(b"lost")
    await wait_until(lambda: proxy.swallowed == 4, "the answer is swallowed")
    other.write(b"kept")
    assert await other_reader.readexactly(4) == b"kept"
    proxy.cut = False
    one.write(b"back")
    assert await one_reader.readexactly(4) == b"back"
    one.close()
    assert await one_reader.read() == b""
    other.close()
