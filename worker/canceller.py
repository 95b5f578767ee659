"""The canceller: hears the push that follows a cancel, so that a silent agent stops as fast as one that talks.

A push is never believed: it only asks for the verdict now, which comes from durable state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from backplane.connection import Backplane
from backplane.ids import ThreadRef
from worker.heartbeat import Heartbeat
from worker.slot import Slot

_FORGET = "forget "
"""What lua/delete.lua says on the control channel before the thread; a request id holds no space."""


class Canceller:
    """Listens to the control channels of all partitions. A listener of live channels.

    Args:
        backplane: whose channels.
        slots: the turns of this worker, by request id.
        heartbeat: asks for their verdicts.
        forget: forgets what is kept of a thread that was deleted.
        forget_all: forgets what is kept of any thread, when it cannot be known which was deleted.
    """

    def __init__(
        self,
        backplane: Backplane,
        slots: Mapping[str, Slot],
        heartbeat: Heartbeat,
        forget: Callable[[ThreadRef], None],
        forget_all: Callable[[], None],
    ) -> None:
        self._backplane = backplane
        self._slots = slots
        self._heartbeat = heartbeat
        self._forget = forget
        self._forget_all = forget_all
        self._checks: set[asyncio.Task[bool]] = set()
        self._missed = False

    async def listen(self) -> None:
        """Subscribe to every partition.

        Raises:
            Unavailable: when Redis did not confirm.
        """
        keys = self._backplane.keys
        await asyncio.gather(
            *(self._backplane.live.subscribe(keys.partition(number).control, self) for number in range(keys.partitions))
        )

    def close(self) -> None:
        """Listen no more."""
        keys = self._backplane.keys
        for number in range(keys.partitions):
            self._backplane.live.unsubscribe(keys.partition(number).control)

    def heard(self, message: bytes) -> None:
        """Ask for the verdict of the turn that is named, if it is ours; forget a thread that was deleted."""
        named = message.decode(errors="replace")
        if named.startswith(_FORGET):
            tenant, _, thread_id = named.removeprefix(_FORGET).partition("/")
            self._forget(ThreadRef(tenant, thread_id))
            return
        slot = self._slots.get(named)
        if slot is not None:
            self._check([slot])

    def missed(self) -> None:
        """A push may have been lost: ask for every turn, once for the channels of all partitions together."""
        if not self._missed:
            self._missed = True
            asyncio.get_running_loop().call_soon(self._check_all)

    def _check_all(self) -> None:
        self._missed = False
        self._forget_all()  # the push of a delete may have been lost, and no verdict tells of it
        self._check(list(self._slots.values()))

    def _check(self, slots: list[Slot]) -> None:
        task = asyncio.create_task(self._heartbeat.beat(slots))
        self._checks.add(task)
        task.add_done_callback(self._checks.discard)
