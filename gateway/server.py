"""A gateway process: puts the parts together, serves, and stops in order.

The order of stopping: unready first (the balancer looks elsewhere), then the clients (their transports are closed,
spread over some seconds, and they come back at another node), then the web server, the backplane last.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import structlog
import uvicorn
from socketio import ASGIApp  # type: ignore[import-untyped]  # the library has no types
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from backplane.connection import Backplane, opened_when_reachable
from backplane.publisher import Publisher
from backplane.recoverer import Recoverer
from backplane.settings import Settings
from backplane.watchdog import Watchdog
from gateway import auth
from gateway.auth import Authenticator
from gateway.callers import Callers
from gateway.dialects.routes import Dialects
from gateway.door import Door
from gateway.engine import server_options
from gateway.http import INDEX, Http, unrouted
from gateway.manager import RoomChannelManager
from gateway.metrics import Metrics
from gateway.node import Node
from gateway.operations import Operations
from gateway.origins import OriginGuard
from gateway.packets import GuardedServer
from gateway.page import Page
from gateway.presence import Presence
from gateway.revoker import Revoker
from gateway.rooms import Rooms
from gateway.settler import Settler
from gateway.sockets import Sockets
from gateway.verbs import Verbs

_YOUNG = 10_000
"""Objects made before the garbage collector looks at them; Python's own 700 are four new connections."""
_log = structlog.get_logger("gateway.server")


class Gateway:
    """The parts of a gateway, put together on an open backplane. `app` is its ASGI application."""

    def __init__(self, settings: Settings, backplane: Backplane, authenticator: Authenticator) -> None:
        self._settings = settings
        self._backplane = backplane
        self.metrics = Metrics(backplane.members.clock.now)
        self.node = Node(backplane)
        self.rooms = Rooms(backplane, self.metrics)
        self.presence = Presence(backplane, self.rooms)
        verbs = Verbs(backplane, self.rooms)
        self._publisher = Publisher(backplane.redis, settings.redis_timeout)
        self._manager = RoomChannelManager(self._publisher, backplane.live, prefix=settings.key_prefix)
        self._server = GuardedServer(settings, client_manager=self._manager)
        self.callers = callers = Callers(settings, self.metrics)
        self.sockets = Sockets(self._server, settings, authenticator, verbs, self.node, self.metrics, callers)
        http = Http(settings, authenticator, verbs, self.node, self.metrics, callers)
        self._operations = Operations(settings, backplane, self.metrics, self.sockets.unplug)
        self._revoker = Revoker(backplane.revocations, self.sockets, self.node, settings.expiry_grace)
        self._is_open = authenticator.open
        authenticator.revoked = self._revoker.revoked
        # sockets come first: a connection that lasts for hours need not pass all of Starlette's layers
        self.routes = [
            *Page(settings, INDEX).routes(),
            *http.routes(),
            *Dialects(settings, verbs, http, callers).routes(),
            *self._operations.routes(http.who, http.answered, http.body),
        ]
        guard = OriginGuard(
            ASGIApp(self._server, Starlette(routes=self.routes, exception_handlers={HTTPException: unrouted})), settings
        )
        self.app = door = Door(guard, settings, self.metrics)
        self.settler = Settler(backplane.allowances, [callers.users, callers.tenants, *door.allowances])
        self.metrics.sockets.set_function(lambda: len(self.sockets))
        self.metrics.rooms.set_function(lambda: len(self.rooms))
        self.metrics.deaf.set_function(lambda: float(backplane.live.deaf))
        self.metrics.reconnects.set_function(lambda: backplane.live.reconnects)
        self.metrics.ready.set_function(lambda: float(not self.node.draining and not backplane.live.deaf))

    @asynccontextmanager
    async def roles(self) -> AsyncIterator[list[asyncio.Task[None]]]:
        """Run what a node does beside serving, for the length of this block."""
        async with self._backplane.revocations, self._running() as tasks:
            yield tasks

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[list[asyncio.Task[None]]]:
        tasks = [
            asyncio.create_task(self.rooms.poll(), name="poll"),
            asyncio.create_task(self.node.degraded.run(), name="degraded"),
            asyncio.create_task(self.presence.run(), name="presence"),
            asyncio.create_task(self.settler.run(), name="settle"),
            asyncio.create_task(Recoverer(self._backplane, self.metrics.lapsed.inc).run(), name="recoverer"),
            asyncio.create_task(self._backplane.members.run("gateway", self._operations.facts), name="report"),
        ]
        if not self._is_open:  # without tokens there is nothing to take back
            tasks.append(asyncio.create_task(self._revoker.run(), name="revoker"))
        try:
            yield tasks
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def drain(self) -> None:
        """Turn unready, and send the clients away."""
        self.node.draining = True
        _log.info("draining", sockets=len(self.sockets))
        await self.sockets.drain(self._settings.drain_grace / 2)
        self.rooms.lose_all("draining")
        await self.presence.leave()

    async def close(self) -> None:
        """Stop Socket.IO's background tasks."""
        await self._server.shutdown()
        await self._manager.close()
        await self._publisher.close()


_TICK = 1.0
"""Seconds between two looks of the web server: it renews the header `date`, which counts in seconds."""


class Uvicorn(uvicorn.Server):
    """Uvicorn without signal handlers: this process has one owner of its signals, who sets `stop`.

    It sleeps until then; uvicorn itself wakes ten times a second, which is half of what an idle node uses.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Stop serving."""
        self.should_exit = True
        self._leaving.set()

    def hasten(self) -> None:
        """Have `serve` not wait for requests that are not answered yet: somebody asked a second time."""
        self.force_exit = True

    async def main_loop(self) -> None:
        """Serve until `leave`."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await self._leaving.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def configuration(settings: Settings, gateway: Gateway) -> uvicorn.Config:
    """Return how the web server serves a gateway."""
    return uvicorn.Config(
        gateway.app,
        host=settings.host,
        port=settings.port,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain_grace),
        **server_options(settings),
    )


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve clients until `stop` is set, then drain.

    Raises:
        Misconfigured: when the settings contradict each other or what Redis holds.
    """
    auth.check(settings)
    async with Authenticator(settings) as authenticator, opened_when_reachable(settings, stop) as backplane:
        if authenticator.open:
            _log.warning(auth.OPEN_NOTICE)
        if backplane is None:
            return
        gateway = Gateway(settings, backplane, authenticator)
        _spare_the_collector()
        async with Watchdog(gateway.metrics.loop_lag.observe, "clients of this node wait"):
            await _serve(settings, gateway, stop)
    _log.info("gateway stopped", node_id=settings.node_id)


def _spare_the_collector() -> None:
    # What was loaded until now stays for ever: to look through it takes tens of milliseconds, in which nobody is
    # served, and a storm of connections would set that off again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG)


async def _serve(settings: Settings, gateway: Gateway, stop: asyncio.Event) -> None:
    server = Uvicorn(configuration(settings, gateway))
    async with gateway.roles() as roles:
        serving = asyncio.create_task(server.serve(), name="uvicorn")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        _log.info("gateway ready", node_id=settings.node_id, host=settings.host, port=settings.port)
        try:
            # a role that ends is a defect, and a node that lacks one must not go on
            await asyncio.wait([serving, stopping, *roles], return_when=asyncio.FIRST_COMPLETED)
            await gateway.drain()
        except asyncio.CancelledError:
            server.hasten()
            raise
        finally:
            stopping.cancel()
            server.leave()
            await serving
            await gateway.close()
        for role in roles:
            if role.done():
                role.result()
