"""One live path by itself, against a server that takes connections and says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backplane.addresses import Server, parse
from backplane.path import LivePath
from backplane.settings import Settings
from tests.support.waiting import wait_until


class Owner:
    """Notes what a path tells."""

    def __init__(self) -> None:
        self.misses: list[list[bytes]] = []

    def heard(self, name: bytes, message: bytes) -> None:
        pass

    def missed(self, names: list[bytes]) -> None:
        self.misses.append(names)

    def hears(self) -> None:
        pass

    def lost(self) -> None:
        pass


async def nothing(channel: str, message: bytes) -> None:
    """Publish nowhere."""


@asynccontextmanager
async def silent_server() -> AsyncIterator[Server]:
    """Take connections as a primary does that hangs: its kernel accepts them, and nobody answers."""
    writers: list[asyncio.StreamWriter] = []

    async def taken(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    async with await asyncio.start_server(taken, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield Server(host, port)
        for writer in writers:
            writer.transport.abort()


async def test_a_path_closes_while_its_channels_wait_to_be_confirmed() -> None:
    """Mutant: whoever waits for the confirmations takes its own end for that of the connection, and waits for ever."""
    owner = Owner()
    async with silent_server() as server:
        path = LivePath(owner, server, b"canary", Settings(), nothing, 1.0)
        path.move_here(b"c")
        path.open(parse(f"redis://{server.host}:{server.port}/0"))
        await wait_until(lambda: b"c" in path._waiters, "it has subscribed, and waits")
        connection = path._connection
        closing = asyncio.create_task(path.close())
        await wait_until(closing.done, "it is closed")
    await closing
    assert connection is not None
    assert connection.closed.done(), "nobody is left to see it end"
    assert all(task.cancelled() for task in path._tasks)
    assert (path._waiters, owner.misses) == ({}, [])
