"""The recoverer: looks at turns that are due, for workers that cannot.

Every gateway and every worker runs one; a short lease in Redis lets only one of them work at a time, so the
cost does not grow with the fleet, and any of them takes over. A turn is due when its lease lapses, its deadline
passes, its cancel was not obeyed in time, or nobody answered its doorbell.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import structlog

from backplane.connection import Backplane
from backplane.errors import Internal, ThreadlineError
from backplane.keys import split_member
from backplane.pipeline import Command, pipelined

_log = structlog.get_logger("backplane.recoverer")
_AT_ONCE = 100
"""Due turns of one partition that are looked at in one pass."""
LAPSED = frozenset({"taken_over", "worker_lost"})
"""What `recover` answers for a turn whose worker was lost: it is claimed anew, or ended by its policy."""
AHEAD = 1.0
"""Seconds that a partition in which nothing will be due is left alone. What comes into it meanwhile is due later still:
two seconds for a doorbell that was not answered, a lease for a worker, and a deadline is further away than both.
Only an approval that expires sooner, or what is left of a deadline behind one, is noticed up to this much late."""
# The lease outlives a few passes, so that a slow pass does not put two recoverers to work for nothing.
_LEASE_PASSES = 4


class Recoverer:
    """Looks for due turns until it is cancelled.

    Args:
        backplane: where they are.
        on_lapsed: told of each turn whose worker was lost; one that is handed back, or parked, is none.
    """

    def __init__(self, backplane: Backplane, on_lapsed: Callable[[], None] = lambda: None) -> None:
        self._backplane = backplane
        self._on_lapsed = on_lapsed
        self._settings = backplane.settings
        self._mine = False
        self._clock = asyncio.get_running_loop().time
        self._answered = self._clock()
        """When Redis was to answer next, having answered before: later is an outage."""
        self._owners_may_come = float("-inf")
        self._owners_of = [float("-inf")] * backplane.keys.partitions
        """The same for the owners of one partition: until when they may come back."""
        settings = self._settings
        self._ahead = 1000 * min(
            AHEAD, settings.lease, settings.cancel_grace, settings.retry_backoff, settings.turn_timeout
        )
        self._ask_at = [0.0] * backplane.keys.partitions
        """When each partition is asked again, by Redis' clock (ms)."""

    async def run(self) -> None:
        """Make a pass every `recover_interval`; a Redis error ends the pass, not the recoverer."""
        while True:
            pause = self._settings.recover_interval
            try:
                left = await self._elect()
                self._note_outage(self._answered)
                if left is None:
                    await self.look()
                else:
                    pause = max(pause, left)
                self._answered = self._clock() + pause
            except ThreadlineError as error:
                self._mine = False
                _log.warning("a pass of the recoverer failed", error=error.message)
            await asyncio.sleep(pause)

    def _note_outage(self, since: float) -> None:
        """Give owners a lease to come back in, when nobody could reach Redis for so long that leases have lapsed.

        Their leases went on lapsing while it was away, and they could not renew them. Whoever is alive does so at once.
        """
        now = self._clock()
        away = now - since
        if away > self._settings.lease / 2:
            _log.warning("Redis was away; owners get time to renew their leases", seconds=round(away, 1))
            self._owners_may_come = now + self._settings.lease

    async def _elect(self) -> float | None:
        """Return None when this process is the one that works; else for how long (seconds) another one surely is.

        So those who only wait ask once in a lease, and yet at the moment at which a lease that is not renewed ends.
        """
        key, me = self._backplane.keys.recoverer, self._settings.node_id
        lease = math.ceil(self._settings.recover_interval * _LEASE_PASSES * 1000)
        async with self._backplane.answering():
            if self._mine:
                # whoever took it over meanwhile is done no harm by a longer lease
                holder, _ = await pipelined(self._backplane.redis, [("GET", key), ("PEXPIRE", key, lease)])
                self._mine = holder == me.encode()
            if self._mine:
                return None
            took, left = await pipelined(self._backplane.redis, [("SET", key, me, "NX", "PX", lease), ("PTTL", key)])
            self._mine = took == b"OK"
        if self._mine:
            # A store that lost everything must know this fleet's numbers again before the next process starts by
            # them; and who differs from what is recorded must not look at the wrong partitions.
            await self._backplane.check_meta()
        return None if self._mine else min(max(left, 0), lease) / 1000

    async def look(self) -> int:
        """Look once at everything that is due. Returns how many turns something was done for.

        Not at every partition in every pass: most turns renew their lease long before it lapses, so that nearly all
        partitions can say that nothing will be due soon.
        """
        async with self._backplane.answering():
            asked_at = self._clock()
            ((seconds, micros),) = await pipelined(self._backplane.redis, [("TIME",)])
            self._note_outage(asked_at)  # what hangs for a while breaks no connection, and answers in the end
            now = int(seconds) * 1000 + int(micros) // 1000
            # one that lies too far ahead was noted before the clock was set back
            asked = [number for number, at in enumerate(self._ask_at) if not now < at <= now + self._ahead]
            questions = [self._ask(number, now) for number in asked]
            found = await pipelined(self._backplane.redis, questions, raises=False) if asked else []
        acted = 0
        for number, answer in zip(asked, found, strict=True):
            if isinstance(answer, Exception):  # one shard of a Cluster: the turns of the others do not wait for it
                _log.warning("a partition could not be looked at", error=repr(answer))
                self._owners_of[number] = self._clock() + self._settings.lease
                continue
            grace = max(0.0, max(self._owners_may_come, self._owners_of[number]) - self._clock())
            for member in self._due(number, now, answer):
                acted += await self._recover(member.decode(), grace) != "none"
        return acted

    async def _recover(self, member: str, grace: float) -> str:
        """Do for one turn what its state asks for; one that cannot be looked at holds up no other."""
        ref, request_id = split_member(member)
        named = {"tenant": ref.tenant, "thread_id": ref.thread_id, "request_id": request_id}
        try:
            what = await self._backplane.turns.recover(member, grace)
        except Internal as error:  # it alone is broken: where Redis itself is away, the pass ends
            _log.error("a turn that is due could not be looked at", **named, error=repr(error.__cause__ or error))
            return "none"
        if what in LAPSED:
            self._on_lapsed()
        if what not in {"none", "rung"}:
            _log.warning("a turn was recovered", **named, what=what)
        return what

    def _ask(self, number: int, now: int) -> Command:
        due, until = self._backplane.keys.partition(number).due, now + self._ahead
        return ("ZRANGE", due, "-inf", until, "BYSCORE", "LIMIT", 0, _AT_ONCE, "WITHSCORES")

    def _due(self, number: int, now: int, answer: list[bytes]) -> list[bytes]:
        """Return the members that are due now, and note when the partition is to be asked again."""
        marks = list(zip(answer[::2], map(float, answer[1::2]), strict=True))
        due = [member for member, at in marks if at <= now]
        if due:
            self._ask_at[number] = now  # something of them may be due again soon, and there may be more
        elif marks:
            self._ask_at[number] = marks[0][1]
        else:
            # the first time by turns, so that they are not all asked in the same pass for ever
            spread = (number + 1) / len(self._ask_at) if not self._ask_at[number] else 1.0
            self._ask_at[number] = now + spread * self._ahead
        return due
