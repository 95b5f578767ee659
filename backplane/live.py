"""Live channels: what is published reaches this process at once, or the process knows that it may have missed it.

Pub/sub is at-most-once. So the log is the truth, and this is for speed only: a listener is told when its channel
was silent for want of a connection, and reads the log again. A canary shows that the path really works: the
process publishes to itself over the command connection and listens over this one. A process that no longer hears
its canary is deaf; it drops the connection and makes another.

The connection speaks RESP through hiredis and a small asyncio protocol of its own, because a token stream passes
here: redis-py's pub/sub loop takes several task switches for each message, this takes none.

There is one path (path.py) for each primary: one, or on a Cluster one for each shard, where a channel is heard at the
primary of its slot. When the primaries change, channels move, and their listeners are told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Protocol

import structlog
from redis.exceptions import RedisError

from backplane.addresses import Server
from backplane.errors import Unavailable
from backplane.path import LivePath
from backplane.servers import Servers
from backplane.settings import Settings

_log = structlog.get_logger("backplane.live")

_CONFIRM_TIMEOUT = 5.0
_LOOK_AGAIN = 0.01
_FOLLOW = 1.0
"""Seconds between two looks at who the primaries are, while nothing hints at a change."""
_FOLLOW_IN_DOUBT = 0.1
"""Seconds between them while a path is lost: delivery goes on that much behind a failover."""
RELAXED = 10
"""How many times as long a relaxed canary pauses: there are many more workers than gateways."""


class Listener(Protocol):
    """What hears a channel. Both methods are called on the event loop and must not block."""

    def heard(self, message: bytes) -> None:
        """Take one message."""

    def missed(self) -> None:
        """Messages may have been missed: read the truth again."""


class LiveChannels:
    """The channels that this process listens to.

    Args:
        settings: how often the canaries sing.
        servers: who the primaries are.
        canary: returns the channel of this process alone with this hash tag.
        publish: publishes over the command connection.
        relaxed: whether this process is told by other means as well what it listens for, and soon enough: then its
            canaries sing more rarely.
    """

    def __init__(
        self,
        settings: Settings,
        servers: Servers,
        canary: Callable[[str], str],
        publish: Callable[[str, bytes], Awaitable[None]],
        *,
        relaxed: bool = False,
    ) -> None:
        self._settings = settings
        self._pause = settings.canary_interval * (RELAXED if relaxed else 1)
        self._servers = servers
        self._canary = canary
        self._publish = publish
        self._listeners: dict[bytes, Listener] = {}
        self._paths: dict[Server, LivePath] = {}
        self._at: dict[bytes, LivePath] = {}
        """Where each channel is listened to; not known while there is no primary for it."""
        self._closing: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None
        self._doubt = asyncio.Event()
        self._sound = asyncio.Event()
        self.reconnects = 0
        """How often a connection was made again."""
        self.listener_errors = 0
        """Messages whose listener failed: ignored, and counted."""
        servers.on_change(self._route)

    async def __aenter__(self) -> LiveChannels:
        self._following = asyncio.create_task(self._follow(), name="live-follow")
        self._route()
        try:
            async with asyncio.timeout(_CONFIRM_TIMEOUT):
                while self.deaf:
                    self._sound.clear()
                    await self._sound.wait()
        except TimeoutError:
            trouble = self.trouble
            await self.__aexit__(None, None, None)
            raise Unavailable(
                f"the live path gave no sound{trouble and f' ({trouble})'}: SPUBLISH and SSUBSCRIBE need Redis 7 or "
                "Valkey; check the address, the version and the ACL with `threadline doctor`",
                trouble=trouble,
            ) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
            self._following = None
        paths, self._paths = list(self._paths.values()), {}
        self._at.clear()
        await asyncio.gather(*(path.close() for path in paths), *self._closing, return_exceptions=True)

    @property
    def channels(self) -> int:
        """How many channels are listened to."""
        return len(self._listeners)

    @property
    def deaf(self) -> bool:
        """True while this process cannot be sure to hear what is published, at one primary at least."""
        return not self._paths or any(path.deaf for path in self._paths.values())

    @property
    def deaf_at(self) -> list[str]:
        """The primaries that are not heard."""
        return [str(server) for server, path in self._paths.items() if path.deaf]

    @property
    def trouble(self) -> str:
        """What stands in the way of the first primary that is not heard; empty while nothing is known."""
        return next((path.trouble for path in self._paths.values() if path.deaf and path.trouble), "")

    async def subscribe(self, channel: str, listener: Listener) -> None:
        """Listen to a channel. When this returns, Redis has confirmed it: what is published from now on is heard.

        Raises:
            Unavailable: when no confirmation came in time; the channel is not listened to then.
        """
        name = channel.encode()
        if name in self._listeners:
            raise ValueError("a channel has one listener; it passes on to others")
        self._listeners[name] = listener
        try:
            async with asyncio.timeout(_CONFIRM_TIMEOUT):
                while True:
                    path = self._place(name)
                    if path is None:
                        await asyncio.sleep(_LOOK_AGAIN)
                        continue
                    await path.add(name)
                    if self._at.get(name) is path:
                        return
        except TimeoutError:
            self.unsubscribe(channel)
            raise Unavailable("the live path did not confirm in time; try again in a moment") from None
        except BaseException:
            self.unsubscribe(channel)
            raise

    def unsubscribe(self, channel: str) -> None:
        """Stop listening to a channel."""
        name = channel.encode()
        self._listeners.pop(name, None)
        if (path := self._at.pop(name, None)) is not None:
            path.drop(name)

    def reconnect(self) -> None:
        """Drop every connection and make others; every listener is told that it may have missed something."""
        for path in self._paths.values():
            path.reconnect()

    # --- told by the paths -----------------------------------------------------------------------------

    def heard(self, name: bytes, message: bytes) -> None:
        """Pass a message on to its listener."""
        listener = self._listeners.get(name)
        if listener is None:
            return
        try:
            listener.heard(message)
        except Exception as error:  # an exception here would close the connection of everybody else
            self.listener_errors += 1
            if self.listener_errors <= 10:
                _log.error("a listener failed on a message", channel=repr(name), error=repr(error))

    def missed(self, names: list[bytes]) -> None:
        """Tell the listeners of these channels that messages may have been missed."""
        for name in names:
            if (listener := self._listeners.get(name)) is not None:
                listener.missed()

    def hears(self) -> None:
        """Note that a canary was heard."""
        self._sound.set()

    def lost(self) -> None:
        """Note that a connection ended: its server may be a primary no more."""
        self.reconnects += 1
        self._doubt.set()

    # --- where things are ------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Keep looking at who the primaries are, so that nobody stays with an old one that lives on."""
        look = self._servers.locate
        while True:
            self._doubt.clear()
            with suppress(RedisError, OSError):
                await look()
            with suppress(TimeoutError):
                async with asyncio.timeout(_FOLLOW):
                    await self._doubt.wait()
            look = self._servers.locate if self._doubt.is_set() or self.deaf else self._servers.glance
            await asyncio.sleep(_FOLLOW_IN_DOUBT if self._doubt.is_set() else 0)

    def _route(self) -> None:
        """Have one path for each primary, and every channel at the primary of its slot."""
        if self._following is None:
            return
        for server, path in list(self._paths.items()):
            if server not in self._servers.primaries or self._servers.of(path.canary) != server:
                del self._paths[server]
                closing = asyncio.create_task(path.close(), name=f"close-{server}")
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
        for server in self._servers.primaries:
            if server not in self._paths:
                canary = self._canary(self._servers.tag(server)).encode()
                self._paths[server] = LivePath(self, server, canary, self._settings, self._publish, self._pause)
                self._paths[server].open(self._servers.address)
        for name in list(self._listeners):
            before = self._at.pop(name, None)
            now = self._place(name)
            if now is before:
                continue
            if before is not None:
                before.drop(name)
            if now is not None:
                now.move_here(name)

    def _place(self, name: bytes) -> LivePath | None:
        """Note where a channel is listened to from now on."""
        server = self._servers.of(name)
        path = None if server is None else self._paths.get(server)
        if path is not None:
            self._at[name] = path
        return path
