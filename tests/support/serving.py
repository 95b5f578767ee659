"""Serving an ASGI application in this process, as a gateway serves its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import uvicorn

from gateway.server import Uvicorn
from tests.support.waiting import wait_until


@asynccontextmanager
async def served(configuration: Callable[[int], uvicorn.Config]) -> AsyncIterator[int]:
    """Serve on a free loopback port for the length of this block; return the port.

    Args:
        configuration: makes uvicorn's configuration for a port.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        server = Uvicorn(configuration(port))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await wait_until(lambda: server.started, "the web server to start")
            yield port
        finally:
            server.leave()
            await serving
