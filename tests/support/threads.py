"""A thread as a test sees it: start a turn, wait for what happens, decide what is asked."""

from __future__ import annotations

from backplane.connection import Backplane
from backplane.events import Event
from backplane.ids import ThreadRef
from backplane.settings import Policy
from backplane.turns import Start
from tests.support.waiting import wait_until


class Thread:
    """A thread of `ann`, seen through one backplane."""

    def __init__(self, backplane: Backplane, ref: ThreadRef) -> None:
        self._backplane = backplane
        self._ref = ref

    async def start(self, message: str, policy: Policy = "retry") -> None:
        """Start a turn."""
        await self._backplane.turns.start(self._ref, Start(message, "ann", "sid", policy=policy))

    async def events(self, name: str = "") -> list[Event]:
        """Return the events of the log, or those of one name."""
        return [e for e in (await self._backplane.log.read(self._ref)).events if name in {"", e.name}]

    async def first(self, name: str) -> Event:
        """Wait for an event."""
        found: list[Event] = []

        async def there() -> bool:
            found[:] = await self.events(name)
            return bool(found)

        await wait_until(there, f"{name} comes")
        return found[0]

    async def ended(self) -> Event:
        """Wait for the end of the last turn."""

        async def over() -> bool:
            return (await self.events())[-1].name in {"chat_done", "chat_error"}

        await wait_until(over, "the turn ends")
        return (await self.events())[-1]

    async def decide(self, decision: str) -> None:
        """Wait for a question, and answer it."""
        asked = (await self.first("approval_request")).fields
        await self._backplane.approvals.decide(self._ref, "ann", asked["approval_id"], decision)

    async def cancel(self) -> None:
        """Stop the turn."""
        await self._backplane.turns.cancel(self._ref, "ann", None)
