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

    Cancelled, it ends in order: it waits for what the store is giving it at that moment, and gives that to another
    worker. A turn whose ring was lost with a connection would wait for the recoverer, one whose claim was lost for the
    end of a lease, as if its worker had died.

    Args:
        free: one permit for each free slot; taken here, given back by whoever runs the turn.
        begin: runs a claimed turn.
    """

    def __init__(self, backplane: Backplane, free: asyncio.Semaphore, begin: Callable[[Claim], None]) -> None:
        self._backplane = backplane
        self._free = free
        self._begin = begin
        self._stopping = False
        self.tried = 0
        """Claims that were sent: one for each time that this worker was woken."""
        self.won = 0
        """Turns that they got. Where this is far less, workers are woken for nothing."""

    async def run(self) -> None:
        """Claim; an error of Redis costs a pause, not the claimer. Returns when `max_turns` were taken."""
        most = self._backplane.settings.max_turns
        while not most or self.won < most:
            await self._free.acquire()
            taking = asyncio.create_task(self._next(), name="take")
            try:
                claim = await asyncio.shield(taking)
            except asyncio.CancelledError:
                await self._stop(taking)
                raise
            if claim is not None:
                self.won += 1
                self._begin(claim)

    async def _stop(self, taking: asyncio.Task[Claim | None]) -> None:
        """End the taking of a turn, and give back what it brings; within the time that a command may take."""
        self._stopping = True
        try:
            async with asyncio.timeout(self._backplane.settings.redis_timeout):
                if not taking.done():
                    await self._backplane.doorbell.leave()
                if (claim := await taking) is not None:
                    await self._backplane.turns.release(claim)
                    turn = {"thread_id": claim.ref.thread_id, "request_id": claim.request_id}
                    _log.info("turn handed back before it began", **turn)
        except (RedisError, OSError, ThreadlineError) as error:
            # a turn that it may have brought is rung for by the recoverer, or taken over when its lease has lapsed
            _log.warning("stopped claiming, and did not hear what the last wait brought", error=repr(error))
        finally:
            taking.cancel()

    async def _next(self) -> Claim | None:
        """Return the next turn; None only when this stops."""
        while not self._stopping:
            try:
                member = await self._backplane.doorbell.wait()
                if member is None:
                    continue
                if self._stopping:
                    await self._backplane.turns.pass_on(member)
                    return None
                claim = await self._claim(member)
                if claim is not None:
                    return claim
            except (RedisError, OSError, ThreadlineError) as error:
                # the turn whose ring was lost here is rung again by the recoverer
                _log.warning("could not claim; trying again", error=repr(error))
                await asyncio.sleep(_PAUSE)
        return None

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
