"""The claimer: waits at the doorbell while a slot is free, and takes the turn that rang."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from redis.exceptions import RedisError

from backplane.connection import Backplane
from backplane.errors import ThreadlineError, Unavailable
from backplane.ids import new_id
from backplane.turns import Claim

_log = structlog.get_logger("worker.claimer")
_PAUSE = 0.2
"""Seconds between tries while Redis does not answer."""


class Claimer:
    """Claims turns until it is cancelled, or has taken as many as it may.

    Args:
        free: one permit for each free slot; taken here, given back by whoever runs the turn.
        begin: runs a claimed turn.
    """

    def __init__(self, backplane: Backplane, free: asyncio.Semaphore, begin: Callable[[Claim], None]) -> None:
        self._backplane = backplane
        self._free = free
        self._begin = begin
        self.tried = 0
        """Claims that were sent: one for each time that this worker was woken."""
        self.won = 0
        """Turns that they got. Where this is far less, workers are woken for nothing."""

    async def run(self) -> None:
        """Claim; an error of Redis costs a pause, not the claimer. Returns when `max_turns` were taken."""
        most = self._backplane.settings.max_turns
        while not most or self.won < most:
            await self._free.acquire()
            try:
                claim = await self._next()
            except BaseException:
                self._free.release()
                raise
            self.won += 1
            self._begin(claim)

    async def _next(self) -> Claim:
        while True:
            try:
                member = await self._backplane.doorbell.wait()
                if member is None:
                    continue
                claim = await self._claim(member)
                if claim is not None:
                    return claim
            except (RedisError, OSError, ThreadlineError) as error:
                # the turn whose ring was lost here is rung again by the recoverer
                _log.warning("could not claim; trying again", error=repr(error))
                await asyncio.sleep(_PAUSE)

    async def _claim(self, member: str) -> Claim | None:
        """Claim a turn, and ask until there is an answer: a claim whose answer is lost may have taken the turn."""
        claim_id = new_id()
        self.tried += 1
        while True:
            try:
                return await self._backplane.turns.claim(member, self._backplane.settings.node_id, claim_id)
            except Unavailable as error:
                _log.warning("a claim was not answered; asking again", error=error.message)
                await asyncio.sleep(_PAUSE)
