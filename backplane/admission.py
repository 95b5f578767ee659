"""Admission: how many turns of one user may be under way at once, over all threads and nodes.

The count lies on a key of its own, because a user's threads lie in many partitions. It is not kept exact when turns
end (whoever ends one may be any process, or die behind it): when the budget seems used up, the turns themselves are
asked, and those that have ended are taken out. So a lost step can never lock a user out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from backplane.errors import RateLimited
from backplane.ids import ThreadRef
from backplane.keys import split_member

if TYPE_CHECKING:
    from backplane.connection import Backplane

_UNDER_WAY = frozenset({b"queued", b"ready", b"running", b"waiting"})
_RETRY_AFTER_MS = 1000
_STARTING = 10.0
"""Seconds that a turn may take from its admission to its start; then it never came."""


class Admission:
    """Counts the turns of users."""

    def __init__(self, backplane: Backplane, clock: Callable[[], float] = time.time) -> None:
        self._backplane = backplane
        self._clock = clock
        self._budget = backplane.settings.max_turns_per_user

    async def admit(self, ref: ThreadRef, subject: str, request_id: str) -> None:
        """Count a turn that is about to start. One that then does not start is forgotten by itself.

        Raises:
            RateLimited: when the user has `max_turns_per_user` turns under way; nothing is stored then.
            Unavailable: when Redis did not answer.
        """
        key = self._backplane.keys.user(ref.tenant, subject)
        member = self._backplane.keys.thread(ref).member(request_id)
        async with self._backplane.answering():
            pipeline = self._backplane.redis.pipeline(transaction=True)
            pipeline.zadd(key, {member: self._clock()})
            pipeline.zcard(key)
            pipeline.expire(key, self._backplane.settings.thread_ttl)
            _, count, _ = await pipeline.execute()
            if count <= self._budget or count - await self._forget_ended(key, member) <= self._budget:
                return
            await self._backplane.redis.zrem(key, member)
        raise RateLimited(
            f"{self._budget} turns of yours are under way already, over all threads; wait for an end, or cancel one",
            retry_after_ms=_RETRY_AFTER_MS,
        )

    async def forget(self, ref: ThreadRef, subject: str) -> None:
        """Forget every turn of a thread that was deleted.

        Raises:
            Unavailable: when Redis did not answer.
        """
        key = self._backplane.keys.user(ref.tenant, subject)
        async with self._backplane.answering():
            found: Any = await self._backplane.redis.zrange(key, 0, -1)
            gone = [name for name in found if split_member(name.decode())[0] == ref]
            if gone:
                await self._backplane.redis.zrem(key, *gone)

    async def _forget_ended(self, key: str, newest: str) -> int:
        redis = self._backplane.redis
        found: Any = await redis.zrange(key, 0, -1, withscores=True)
        admitted = {raw.decode(): at for raw, at in found if raw.decode() != newest}
        pipeline = redis.pipeline(transaction=False)
        for name in admitted:
            ref, request_id = split_member(name)
            pipeline.hget(self._backplane.keys.thread(ref).turn(request_id), "state")
        states = await pipeline.execute()
        starting = self._clock() - _STARTING
        ended = [
            name
            for (name, at), state in zip(admitted.items(), states, strict=True)
            if (state is None and at < starting) or (state is not None and state not in _UNDER_WAY)
        ]
        if ended:
            await redis.zrem(key, *ended)
        return len(ended)
