"""The link between an agent and its turn in Redis: what `Turn` offers, asked of the backplane."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from backplane.connection import Backplane
from backplane.errors import Unavailable
from backplane.turns import Claim, Verdict

_PAUSE = 0.2
"""Seconds between tries while Redis does not answer."""
_Answer = TypeVar("_Answer")


class SlotLink:
    """The link of a turn that a slot runs.

    Args:
        told: takes each verdict, and stops the agent when it is not `ok`.
    """

    def __init__(self, backplane: Backplane, claim: Claim, told: Callable[[Verdict], None]) -> None:
        self._backplane = backplane
        self._claim = claim
        self._told = told
        self._steers_taken = 0

    async def steers(self) -> list[str]:
        """Take what steers the turn."""
        taken = self._steers_taken
        verdict, found = await self._asked(lambda: self._backplane.turns.steers(self._claim, taken))
        await self._obeyed(verdict)
        self._steers_taken += len(found)
        return [steer.message for steer in found]

    async def _asked(self, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Return the answer of a call that may be sent twice, however long Redis takes to come back."""
        while True:
            try:
                return await call()
            except Unavailable:
                await asyncio.sleep(_PAUSE)

    async def _obeyed(self, verdict: Verdict) -> None:
        """Return when the turn goes on; otherwise wait for the cancellation that is on its way."""
        if verdict != "ok":
            self._told(verdict)
            await asyncio.Event().wait()
