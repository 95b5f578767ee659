"""Live channels: what is published reaches this process at once, or the process knows that it may have missed it.

Pub/sub is at-most-once. So the log is the truth, and this is for speed only: a listener is told when its channel
was silent for want of a connection, and reads the log again. A canary shows that the path really works: the
process publishes to itself over the command connection and listens over this one. A process that no longer hears
its canary is deaf; it drops the connection and makes another.

The connection speaks RESP through hiredis and a small asyncio protocol of its own, because a token stream passes
here: redis-py's pub/sub loop takes several task switches for each message, this takes none.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Protocol, cast

import hiredis
import structlog
from redis.asyncio.connection import parse_url

from backplane.errors import ThreadlineError, Unavailable
from backplane.settings import Settings

_log = structlog.get_logger("backplane.live")

# Short, because a silent node is worth more than a busy one is dear: silence stays below the poll interval.
_BACKOFF_FIRST, _BACKOFF_MOST = 0.02, 0.5
_CONNECT_TIMEOUT = 1.0
_CONFIRM_TIMEOUT = 5.0
# Commands for so many channels are written at once after a reconnect, so that 100,000 of them do not stall the loop.
_RESUBSCRIBE_BATCH = 500


class Listener(Protocol):
    """What hears a channel. Both methods are called on the event loop and must not block."""

    def heard(self, message: bytes) -> None:
        """Take one message."""

    def missed(self) -> None:
        """Messages may have been missed: read the truth again."""


class _Connection(asyncio.Protocol):
    """One connection in subscribed mode. It parses replies and hands them on."""

    def __init__(self, on_reply: Callable[[object], None]) -> None:
        self._reader = hiredis.Reader()
        self._on_reply = on_reply
        self._transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by class, only by behaviour

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while True:
            try:
                reply = self._reader.gets()
            except hiredis.ProtocolError:
                self.abort()
                return
            if reply is False:
                return
            self._on_reply(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def send(self, *command: bytes | str) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(hiredis.pack_command(command))  # type: ignore[arg-type]

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class LiveChannels:
    """The channels that this process listens to, over one supervised connection.

    Args:
        settings: where Redis is, and how often the canary sings.
        canary: the channel of this process alone.
        publish: publishes over the command connection.
    """

    def __init__(self, settings: Settings, canary: str, publish: Callable[[str, bytes], Awaitable[None]]) -> None:
        self._settings = settings
        self._canary = canary
        self._publish = publish
        self._listeners: dict[bytes, Listener] = {}
        # commands sent and not yet confirmed, per channel: only the last confirmation counts
        self._pending: Counter[bytes] = Counter()
        self._waiters: dict[bytes, list[asyncio.Future[None]]] = {}
        self._connection: _Connection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._sung = 0
        self._connected = asyncio.Event()
        self._canary_heard = asyncio.Event()
        self._canary_number = 0
        self.deaf = True
        """True while this process cannot be sure to hear what is published."""
        self.reconnects = 0
        """How often the connection was made again."""
        self.listener_errors = 0
        """Messages whose listener failed: ignored, and counted."""

    async def __aenter__(self) -> LiveChannels:
        self._tasks = [
            asyncio.create_task(self._supervise(), name="live-supervise"),
            asyncio.create_task(self._sing(), name="live-canary"),
        ]
        try:
            async with asyncio.timeout(_CONFIRM_TIMEOUT):
                await self._canary_heard.wait()
        except TimeoutError:
            await self.__aexit__(None, None, None)
            raise Unavailable(
                "the live path gave no sound: SPUBLISH and SSUBSCRIBE need Redis 7 or Valkey; check the address, "
                "the version and the ACL with `threadline doctor`"
            ) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._connection is not None:
            self._connection.abort()
            await self._connection.closed
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.cancel()

    @property
    def channels(self) -> int:
        """How many channels are listened to."""
        return len(self._listeners)

    async def subscribe(self, channel: str, listener: Listener) -> None:
        """Listen to a channel. When this returns, Redis has confirmed it: what is published from now on is heard.

        Raises:
            Unavailable: when no confirmation came in time; the channel is not listened to then.
        """
        name = channel.encode()
        if name in self._listeners:
            raise ValueError("a channel has one listener; it passes on to others")
        self._listeners[name] = listener
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(name, []).append(waiter)
        # while there is no connection, the supervisor subscribes when it has made one
        if self._connection is not None:
            self._send_subscribe(name)
        try:
            async with asyncio.timeout(_CONFIRM_TIMEOUT):
                await waiter
        except TimeoutError:
            self.unsubscribe(channel)
            raise Unavailable("the live path did not confirm in time; try again in a moment") from None

    def unsubscribe(self, channel: str) -> None:
        """Stop listening to a channel."""
        name = channel.encode()
        if self._listeners.pop(name, None) is not None and self._connection is not None:
            self._connection.send("SUNSUBSCRIBE", name)

    def reconnect(self) -> None:
        """Drop the connection and make another; every listener is told that it may have missed something."""
        if self._connection is not None:
            self._connection.abort()

    def _send_subscribe(self, name: bytes) -> None:
        assert self._connection is not None
        self._pending[name] += 1
        self._connection.send("SSUBSCRIBE", name)

    def _on_reply(self, reply: object) -> None:
        if not isinstance(reply, list) or len(reply) < 3:
            if isinstance(reply, hiredis.ReplyError):
                _log.error("Redis refused a command of the live path", error=str(reply))
            return
        kind, name, data = reply[0], reply[1], reply[2]
        if kind == b"smessage":
            self._deliver(name, data)
        elif kind == b"ssubscribe":
            self._confirmed(name)

    def _deliver(self, name: bytes, data: bytes) -> None:
        if name == self._canary.encode():
            self._canary_number = int(data)
            self._canary_heard.set()
            return
        listener = self._listeners.get(name)
        if listener is None:
            return
        try:
            listener.heard(data)
        except Exception as error:  # an exception here would close the connection of everybody else
            self.listener_errors += 1
            if self.listener_errors <= 10:
                _log.error("a listener failed on a message", channel=repr(name), error=repr(error))

    def _confirmed(self, name: bytes) -> None:
        self._pending[name] -= 1
        if self._pending[name] > 0:
            return
        del self._pending[name]
        if name == self._canary.encode():
            self._connected.set()
        for waiter in self._waiters.pop(name, ()):
            if not waiter.done():
                waiter.set_result(None)

    async def _supervise(self) -> None:
        """Keep one connection open; after each reconnect, subscribe again and tell every listener."""
        pause = _BACKOFF_FIRST
        while True:
            connection = None
            try:
                connection = await self._connect()
                await self._resubscribe(connection)
                pause = _BACKOFF_FIRST
                await connection.closed
                _log.warning("the live connection was lost; connecting again")
            except (OSError, TimeoutError) as error:
                _log.warning("no live connection; trying again", error=repr(error))
            finally:
                self.deaf = True
                self._connected.clear()
                self._connection = None
                if connection is not None:
                    connection.abort()
            self.reconnects += 1
            await asyncio.sleep(pause)
            pause = min(pause * 2, _BACKOFF_MOST)

    async def _connect(self) -> _Connection:
        options = parse_url(self._settings.redis_url)
        loop = asyncio.get_running_loop()

        def protocol() -> _Connection:
            return _Connection(self._on_reply)

        async with asyncio.timeout(_CONNECT_TIMEOUT):
            if "path" in options:
                _, connection = await loop.create_unix_connection(protocol, options["path"])
            else:
                tls = True if "SSL" in getattr(options.get("connection_class"), "__name__", "") else None
                host, port = options.get("host", "localhost"), int(options.get("port", 6379))
                _, connection = await loop.create_connection(protocol, host, port, ssl=tls)
        if password := options.get("password"):
            user = options.get("username")
            connection.send("AUTH", *((user, password) if user else (password,)))
        return connection

    async def _resubscribe(self, connection: _Connection) -> None:
        self._pending.clear()
        self._connection = connection
        self._send_subscribe(self._canary.encode())
        names = list(self._listeners)
        waiters = []
        for start in range(0, len(names), _RESUBSCRIBE_BATCH):
            for name in names[start : start + _RESUBSCRIBE_BATCH]:
                waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiters.setdefault(name, []).append(waiter)
                waiters.append(waiter)
                self._send_subscribe(name)
            await asyncio.sleep(0)
        if waiters:
            # a connection that closes meanwhile is noticed by whoever called
            confirmed = asyncio.gather(*waiters)
            connection.closed.add_done_callback(lambda _: confirmed.cancel())
            with suppress(asyncio.CancelledError):
                async with asyncio.timeout(_CONFIRM_TIMEOUT):
                    await confirmed
        for name in names:
            if (listener := self._listeners.get(name)) is not None:
                listener.missed()

    async def _sing(self) -> None:
        """Publish a number to ourselves; not hearing it in time means that we are deaf."""
        while True:
            await self._connected.wait()
            self._sung += 1
            try:
                # a hung Redis keeps the publish waiting, a half-open connection the canary: both mean deaf
                async with asyncio.timeout(self._settings.canary_interval):
                    await self._publish(self._canary, b"%d" % self._sung)
                    await self._hear(self._sung)
                self.deaf = False
            except TimeoutError:
                if not self.deaf:
                    _log.warning("this process does not hear its own canary; it is deaf until it does")
                self.deaf = True
                self.reconnect()
            except ThreadlineError as error:
                self.deaf = True
                _log.warning("the canary could not sing", error=error.message)
            await asyncio.sleep(self._settings.canary_interval)

    async def _hear(self, number: int) -> None:
        while self._canary_number < number:
            self._canary_heard.clear()
            await self._canary_heard.wait()
