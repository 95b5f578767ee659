"""The channels that a node listens to, each as long as somebody holds it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from backplane.errors import Unavailable
from backplane.live import LiveChannels

_log = structlog.get_logger("gateway.channels")


class Channel:
    """A channel, and who holds it. A listener of the live connection."""

    def __init__(self, name: str, hear: Callable[[bytes], None], opening: asyncio.Task[None]) -> None:
        self.name = name
        self.holders = 0
        """Whoever adds one here keeps the channel beyond the block in which it is held, until `Channels.release`."""
        self.opening = opening
        self._hear = hear

    def heard(self, message: bytes) -> None:
        """Take a message."""
        self._hear(message)

    def missed(self) -> None:
        """Socket.IO's events are at most once, here as over any of its adapters."""

    async def confirmed(self) -> None:
        """Return when Redis has confirmed the channel.

        Raises:
            Unavailable: when it did not in time.
        """
        if not self.opening.done():
            await asyncio.wait((self.opening,))
        if self.opening.cancelled():
            raise Unavailable("this node is stopping; come back at another")
        self.opening.result()


class Channels:
    """What a node listens to.

    Args:
        live: the connection; None for a process that does not listen.
        hear: takes each message.
    """

    def __init__(self, live: LiveChannels | None, hear: Callable[[bytes], None]) -> None:
        self.connect: Callable[[], Awaitable[None]] | None = None
        """Makes the live connection, where nobody else does. Raises Unavailable when it is to be called again."""
        self._live = live
        self._hear = hear
        self._channels: dict[str, Channel] = {}
        self._closing = False

    def __len__(self) -> int:
        return len(self._channels)

    def __iter__(self) -> Iterator[Channel]:
        return iter(self._channels.values())

    async def close(self) -> None:
        """Leave all of them."""
        self._closing = True
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            channel.opening.cancel()
        await asyncio.gather(*(channel.opening for channel in channels), return_exceptions=True)
        if self._live is not None:
            for channel in channels:
                self._live.unsubscribe(channel.name)

    @contextmanager
    def holding(self, name: str, *, standing: bool = False) -> Iterator[Channel]:
        """Listen to a channel at least for the length of this block; a standing one is asked for until it is there."""
        channel = self._channels.get(name)
        if channel is None:
            channel = self._open(name, self._subscribe(name, standing))
        channel.holders += 1
        try:
            yield channel
        finally:
            self.release(name)

    def release(self, name: str) -> None:
        """Let go of a channel; the last one leaves it."""
        channel = self._channels.get(name)
        if channel is None:
            return
        channel.holders -= 1
        if not channel.holders:
            del self._channels[name]
            channel.opening.cancel()
            if self._live is not None:
                self._live.unsubscribe(name)

    def for_good(self, name: str) -> Channel:
        """Listen to a channel to the end, on a connection that is made if need be."""
        channel = self._channels.get(name)
        if channel is None:
            channel = self._open(name, self._listen(name))
            channel.holders = 1  # never released
        return channel

    def _open(self, name: str, opening: Coroutine[Any, Any, None]) -> Channel:
        task = asyncio.create_task(opening, name=f"open-{name}")
        channel = self._channels[name] = Channel(name, self._hear, task)
        return channel

    async def _listen(self, name: str) -> None:
        while self.connect is not None:
            self._check_open()
            try:
                await self.connect()
                break
            except Unavailable as error:
                _log.warning("no live connection; trying again", error=error.message)
        await self._subscribe(name, standing=True)

    async def _subscribe(self, name: str, standing: bool) -> None:
        if self._live is None:
            raise ValueError("expected a manager that listens, got one that only emits; make it without write_only")
        while True:
            self._check_open()
            try:
                await self._live.subscribe(name, self._channels[name])
                return
            except Unavailable as error:
                if not standing:
                    raise
                _log.warning("a channel is not confirmed; asking again", channel=name, error=error.message)

    def _check_open(self) -> None:
        if self._closing:
            raise Unavailable("this node is stopping; come back at another")
