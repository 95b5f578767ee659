"""The recoverer: looks at turns that are due, for workers that cannot.

Every gateway and every worker runs one; a short lease in Redis lets only one of them work at a time, so the
cost does not grow with the fleet, and any of them takes over. A turn is due when its lease lapses, its deadline
passes, its cancel was not obeyed in time, or nobody answered its doorbell.
"""

from __future__ import annotations

import asyncio
import math

import structlog

from backplane.connection import Backplane, answered
from backplane.errors import ThreadlineError

_log = structlog.get_logger("backplane.recoverer")
_AT_ONCE = 100
"""Due turns of one partition that are looked at in one pass."""
# The lease outlives a few passes, so that a slow pass does not put two recoverers to work for nothing.
_LEASE_PASSES = 4


class Recoverer:
    """Looks for due turns until it is cancelled."""

    def __init__(self, backplane: Backplane) -> None:
        self._backplane = backplane
        self._settings = backplane.settings
        self._mine = False

    async def run(self) -> None:
        """Make a pass every `recover_interval`; a Redis error ends the pass, not the recoverer."""
        while True:
            try:
                if await self._elected():
                    await self.look()
            except ThreadlineError as error:
                self._mine = False
                _log.warning("a pass of the recoverer failed", error=error.message)
            await asyncio.sleep(self._settings.recover_interval)

    async def _elected(self) -> bool:
        key, me = self._backplane.keys.recoverer, self._settings.node_id
        lease = math.ceil(self._settings.recover_interval * _LEASE_PASSES * 1000)
        redis = self._backplane.redis
        async with answered(self._settings.redis_timeout):
            if self._mine and await redis.get(key) == me.encode():
                await redis.pexpire(key, lease)
            else:
                self._mine = bool(await redis.set(key, me, nx=True, px=lease))
        return self._mine

    async def look(self) -> int:
        """Look once at everything that is due. Returns how many turns something was done for."""
        keys = self._backplane.keys
        async with answered(self._settings.redis_timeout):
            seconds, micros = await self._backplane.redis.time()
            now = seconds * 1000 + micros // 1000
            pipeline = self._backplane.redis.pipeline(transaction=False)
            for partition in range(keys.partitions):
                due = keys.partition(partition).due
                pipeline.zrange(due, "-inf", now, byscore=True, offset=0, num=_AT_ONCE)
            found = await pipeline.execute()
        acted = 0
        for members in found:
            for member in members:
                what = await self._backplane.turns.recover(member.decode())
                acted += what != "none"
                if what not in {"none", "rung"}:
                    _log.warning("a turn was recovered", turn=member.decode(), what=what)
        return acted
