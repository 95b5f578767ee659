"""One live path: a supervised connection to one primary, and the canary that shows whether it works."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol, cast

import hiredis
import structlog

from backplane.addresses import Address, Server
from backplane.errors import ThreadlineError
from backplane.settings import Settings

_log = structlog.get_logger("backplane.live")

# Short, because a silent node is worth more than a busy one is dear: silence stays below the poll interval.
_BACKOFF_FIRST, _BACKOFF_MOST = 0.02, 0.25
_CONNECT_TIMEOUT = 1.0
_CONFIRM_TIMEOUT = 5.0
# Commands for so many channels are written at once after a reconnect, so that 100,000 of them do not stall the loop.
_RESUBSCRIBE_BATCH = 500
# A canary counts from 1; at two a second it never needs more.
_CANARY_DIGITS = 15


class Owner(Protocol):
    """Whom a path tells what happens."""

    def heard(self, name: bytes, message: bytes) -> None:
        """Take one message of a channel."""

    def missed(self, names: list[bytes]) -> None:
        """Messages of these channels may have been missed."""

    def hears(self) -> None:
        """The canary was heard."""

    def lost(self) -> None:
        """A connection has ended."""


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


class LivePath:
    """The channels of one primary.

    Args:
        owner: whom messages, losses and new connections are told.
        server: the primary.
        canary: the channel of this process alone at this primary.
        settings: within what time a canary must be heard.
        publish: publishes over the command connection.
        pause: seconds between two songs of the canary while it is heard.
    """

    def __init__(
        self,
        owner: Owner,
        server: Server,
        canary: bytes,
        settings: Settings,
        publish: Callable[[str, bytes], Awaitable[None]],
        pause: float,
    ) -> None:
        self.canary = canary
        self.deaf = True
        """True while this process cannot be sure to hear what is published at this primary."""
        self.trouble = ""
        """What stood in the way last; empty since the canary was heard."""
        self._owner = owner
        self._server = server
        self._settings = settings
        self._publish = publish
        self._pause = pause
        self._fell_silent = asyncio.Event()
        """Set when the connection is lost: the canary must not sleep on."""
        self._channels: dict[bytes, None] = {}
        # commands sent and not yet confirmed, per channel: only the last confirmation counts
        self._pending: Counter[bytes] = Counter()
        self._leaving: Counter[bytes] = Counter()
        self._waiters: dict[bytes, list[asyncio.Future[None]]] = {}
        self._connection: _Connection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._connected = asyncio.Event()
        self._canary_heard = asyncio.Event()
        self._sung = self._canary_number = 0
        self._heard = False

    def open(self, address: Address) -> None:
        """Connect, and keep connected, until `close`."""
        self._tasks = [
            asyncio.create_task(self._supervise(address), name=f"live-supervise-{self._server}"),
            asyncio.create_task(self._sing(), name=f"live-canary-{self._server}"),
        ]

    async def close(self) -> None:
        """Stop; whoever waits for a confirmation is let go, to look where the channel is now."""
        connection = self._connection
        if connection is not None:
            connection.abort()  # before the tasks are waited for: no task of ours can then wait for its end in vain
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if connection is not None:
            await connection.closed
        for name in list(self._waiters):
            self._release(name)

    async def add(self, name: bytes) -> None:
        """Listen to a channel; return when that is confirmed, or when this path is closed or left."""
        # while there is no connection, the supervisor subscribes when it has made one
        await self._subscribe(name)

    def move_here(self, name: bytes) -> None:
        """Listen to a channel that was heard elsewhere until now; what came in between is missed."""
        if self._connection is None:
            self._channels[name] = None  # the supervisor tells of everything that it subscribes
            return
        self._subscribe(name).add_done_callback(lambda _: self._owner.missed([name]))

    def drop(self, name: bytes) -> None:
        """Listen to a channel no more."""
        if name in self._channels:
            del self._channels[name]
            if self._connection is not None:
                self._leaving[name] += 1
                self._connection.send("SUNSUBSCRIBE", name)
        self._release(name)

    def reconnect(self) -> None:
        """Drop the connection and make another."""
        if self._connection is not None:
            self._connection.abort()

    def _subscribe(self, name: bytes) -> asyncio.Future[None]:
        self._channels[name] = None
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # without those of connections that were lost before they had confirmed anything
        waiting = [before for before in self._waiters.get(name, ()) if not before.done()]
        self._waiters[name] = [*waiting, waiter]
        if self._connection is not None:
            self._send_subscribe(name)
        return waiter

    def _send_subscribe(self, name: bytes) -> None:
        assert self._connection is not None
        self._pending[name] += 1
        self._connection.send("SSUBSCRIBE", name)

    # --- what comes ------------------------------------------------------------------------------------

    def _on_reply(self, reply: object) -> None:
        if not isinstance(reply, list) or len(reply) < 3:
            if isinstance(reply, hiredis.ReplyError):
                self._refused(str(reply))
            return
        kind, name, data = reply[0], reply[1], reply[2]
        if kind == b"smessage":
            if name == self.canary:
                # anybody who reaches the store may publish here: an error would end the connection of all channels
                if data.isdigit() and len(data) <= _CANARY_DIGITS:
                    self._canary_number = int(data)
                    self._canary_heard.set()
            else:
                self._heard = True
                self._owner.heard(name, data)
        elif kind == b"ssubscribe":
            self._confirmed(name)
        elif kind == b"sunsubscribe":
            self._left(name)

    def _refused(self, error: str) -> None:
        if error.startswith("MOVED"):
            self._owner.lost()
            self.reconnect()
        else:
            self.trouble = error
            _log.error("Redis refused a command of the live path", error=error)

    def _left(self, name: bytes) -> None:
        if self._leaving[name] > 0:
            self._leaving[name] -= 1
            return
        del self._leaving[name]
        if name in self._channels or name == self.canary:
            # nobody asked for it: the slot of the channel has another primary now
            self._owner.lost()
            self.reconnect()

    def _confirmed(self, name: bytes) -> None:
        self._pending[name] -= 1
        if self._pending[name] > 0:
            return
        del self._pending[name]
        if name == self.canary:
            self._connected.set()
        self._release(name)

    def _release(self, name: bytes) -> None:
        for waiter in self._waiters.pop(name, ()):
            if not waiter.done():
                waiter.set_result(None)

    # --- the connection --------------------------------------------------------------------------------

    async def _supervise(self, address: Address) -> None:
        """Keep one connection open; after each reconnect, subscribe again and tell every listener."""
        pause = _BACKOFF_FIRST
        while True:
            connection = None
            try:
                connection = await self._connect(address)
                await self._resubscribe(connection)
                # shielded: the end of this task is not the end of the connection, for which `close` waits
                await asyncio.shield(connection.closed)
                if self._connected.is_set():  # a balancer without a store behind it takes connections and closes them
                    pause = _BACKOFF_FIRST
                _log.warning("the live connection was lost; connecting again", server=str(self._server))
            except (OSError, TimeoutError) as error:
                self.trouble = str(error) or f"no connection within {_CONNECT_TIMEOUT:g} s"
                _log.warning("no live connection; trying again", server=str(self._server), error=repr(error))
            finally:
                self.deaf = True
                self._fell_silent.set()
                self._connected.clear()
                self._connection = None
                self._canary_heard.set()  # whoever waits for a song looks whether it can still come
                if connection is not None:
                    connection.abort()
            self._owner.lost()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _BACKOFF_MOST)

    async def _connect(self, address: Address) -> _Connection:
        loop = asyncio.get_running_loop()

        def protocol() -> _Connection:
            return _Connection(self._on_reply)

        server = self._server
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            if server.path:
                _, connection = await loop.create_unix_connection(protocol, server.path)
            else:
                tls = address.tls_context
                _, connection = await loop.create_connection(protocol, server.host, server.port, ssl=tls)
        if address.password:
            connection.send("AUTH", *((address.username,) if address.username else ()), address.password)
        return connection

    async def _resubscribe(self, connection: _Connection) -> None:
        self._pending.clear()
        self._leaving.clear()
        self._connection = connection
        self._send_subscribe(self.canary)
        names = list(self._channels)
        waiters = []
        for start in range(0, len(names), _RESUBSCRIBE_BATCH):
            batch = [name for name in names[start : start + _RESUBSCRIBE_BATCH] if name in self._channels]
            waiters += [self._subscribe(name) for name in batch]
            await asyncio.sleep(0)
        if waiters:
            confirmed = asyncio.gather(*waiters)
            connection.closed.add_done_callback(lambda _: confirmed.cancel())
            try:
                async with asyncio.timeout(_CONFIRM_TIMEOUT):
                    await confirmed
            except asyncio.CancelledError:
                # a connection that closes meanwhile is noticed by whoever called; the end of this task is another thing
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
        if not connection.closed.done():  # else the next connection has to hear of it
            self._owner.missed(names)

    # --- the canary ------------------------------------------------------------------------------------

    async def _sing(self) -> None:
        """Publish a number to ourselves; not hearing it in time means that we are deaf.

        What others published since the last look shows as much, so where there is traffic the canary keeps still.
        """
        channel = self.canary.decode()
        while True:
            await self._connected.wait()
            if self._heard and not self.deaf:
                self._heard = False
                await self._rest()
                continue
            self._heard = False
            connection = self._connection
            if await self._is_heard(channel):
                self.deaf = False
                self.trouble = ""
                self._owner.hears()
                await self._rest()
            elif self._connection is connection:  # else it sings anew as soon as there is another
                await asyncio.sleep(self._settings.canary_interval)

    async def _is_heard(self, channel: str) -> bool:
        """Sing once, and return whether that was heard in time; if not, this path is deaf."""
        self._sung += 1
        try:
            # a hung Redis keeps the publish waiting, a half-open connection the canary: both mean deaf
            async with asyncio.timeout(self._settings.canary_interval):
                connection = self._connection
                await self._publish(channel, b"%d" % self._sung)
                return await self._hear(self._sung, connection)
        except TimeoutError:
            if self._canary_number >= self._sung and not self.deaf:
                return True  # it was there when the time was over: this process was held up, and not the path
            if not self.deaf:
                _log.warning(
                    "this process does not hear its own canary; it is deaf until it does", server=str(self._server)
                )
            self.deaf = True
            self.reconnect()
            return False
        except ThreadlineError as error:
            self.deaf = True
            self.trouble = self.trouble or error.message
            _log.warning("the canary could not sing", server=str(self._server), error=error.message)
            return False

    async def _rest(self) -> None:
        """Pause between two songs, but not while the connection is lost."""
        self._fell_silent.clear()
        if self.deaf:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pause):
                await self._fell_silent.wait()

    async def _hear(self, number: int, connection: _Connection | None) -> bool:
        """Wait for a song; False when the connection that was to bring it is lost: no other one ever will."""
        while self._canary_number < number:
            if self._connection is not connection:
                return False
            self._canary_heard.clear()
            await self._canary_heard.wait()
        return True
