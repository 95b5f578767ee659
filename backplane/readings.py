"""Readings of many callers in few round trips: when a node dies, hundreds join threads at another one at once."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from backplane.errors import ThreadlineError
from backplane.scripts import Call

if TYPE_CHECKING:
    from backplane.connection import Backplane

_AT_ONCE = 2
"""Round trips under way. A reading that finds fewer goes at once; with one alone, a large answer would hold up all."""
_TOGETHER = 32
"""Readings in one round trip: each may be answered with a megabyte (sessions.py), or half of one (lua/read.lua)."""


class Readings:
    """Runs scripts that change nothing, those of many callers in one round trip while others are under way."""

    def __init__(self, backplane: Backplane) -> None:
        self._backplane = backplane
        self._waiting: deque[tuple[Call, asyncio.Future[Any]]] = deque()
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, call: Call) -> Any:
        """Run one script.

        Raises:
            Unavailable: when Redis did not answer.
            Internal: when it refused the call, which is a defect of ours.
        """
        if self._under_way < _AT_ONCE:
            (answer,) = await self._ask([call])
        else:
            waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self._waiting.append((call, waiter))
            answer = await waiter
        if isinstance(answer, Exception):
            async with self._backplane.answering():  # as the error that it would have been alone
                raise answer
        return answer

    async def _ask(self, calls: list[Call]) -> list[Any]:
        self._under_way += 1
        try:
            return await self._backplane.run_many(calls)
        finally:
            self._under_way -= 1
            if self._waiting:
                task = asyncio.create_task(self._ask_for_those_who_wait(), name="readings")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _ask_for_those_who_wait(self) -> None:
        asked: list[tuple[Call, asyncio.Future[Any]]] = []
        while self._waiting and len(asked) < _TOGETHER:
            call, waiter = self._waiting.popleft()
            if not waiter.done():  # who has given up needs no answer
                asked.append((call, waiter))
        if not asked:
            return
        try:
            answers = await self._ask([call for call, _ in asked])
        except ThreadlineError as error:
            answers = [error] * len(asked)
        for (_, waiter), answer in zip(asked, answers, strict=True):
            if not waiter.done():
                waiter.set_result(answer)
