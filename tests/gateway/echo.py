"""An engine that sends back what it is sent, behind a real web server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from engineio import ASGIApp  # type: ignore[import-untyped] # the library has no types
from websockets.asyncio.client import ClientConnection

from backplane.settings import Settings
from gateway import strictjson
from gateway.engine import GuardedEngine, server_options
from tests.support.serving import served

LIMIT = 20_000
"""Bytes that a message may have."""


class Echo:
    """An engine that sends back what it is sent."""

    def __init__(self) -> None:
        self.engine = GuardedEngine(binary=True, max_http_buffer_size=LIMIT, json=strictjson, async_handlers=False)
        self.engine.on("message", self.engine.send)
        self.port = 0

    @property
    def url(self) -> str:
        """Where a WebSocket client finds it."""
        return f"ws://127.0.0.1:{self.port}/engine.io/?EIO=4&transport=websocket"

    async def say(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection, and write a request as it is."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        return reader, writer


@asynccontextmanager
async def echoing(**options: object) -> AsyncIterator[Echo]:
    """Serve an echo for the length of this block; options change those of the web server."""
    echo = Echo()

    def configuration(port: int) -> uvicorn.Config:
        return uvicorn.Config(
            ASGIApp(echo.engine),
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=1,
            **({**server_options(Settings(max_frame_bytes=LIMIT)), **options}),
        )

    async with served(configuration) as echo.port:
        yield echo
        await echo.engine.shutdown()


async def opened(client: ClientConnection) -> str:
    """Wait for the greeting; return the id of the session."""
    return str(json.loads(str(await client.recv())[1:])["sid"])
