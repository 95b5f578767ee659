"""The doorbell: tells one idle worker that one turn became ready.

One ring wakes one worker, the one that has waited longest, so adding workers adds no wasted claims. The list
is for speed only: what is ready stands in the partitions, and the recoverer rings again for what was lost.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from redis.asyncio import Redis

from backplane.ids import ThreadRef
from backplane.keys import split_member


class Doorbell:
    """The list that idle workers block on. Its items are members (`tenant/thread/request`)."""

    BLOCK: ClassVar[float] = 5.0
    """Seconds that one wait blocks: long enough to be cheap, short enough to notice a dead connection."""
    _TTL: ClassVar[int] = 24 * 3600
    _MOST: ClassVar[int] = 100_000
    """Rings kept while no worker listens; the recoverer rings again for those cut off."""

    def __init__(self, key: str, redis: Redis, blocking: Redis, timeout: float) -> None:
        self._timeout = timeout
        self._key = key
        self._redis = redis
        self._blocking = blocking

    async def ring(self, *members: str) -> None:
        """Wake a worker for each of these turns.

        Raises:
            redis.RedisError, OSError: when Redis did not answer; the recoverer will ring.
        """
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.rpush(self._key, *members)
        pipeline.ltrim(self._key, -self._MOST, -1)
        pipeline.expire(self._key, self._TTL)
        async with asyncio.timeout(self._timeout):
            await pipeline.execute()

    async def forget(self, ref: ThreadRef) -> None:
        """Take back the rings for the turns of a thread that was deleted.

        Raises:
            redis.RedisError, OSError: when Redis did not answer.
        """
        rings: Any = await self._redis.lrange(self._key, 0, -1)
        for ring in {ring for ring in rings if split_member(ring.decode())[0] == ref}:
            await self._redis.lrem(self._key, 0, ring)

    async def wait(self) -> str | None:
        """Return the next turn that became ready, or None after `BLOCK` seconds.

        A ring that is taken but never heard (the connection died under the reply) loses no turn.

        Raises:
            redis.RedisError, OSError: when the connection failed; wait a moment, and call again.
        """
        async with asyncio.timeout(self.BLOCK + self._timeout):  # a half-open connection gives no error
            popped: Any = await self._blocking.blpop([self._key], timeout=self.BLOCK)
        return popped[1].decode() if popped else None
