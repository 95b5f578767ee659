"""The doorbell: tells one idle worker that one turn became ready, and which turn is next when many wait.

One ring wakes one worker, the one that has waited longest, so adding workers adds no wasted claims. A turn that meets
no other goes to that worker directly. Where turns wait, the worker asks who is next: tenants take turns by their
weights, and so do the users of a tenant, as equals (lua/lib/line.lua). All of it is in one slot of a cluster, and for
speed and fairness only: what is ready stands in the partitions, and the recoverer rings again for what was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from redis.asyncio import Redis

from backplane.ids import ThreadRef, new_id
from backplane.keys import Keys, user_digest
from backplane.scripts import Call, run


@dataclass(frozen=True, slots=True)
class Ring:
    """A turn that became ready."""

    member: str
    """`tenant/thread/request`."""
    subject: str
    """Whose it is."""
    again: bool = False
    """True when a worker had it before: it goes in front of its user's others."""

    @property
    def tenant(self) -> str:
        """Its tenant."""
        return self.member.partition("/")[0]


class Doorbell:
    """The line of turns that wait for a worker.

    Args:
        redis: for all commands but the blocking one.
        blocking: a client of its own for that.
        timeout: seconds that a command may take.
        weights: of tenants; 1 for those that are not named.
    """

    BLOCK: ClassVar[float] = 5.0
    """Seconds that one wait blocks: long enough to be cheap, short enough to notice a dead connection."""
    _TTL: ClassVar[int] = 24 * 3600
    _LEAVING_TTL: ClassVar[int] = 60
    """Seconds that the wish to leave lies there when nobody waited; a wait is over long before."""

    def __init__(self, keys: Keys, redis: Redis, blocking: Redis, timeout: float, weights: Mapping[str, int]) -> None:
        self._keys = [keys.doorbell, keys.line, keys.line_tenants, keys.line_users, keys.line_turns]
        self._leaving = keys.leaving + new_id()
        self._redis = redis
        self._blocking = blocking
        self._timeout = timeout
        self._weights = weights

    async def ring(self, ring: Ring) -> int:
        """Put a turn in the line and wake a worker; a turn that stands there already keeps its place.

        Returns its place, about: 1 is next.

        Raises:
            redis.RedisError, OSError: when Redis did not answer; the recoverer will ring.
        """
        weight = self._weights.get(ring.tenant, 1)
        user = user_digest(ring.subject)
        return int(
            await self._run("ring", ring.member, ring.tenant, user, weight, self._TTL * 1000, "1" if ring.again else "")
        )

    async def place(self, member: str, subject: str) -> int:
        """Return where a turn stands in the line, about: 1 is next; 0 when it does not wait there.

        Raises:
            redis.RedisError, OSError: when Redis did not answer.
        """
        return int(await self._run("place", member, member.partition("/")[0], user_digest(subject)))

    async def forget(self, ref: ThreadRef, subject: str) -> None:
        """Take the turns of a thread that was deleted out of the line.

        Raises:
            redis.RedisError, OSError: when Redis did not answer.
        """
        await self._run("forget", f"{ref}/", ref.tenant, user_digest(subject))

    async def wait(self) -> str | None:
        """Return the next turn that became ready, or None after `BLOCK` seconds or a call of `leave`.

        A ring that is taken but never heard (the connection died under the reply) loses no turn, but costs it two
        seconds: end a wait by `leave`, never by cancelling it.

        Raises:
            redis.RedisError, OSError: when the connection failed; wait a moment, and call again.
        """
        async with asyncio.timeout(self.BLOCK + self._timeout):  # a half-open connection gives no error
            popped: Any = await self._blocking.blpop([self._leaving, self._keys[0]], timeout=self.BLOCK)
        if popped is None or popped[0] == self._leaving.encode():
            return None
        member = popped[1] or await self._run("pick", self._TTL * 1000)
        return member.decode() or None

    async def leave(self) -> None:
        """End the wait that is under way, or the next one; it still returns what was taken for it.

        The store decides which came first, so nothing is taken for one who is not there any more. A connection that is
        closed in the middle of its wait may have been given a turn by then, which nobody hears of. CLIENT UNBLOCK would
        end it as well; but it is a right more, and does nothing for a wait that is still on its way.

        Raises:
            redis.RedisError, OSError: when Redis did not answer.
        """
        async with asyncio.timeout(self._timeout):
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.rpush(self._leaving, "")
            pipeline.expire(self._leaving, self._LEAVING_TTL)
            await pipeline.execute()

    async def _run(self, name: str, *args: str | int) -> Any:
        async with asyncio.timeout(self._timeout):
            return await run(self._redis, Call(name, self._keys, args))
