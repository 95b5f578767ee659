"""The heartbeat: renews the leases of all turns of a worker in one round trip, and hears what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from backplane.connection import Backplane
from backplane.errors import ThreadlineError
from worker.slot import Slot

_log = structlog.get_logger("worker.heartbeat")
_AGAIN = 0.2
"""Seconds to the next beat when one failed: when Redis is back, leases are renewed before anybody looks at them."""


class Heartbeat:
    """Renews leases until it is cancelled. `slots` maps request ids to the turns that run."""

    def __init__(self, backplane: Backplane, slots: Mapping[str, Slot]) -> None:
        self._backplane = backplane
        self._slots = slots

    async def run(self) -> None:
        """Beat; a Redis error costs one beat, not the heartbeat, and the next comes sooner."""
        pause = every = self._backplane.settings.heartbeat
        while True:
            await asyncio.sleep(pause)
            pause = every if await self.beat(list(self._slots.values())) else min(every, _AGAIN)

    async def beat(self, slots: list[Slot]) -> bool:
        """Renew these leases now, and tell each turn its verdict. Returns whether Redis answered."""
        if not slots:
            return True
        try:
            # a reply that takes longer than this is worth no more than none
            async with asyncio.timeout(self._backplane.settings.lease):
                verdicts = await self._backplane.turns.heartbeat([slot.claim for slot in slots])
        except (ThreadlineError, TimeoutError) as error:
            _log.warning("a heartbeat failed", turns=len(slots), error=repr(error))
            return False
        for slot, verdict in zip(slots, verdicts, strict=True):
            slot.renewed(verdict)
            slot.show_life()
        return True
