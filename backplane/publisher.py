"""Publishing in order: what one process publishes reaches Redis in the order of the calls, many in one round trip.

redis-py takes another connection of its pool for each call that runs at the same time, so two of them may overtake
each other. Here one task writes, and whatever came while a round trip was under way goes into the next one together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from backplane.connection import RETRIES, answered, open_servers, redis_errors
from backplane.errors import ThreadlineError, Unavailable
from backplane.keys import Keys
from backplane.live import LiveChannels
from backplane.settings import Settings

MOST_WAITING = 10_000
"""Messages that may wait for Redis; more of them means that it does not answer."""
MOST_WAITING_BYTES = 64 * 1024 * 1024
_BATCH = 256
"""Messages of one round trip: a lost reply sends all of them again."""
_CLOSE_GRACE = 1.0


@dataclass(slots=True)
class _Waiting:
    channels: Collection[str]
    message: bytes
    done: asyncio.Future[int]

    @property
    def size(self) -> int:
        return len(self.message) * len(self.channels)


class Publisher:
    """Publishes on sharded channels, in order.

    A lost reply makes the client send a batch again, so a message may be heard twice: it should carry a number.

    Args:
        redis: the connection, which stays the caller's.
        timeout: seconds that a round trip may take (the setting `redis_timeout`): a connection that is half open breaks
            only when TCP gives up, after minutes, and all that is published waits behind it.
        most_waiting: messages that may wait.
    """

    def __init__(self, redis: Redis, timeout: float, *, most_waiting: int = MOST_WAITING) -> None:
        self._redis = redis
        self._timeout = timeout
        self._most_waiting = most_waiting
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._sending: asyncio.Task[None] | None = None

    async def publish(self, channels: Collection[str], message: bytes) -> int:
        """Publish one message on some channels; return how many connections heard it, all channels together.

        Its place in the order is taken at the call, before anything is awaited.

        Raises:
            Unavailable: when Redis did not answer, or too much waits for it already; it may have been published.
        """
        waiting = _Waiting(channels, message, asyncio.get_running_loop().create_future())
        full = len(self._waiting) >= self._most_waiting or self._bytes + waiting.size > MOST_WAITING_BYTES
        if self._waiting and full:
            raise Unavailable("too much waits to be published; try again in a moment")
        self._waiting.append(waiting)
        self._bytes += waiting.size
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send(), name="publisher")
        return await waiting.done

    async def publish_one(self, channel: str, message: bytes) -> None:
        """Publish a message on one channel.

        Raises:
            Unavailable: as `publish` does.
        """
        await self.publish((channel,), message)

    async def close(self) -> None:
        """Stop publishing: what is on its way may arrive, whoever still waits is told that it will not."""
        self._fail(self._waiting, Unavailable("this process is stopping; send the same call to another"))
        self._waiting.clear()
        self._bytes = 0
        if self._sending is not None:
            # not cancelled at once: redis-py drops a connection that is just being made without closing it
            await asyncio.wait((self._sending,), timeout=_CLOSE_GRACE)
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)

    async def _send(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            self._bytes -= sum(waiting.size for waiting in batch)
            try:
                await self._send_batch(batch)
            except ThreadlineError as error:
                self._fail(batch, error)
            except asyncio.CancelledError:
                self._fail(batch, Unavailable("this process is stopping; send the same call to another"))
                raise

    async def _send_batch(self, batch: list[_Waiting]) -> None:
        async with answered(self._timeout), self._redis.pipeline(transaction=False) as pipeline:
            for waiting in batch:
                for channel in waiting.channels:
                    pipeline.execute_command("SPUBLISH", channel, waiting.message)
            replies = iter(await pipeline.execute(raise_on_error=False))
        for waiting in batch:
            own = [next(replies) for _ in waiting.channels]
            if waiting.done.done():  # whoever asked has left
                continue
            try:
                waiting.done.set_result(_heard_by(own))
            except ThreadlineError as error:
                waiting.done.set_exception(error)

    @staticmethod
    def _fail(batch: Collection[_Waiting], error: ThreadlineError) -> None:
        for waiting in batch:
            if not waiting.done.done():
                waiting.done.set_exception(error)


def _heard_by(replies: list[Any]) -> int:
    with redis_errors():
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
    return sum(replies)


class OwnChannels:
    """A publisher and live channels on connections of their own, for a process that has no backplane.

    Args:
        url: where Redis is.
        prefix: of the channels.
        name: of this process, for its canary.
    """

    def __init__(self, url: str, prefix: str, name: str) -> None:
        settings, keys = Settings(redis_url=url), Keys(prefix, 1)
        self._servers = open_servers(url)
        self._redis = self._servers.client(RETRIES)
        self.publisher = Publisher(self._redis, settings.redis_timeout)
        self.live = LiveChannels(
            settings, self._servers, lambda tag: keys.canary(name, tag), self.publisher.publish_one
        )

    async def listen(self) -> None:
        """Make the live connection; return when it is heard.

        Raises:
            Unavailable: when Redis cannot be reached; call it again then.
        """
        await self.live.__aenter__()

    async def close(self) -> None:
        """Close all connections, however far they were opened."""
        await self.live.__aexit__(None, None, None)
        await self.publisher.close()
        await self._redis.aclose()
        await self._servers.aclose()
