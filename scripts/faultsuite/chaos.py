"""The random run: faults by a seeded schedule, under a load that uses everything, and every invariant at its end."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.faultsuite.case import now
from scripts.faultsuite.harm import Harm
from scripts.faultsuite.schedule import schedule
from scripts.faultsuite.suite import fleet_for
from scripts.faultsuite.talker import Talker, Tally
from scripts.faultsuite.vitals import back_to, baseline
from scripts.faultsuite.waits import bounded, leave, told
from tests.fleet.fleet import Fleet

SETTINGS: dict[str, Any] = {
    "turn_policy": "resume",
    "drain_grace": 2.0,
    # more workers are lost here than anywhere: what is to be seen is what they leave behind, not that it gives up
    "max_attempts": 12,
    "retry_backoff": 0.2,
}

_REST = 150.0
"""Seconds until everything has come to rest behind the last fault: a talker may wait for a minute twice."""


@dataclass(slots=True)
class Outcome:
    """What came of a random run."""

    seed: int
    seconds: float
    faults: int = 0
    settled: float = 0.0
    """Seconds from the end of the last fault until every thread was at rest."""
    tally: Tally = field(default_factory=Tally)
    wrong: list[str] = field(default_factory=list)
    """What does not hold, in words."""

    def __str__(self) -> str:
        """Return it as one line."""
        seen = self.tally
        return (
            f"seed {self.seed}, {self.seconds:g} s: {self.faults} faults, {seen.threads} threads, {seen.turns} turns, "
            f"{seen.restarts} restarts, {seen.reconnects} reconnects, {seen.events} events; "
            f"at rest {self.settled:.1f} s after the last fault; {len(self.wrong) or 'no'} violations"
        )


async def chaos(
    seed: int,
    seconds: float,
    say: Callable[[str], None],
    *,
    size: int = 3,
    talkers: int = 6,
    settings: dict[str, Any] | None = None,
) -> Outcome:
    """Run faults and load for so long, then let everything come to rest and look at it.

    Args:
        seed: repeats the schedule, and what the talkers choose.
        seconds: how long.
        say: is told the schedule, and what goes wrong when it does.
        size: gateways, and workers.
        talkers: threads at a time.
        settings: of the fleet, beside those of the run.
    """
    outcome = Outcome(seed, seconds)
    with tempfile.TemporaryDirectory(prefix="faults-random-") as folder:
        given = SETTINGS | (settings or {})
        async with fleet_for(Path(folder), gateways=size, workers=size, settings=given) as fleet:
            await _run(fleet, outcome, say, talkers)
    return outcome


async def _run(fleet: Fleet, outcome: Outcome, say: Callable[[str], None], talkers: int) -> None:
    before = await baseline(fleet)
    names = [[member.name for member in members] for members in (fleet.gateways, fleet.workers)]
    plan = schedule(outcome.seed, outcome.seconds, *names)
    say(f"seed {outcome.seed}; the schedule:")
    for planned in plan:
        say(f"  {planned}")
    people = [Talker(fleet, random.Random(f"talker {n} {outcome.seed}"), outcome.tally) for n in range(talkers)]

    def cut_clients() -> None:
        for person in people:
            for watcher in person.talk.watchers if person.talk is not None else ():
                watcher.move()

    harm = Harm(fleet, cut_clients)
    until = now() + outcome.seconds
    talking = [asyncio.create_task(person.run(until)) for person in people]
    healed = until
    try:
        await bounded(harm.run(plan), outcome.seconds + _REST, "doing harm")
        await bounded(fleet.heal(), _REST, "healing")
        healed = max(now(), until)
        await asyncio.wait(talking, timeout=_REST)
        outcome.wrong += [
            f"a talker did not come to rest within {_REST:g} s: {told(task)}" for task in talking if not task.done()
        ]
    except (AssertionError, TimeoutError) as error:
        outcome.wrong.append(str(error) or repr(error))
    finally:
        await leave(talking)
    outcome.faults, outcome.settled = harm.done, max(0.0, now() - healed)
    outcome.wrong += [*outcome.tally.wrong, *harm.wrong, *[str(task.exception()) for task in talking if _failed(task)]]
    for look, what in ((_left_behind(fleet), "looking for what is left"), (back_to(fleet, before), "the base line")):
        try:
            outcome.wrong += await bounded(look, _REST, what)
        except (AssertionError, TimeoutError) as error:
            outcome.wrong.append(str(error) or repr(error))


def _failed(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


async def _left_behind(fleet: Fleet) -> list[str]:
    """Return turns that somebody still has to look at, although every thread is at rest."""
    found = []
    for partition in range(fleet.settings.partitions):
        for kind in ("due", "ready"):
            members: Any = await fleet.redis.zrange(f"{fleet.settings.key_prefix}:{{{partition}}}:{kind}", 0, -1)
            found += [f"{member.decode()} is left in {kind}" for member in members]
    return found
