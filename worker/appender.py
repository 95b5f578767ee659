"""The appender: one pipeline for the appends of all turns of a worker.

While one round trip is under way, the batches of other turns gather and leave together in the next one, so that the
round trips do not grow with the turns.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from backplane.connection import Backplane
from backplane.errors import Unavailable
from backplane.turns import Batch, Claim, Verdict, verdict

_log = structlog.get_logger("worker.appender")
_BACKOFF_FIRST, _BACKOFF_MOST = 0.05, 0.5
_AT_ONCE = 256


@dataclass(slots=True, eq=False)
class _Waiting:
    claim: Claim
    batch: Batch
    answer: asyncio.Future[Verdict]


class Appender:
    """Appends batches, and answers each with its verdict. A batch keeps its number when it is sent again."""

    def __init__(self, backplane: Backplane) -> None:
        self._backplane = backplane
        self._waiting: list[_Waiting] = []
        self._work = asyncio.Event()

    async def append(self, claim: Claim, batch: Batch) -> Verdict:
        """Append one batch, however long Redis takes to come back."""
        waiting = _Waiting(claim, batch, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._work.set()
        return await waiting.answer

    async def run(self) -> None:
        """Send what waits, until cancelled."""
        pause = _BACKOFF_FIRST
        while True:
            await self._work.wait()
            now, self._waiting = self._waiting[:_AT_ONCE], self._waiting[_AT_ONCE:]
            if not self._waiting:
                self._work.clear()
            again = await self._send([item for item in now if not item.answer.done()])
            if not again:
                pause = _BACKOFF_FIRST
                continue
            self._waiting = again + self._waiting
            self._work.set()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _BACKOFF_MOST)

    async def _send(self, items: list[_Waiting]) -> list[_Waiting]:
        """Send batches in one round trip; return those to send again."""
        calls = [self._backplane.turns.append_call(item.claim, item.batch) for item in items]
        try:
            answers = await self._backplane.run_many(calls)
        except Unavailable as error:
            _log.warning("appends are held back", batches=len(items), error=error.message)
            return items
        again = []
        for item, answer in zip(items, answers, strict=True):
            if isinstance(answer, Exception):
                _log.warning("an append was refused; sending it again", error=repr(answer))
                again.append(item)
            elif not item.answer.done():
                item.answer.set_result(verdict(answer)[0])
        return again
