"""Nodes and workers that lack one step of the hot path each, so that it can be seen what the step gives.

Started as `python -m scripts.benchmark.variants gateway|worker VARIANT`, with the settings of the environment. They
are put together from the product's own classes; nothing of this is in the product. They are ended by a signal.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import uvicorn
from redis.asyncio import Redis

from backplane import logs, settings
from backplane.connection import Backplane
from backplane.events import Event, decode_live
from backplane.ids import thread_ref
from backplane.keys import Keys
from backplane.live import Listener, LiveChannels
from backplane.scripts import Call, script
from backplane.settings import Settings
from gateway.auth import Authenticator
from gateway.server import Gateway, Uvicorn, configuration
from gateway.sockets import Encoded, Socket
from gateway.websocket import WebSocketProtocol
from scripts.benchmark.peers import loop_factory
from worker.loading import load_agent
from worker.runtime import Worker

VARIANTS = frozenset(
    {
        "asgi",
        "asyncio",
        "encoded-each",
        "framed-each",
        "library-pipelines",
        "library-pubsub",
        "one-by-one",
        "one-channel",
    }
)
THREADS = 16
"""Threads of the run: what a node hears that hears every thread."""


class OneByOne(Backplane):
    """Waits for each append before it sends the next one."""

    async def run_many(self, calls: list[Call]) -> list[Any]:
        """Run one after the other."""
        return [await self.run(call) for call in calls]


class LibraryPipelines(Backplane):
    """Sends pipelines as redis-py makes them."""

    async def run_many(self, calls: list[Call]) -> list[Any]:
        """Run scripts in one round trip."""
        pipeline = self.redis.pipeline(transaction=False)
        for call in calls:
            pipeline.evalsha(script(call.name).sha, len(call.keys), *call.keys, *call.args)
        async with self.answering():
            return await pipeline.execute(raise_on_error=False)


class LibraryPubSub:
    """Live channels by redis-py's own loop; without canary and supervision, which cost something too."""

    deaf, reconnects, listener_errors = False, 0, 0

    def __init__(self, redis: Redis) -> None:
        self._pubsub: Any = redis.pubsub()
        self._listeners: dict[bytes, Listener] = {}
        self._listening: asyncio.Task[None] | None = None

    async def subscribe(self, channel: str, listener: Listener) -> None:
        """Listen to a channel."""
        self._listeners[channel.encode()] = listener
        await self._pubsub.ssubscribe(channel)
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())

    def unsubscribe(self, channel: str) -> None:
        """Listen no more; the process is about to end anyway."""
        self._listeners.pop(channel.encode(), None)

    async def _listen(self) -> None:
        async for message in self._pubsub.listen():
            listener = self._listeners.get(message["channel"])
            if message["type"] == "smessage" and listener is not None:
                listener.heard(message["data"])


class Bystander:
    """Hears a thread that nobody watches here, as every node does when all threads share one channel."""

    def heard(self, message: bytes) -> None:
        """Read it, to find out that it is for nobody."""
        decode_live(message)

    def missed(self) -> None:
        """Miss it."""


async def _hear_everything(backplane: Backplane) -> None:
    told = backplane.settings
    canary = backplane.keys.canary(f"{told.node_id}-all")
    live = LiveChannels(told, backplane.servers, lambda _: canary, _publish(backplane))
    await live.__aenter__()
    keys = Keys(told.key_prefix, told.partitions)
    for number in range(THREADS):
        await live.subscribe(keys.thread(thread_ref(f"bench-{number}")).live, Bystander())


def _publish(backplane: Backplane) -> Callable[[str, bytes], Awaitable[None]]:
    async def publish(channel: str, message: bytes) -> None:
        await backplane.redis.execute_command("SPUBLISH", channel, message)  # type: ignore[no-untyped-call]

    return publish


def _encode_each_time(socket: Socket, event: Event) -> bool:
    return socket._session.write(Encoded(event, socket._aliases))  # type: ignore[no-any-return]  # as in Socket.send


def _through_asgi(told: Settings, gateway: Gateway) -> uvicorn.Config:
    """Return uvicorn's own protocols, which leave the application nothing but ASGI."""
    return uvicorn.Config(
        gateway.app,
        host=told.host,
        port=told.port,
        http="httptools",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
    )


async def _gateway(told: Settings, variant: str) -> None:
    async with Authenticator(told) as authenticator, Backplane.open(told) as backplane:
        if variant == "library-pubsub":
            backplane.live = cast(LiveChannels, LibraryPubSub(backplane.redis))
        if variant == "one-channel":
            await _hear_everything(backplane)
        if variant == "encoded-each":
            Socket.send = _encode_each_time  # type: ignore[method-assign, assignment]  # the one method that this is about
        if variant == "framed-each":
            WebSocketProtocol.takes_frames = False
        gateway = Gateway(told, backplane, authenticator)
        made = _through_asgi(told, gateway) if variant == "asgi" else configuration(told, gateway)
        async with gateway.roles():
            await Uvicorn(made).serve()


async def _worker(told: Settings, variant: str) -> None:
    kinds: dict[str, type[Backplane]] = {"one-by-one": OneByOne, "library-pipelines": LibraryPipelines}
    async with kinds.get(variant, Backplane).open(told) as backplane:
        print("worker ready", flush=True)
        await Worker(backplane, load_agent(told.agent)).run(asyncio.Event())


def main(arguments: Sequence[str]) -> None:
    """Be a variant until ended."""
    role, variant = arguments
    if variant not in VARIANTS:
        raise SystemExit(f"expected one of {', '.join(sorted(VARIANTS))}, got {variant!r}")
    told = settings.load()
    logs.configure(told)
    be = {"gateway": _gateway, "worker": _worker}[role]
    with asyncio.Runner(loop_factory=None if variant == "asyncio" else loop_factory()) as runner:
        runner.run(be(told, variant))


if __name__ == "__main__":
    main(sys.argv[1:])
