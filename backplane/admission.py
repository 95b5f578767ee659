"""Admission: how many turns of one user, and of one tenant, may be under way at once, over all threads and nodes.

The counts lie on keys of their own, because the threads of a user lie in many partitions; those of one tenant and its
users are in one slot. They are not kept exact when turns end (whoever ends one may be any process, or die behind it):
when a budget seems used up, the turns themselves are asked, and those that have ended are taken out. So a lost step can
never lock anybody out. A worker that ends a turn takes it out at once, which is for speed only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from backplane.errors import RateLimited, ThreadlineError
from backplane.ids import ThreadRef
from backplane.keys import split_member

if TYPE_CHECKING:
    from backplane.connection import Backplane

_UNDER_WAY = frozenset({b"queued", b"ready", b"running", b"waiting"})
_CONTEXT = [b"queued", b"collect"]
"""State and lane of collected context. It never is a turn, and lies there until one takes it: were it counted, it could
use the budget up, and the turn that would take it could not start. `max_followups` bounds it in each thread."""
_RETRY_AFTER_MS = 1000
_STARTING = 10.0
"""Seconds that a turn may take from its admission to its start; then it never came."""
_LOOK_AT = 200
"""Turns that one refused start may ask for. Those seen go to the end, so that the next one asks others."""
_log = structlog.get_logger("backplane.admission")


@dataclass(frozen=True, slots=True)
class _Budget:
    key: str
    most: int
    whose: str


class Admission:
    """Counts the turns of users and tenants."""

    def __init__(self, backplane: Backplane, clock: Callable[[], float] = time.time) -> None:
        self._backplane = backplane
        self._clock = clock
        self._settings = backplane.settings

    async def admit(self, ref: ThreadRef, subject: str, request_id: str) -> None:
        """Count a turn that is about to start. One that then does not start is forgotten by itself.

        Raises:
            RateLimited: when the user has `max_turns_per_user` turns under way, or the tenant `max_turns_per_tenant`;
                nothing is stored then.
            Unavailable: when Redis did not answer.
        """
        budgets = self._budgets(ref.tenant, subject)
        member = self._backplane.keys.thread(ref).member(request_id)
        async with self._backplane.answering():
            counts = await self._count(budgets, member)
            for budget, count in zip(budgets, counts, strict=True):
                if count <= budget.most or await self._forget_ended(budget.key, member) <= budget.most:
                    continue
                await self._take_out(budgets, member)
                raise RateLimited(
                    f"{budget.most} turns {budget.whose} are under way already, over all threads; wait for an end, or "
                    "cancel one",
                    retry_after_ms=_RETRY_AFTER_MS,
                )

    async def leave(self, ref: ThreadRef, subject: str, request_id: str) -> None:
        """Take out a turn that has ended, if its tenant has a budget: that of a user is small enough to be asked whole.

        When this fails, a later start that meets a full budget does it.
        """
        budgets = self._budgets(ref.tenant, subject)
        if len(budgets) < 2:
            return
        try:
            async with self._backplane.answering():
                await self._take_out(budgets, self._backplane.keys.thread(ref).member(request_id))
        except ThreadlineError:
            named = {"thread_id": ref.thread_id, "request_id": request_id}
            _log.warning("a turn that has ended counts for a little longer", **named)

    def _budgets(self, tenant: str, subject: str) -> list[_Budget]:
        keys, settings = self._backplane.keys, self._settings
        budgets = [_Budget(keys.user(tenant, subject), settings.max_turns_per_user, "of yours")]
        most = settings.tenant_max_turns.get(tenant, settings.max_turns_per_tenant)
        if most:
            budgets.append(_Budget(keys.tenant(tenant), most, "of your tenant"))
        return budgets

    async def _count(self, budgets: list[_Budget], member: str) -> list[int]:
        pipeline = self._backplane.redis.pipeline(transaction=True)
        for budget in budgets:
            pipeline.zadd(budget.key, {member: self._clock()})
            pipeline.expire(budget.key, self._settings.thread_ttl)
            pipeline.zcard(budget.key)
        answers: list[Any] = await pipeline.execute()
        return [int(count) for count in answers[2::3]]

    async def _take_out(self, budgets: list[_Budget], member: str) -> None:
        pipeline = self._backplane.redis.pipeline(transaction=True)
        for budget in budgets:
            pipeline.zrem(budget.key, member)
        await pipeline.execute()

    async def forget(self, ref: ThreadRef, subject: str) -> None:
        """Forget a user's turns in a thread that was deleted, or never was theirs: those of others stay counted.

        Raises:
            Unavailable: when Redis did not answer.
        """
        keys = self._backplane.keys
        user, tenant = keys.user(ref.tenant, subject), keys.tenant(ref.tenant)
        async with self._backplane.answering():
            found: Any = await self._backplane.redis.zrange(user, 0, -1)
            gone = [name for name in found if split_member(name.decode())[0] == ref]
            if gone:
                for key in (user, tenant):
                    await self._backplane.redis.zrem(key, *gone)

    async def _forget_ended(self, key: str, newest: str) -> int:
        """Take out turns that have ended, of those that were not looked at for longest. Returns the count."""
        redis = self._backplane.redis
        found: Any = await redis.zrange(key, 0, _LOOK_AT, withscores=True)
        looked = {raw.decode(): at for raw, at in found if raw.decode() != newest}
        pipeline = redis.pipeline(transaction=False)
        for name in looked:
            ref, request_id = split_member(name)
            pipeline.hmget(self._backplane.keys.thread(ref).turn(request_id), "state", "lane")
        states = [b"context" if found == _CONTEXT else found[0] for found in await pipeline.execute()]
        now = self._clock()
        under_way = [name for name, state in zip(looked, states, strict=True) if state in _UNDER_WAY]
        ended = [
            name
            for (name, at), state in zip(looked.items(), states, strict=True)
            if (state is None and at < now - _STARTING) or (state is not None and state not in _UNDER_WAY)
        ]
        pipeline = redis.pipeline(transaction=True)
        if under_way:
            # not added again: it may have ended, and been taken out, meanwhile
            pipeline.zadd(key, dict.fromkeys(under_way, now), xx=True)
        if ended:
            pipeline.zrem(key, *ended)
        pipeline.zcard(key)
        return int((await pipeline.execute())[-1])
