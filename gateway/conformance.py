"""The conformance profile: the real server classes under the handlers that the official protocol suites expect.

`/socket.io/` is what the test suite of the Socket.IO protocol (version 5) wants to find, `/engine.io/` what that of the
Engine.IO protocol (version 4) wants: https://github.com/socketio/socket.io-protocol and engine.io-protocol, each in its
folder `test-suite`. The packet class, the edge and their options are those of a gateway. What differs is here: the
handlers, the namespaces, heartbeats in milliseconds, and that clients may send bytes and several arguments.
It has no login: for tests on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import uvicorn
from engineio import ASGIApp as EngineApp  # type: ignore[import-untyped] # the library has no types
from socketio import ASGIApp as SocketApp  # type: ignore[import-untyped] # likewise

from backplane import logs
from backplane.settings import Settings
from gateway import strictjson
from gateway.engine import GuardedEngine, server_options
from gateway.origins import OriginGuard
from gateway.packets import Allowance, GuardedServer

PORT = 3000
"""Where the suites look."""
SETTINGS = Settings(host="localhost", port=PORT, cors_origins=("*",), max_frame_bytes=1_000_000)
HEARTBEAT: dict[str, Any] = {"ping_interval": 0.3, "ping_timeout": 0.2}
CONNECT_DEADLINE = 1.0
ALLOWANCE = Allowance(arguments=16, attachments=16, attachment_bytes=1_000_000)
NAMESPACES = ("/", "/custom")
GREETING_DELAY = 0.05
"""Seconds between the CONNECT packet and the event behind it. The suite's WebSocket client (ws 8.5) hands over all
frames of one read at once, and the suite listens for the second one only when it has seen the first."""


class Greeter:
    """Tells each client of a namespace, right behind its CONNECT packet, what it sent as `auth`."""

    def __init__(self, server: GuardedServer, namespace: str) -> None:
        self._server = server
        self._namespace = namespace
        self._greetings: set[asyncio.Task[None]] = set()
        server.on("connect", self.greet, namespace=namespace)

    async def greet(self, sid: str, environ: dict[str, Any], auth: object) -> None:
        """Send the event `auth`, behind the CONNECT packet that follows this handler."""
        task = asyncio.ensure_future(self._greet(sid, auth or {}))
        self._greetings.add(task)
        task.add_done_callback(self._greetings.discard)

    async def _greet(self, sid: str, auth: object) -> None:
        await asyncio.sleep(GREETING_DELAY)
        await self._server.emit("auth", auth, to=sid, namespace=self._namespace)


def socketio_server() -> GuardedServer:
    """Return the server of `/socket.io/`."""
    server = GuardedServer(SETTINGS, connect_deadline=CONNECT_DEADLINE, allowance=ALLOWANCE, **HEARTBEAT)
    for namespace in NAMESPACES:
        Greeter(server, namespace)

    async def send_back(sid: str, *values: object) -> None:
        await server.emit("message-back", values, to=sid)

    async def acknowledge(sid: str, *values: object) -> tuple[object, ...]:
        return values

    server.on("message", send_back)
    server.on("message-with-ack", acknowledge)
    return server


def engineio_server() -> GuardedEngine:
    """Return the server of `/engine.io/`: whatever comes goes back."""
    engine = GuardedEngine(
        binary=True,
        json=strictjson,
        max_http_buffer_size=SETTINGS.max_frame_bytes,
        async_handlers=False,
        **HEARTBEAT,
    )

    async def send_back(sid: str, content: str | bytes) -> None:
        await engine.send(sid, content)

    engine.on("message", send_back)
    return engine


def application(server: GuardedServer, engine: GuardedEngine) -> OriginGuard:
    """Return the ASGI application of both, behind the gate that a gateway has."""
    return OriginGuard(SocketApp(server, other_asgi_app=EngineApp(engine)), SETTINGS)


def configuration(app: OriginGuard, port: int) -> uvicorn.Config:
    """Return how it is served: as a gateway is."""
    return uvicorn.Config(
        app,
        host=SETTINGS.host,
        port=port,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
        **server_options(SETTINGS),
    )


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="scripts/conformance", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=PORT, help="where to listen, on this machine alone (%(default)s)")
    given = parser.parse_args()
    logs.configure(SETTINGS)
    app = application(socketio_server(), engineio_server())
    print(f"Conformance profile on http://{SETTINGS.host}:{given.port}; Ctrl-C stops it.", flush=True)
    uvicorn.Server(configuration(app, given.port)).run()


if __name__ == "__main__":
    main()
