"""A process that asks gateways for their health again and again: the slowest answer is the lag of their loops, or more.

It is a process of its own, for the loop of the suite is busy with the clients whose storm it measures.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from scripts.benchmark.peers import Peer, run, serve

_PAUSE = 0.01
"""Seconds between an answer and the next question."""


class Prober:
    """Asks each gateway in a task of its own."""

    def __init__(self) -> None:
        self._slowest: dict[str, float] = {}
        self._asking: set[asyncio.Task[None]] = set()

    async def begin(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Ask these gateways from now on."""
        for url in asked["urls"]:
            self._slowest[url] = 0.0
            self._asking.add(asyncio.create_task(self._ask(url)))
        return {}

    async def slowest(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Answer the slowest of all answers since the last time that this was asked (seconds)."""
        for task in self._asking:
            if task.done():
                task.result()
        found = max(self._slowest.values())
        self._slowest = dict.fromkeys(self._slowest, 0.0)
        return {"seconds": found}

    async def _ask(self, url: str) -> None:
        where = urlsplit(url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        while True:
            begun = time.monotonic()
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                line.split(b":")[1] for line in head.lower().splitlines() if line.startswith(b"content-length")
            )
            await reader.readexactly(int(length))
            self._slowest[url] = max(self._slowest[url], time.monotonic() - begun)
            await asyncio.sleep(_PAUSE)


@asynccontextmanager
async def probing(urls: list[str]) -> AsyncIterator[Peer]:
    """Have gateways asked for the length of this block; `ask("slowest")` tells how slow they were."""
    peer = await Peer.start((sys.executable, "-m", "scripts.faultsuite.prober"))
    try:
        await peer.ask("begin", urls=urls)
        yield peer
    finally:
        await peer.close()


async def main() -> None:
    """Serve the suite until it goes."""
    prober = Prober()
    await serve({"begin": prober.begin, "slowest": prober.slowest})


if __name__ == "__main__":
    run(main)
