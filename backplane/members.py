"""The members of a fleet: what each gateway and each worker says of itself, for people who watch it.

Nothing that a turn needs is here: a member that does not report is no less a member.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from backplane import scripts
from backplane.errors import ThreadlineError
from backplane.scripts import Call

if TYPE_CHECKING:
    from backplane.connection import Backplane

WATCHED_INTERVAL, IDLE_INTERVAL = 1.0, 5.0
"""Seconds between two reports while somebody looks, and while nobody does."""
WATCHED_FOR = 10.0
"""Seconds for which a look counts."""
KEPT = 30.0
"""Seconds after which a member that says nothing is forgotten."""
_AGES = 1.1
"""By how much more an older reading of the clock is doubted with each new one, so that a drift is followed."""

Facts = Mapping[str, Any]

_log = structlog.get_logger("backplane.members")


@dataclass(frozen=True, slots=True)
class Member:
    """What one process said last."""

    node_id: str
    silent: float
    """Seconds since it said so, by Redis' clock."""
    facts: Facts
    """`kind` (gateway or worker), `pid`, `host`, `started` (Unix seconds), and what its kind adds."""


class Clock:
    """Redis' clock, as well as it can be known here: from the fastest of the last round trips."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._doubt = float("inf")

    def read(self, sent: float, redis: float, answered: float) -> None:
        """Take a reading: Redis' time (Unix seconds), and ours before and behind the round trip."""
        doubt = (answered - sent) / 2
        if doubt <= self._doubt:
            self._ahead, self._doubt = (sent + answered) / 2 - redis, doubt
        else:
            self._doubt *= _AGES

    def now(self) -> float:
        """Return what Redis' clock says now, in Unix seconds."""
        return time.time() - self._ahead


class Members:
    """Reports what this process is, and reads what all are."""

    def __init__(self, backplane: Backplane) -> None:
        self._backplane = backplane
        self._own = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
        self.clock = Clock()

    async def run(self, kind: str, facts: Callable[[], Facts]) -> None:
        """Report until cancelled; a Redis error costs one report."""
        while True:
            watched = False
            try:
                watched = await self.report(kind, facts())
            except ThreadlineError as error:
                _log.info("a report was not taken", error=error.message)
            await asyncio.sleep(WATCHED_INTERVAL if watched else IDLE_INTERVAL)

    async def report(self, kind: str, facts: Facts) -> bool:
        """Say what this process is now. Returns whether somebody has looked lately.

        Raises:
            Unavailable: when Redis did not answer.
        """
        settings = self._backplane.settings
        said = json.dumps({"kind": kind, **self._own, **facts}, separators=(",", ":"))
        kept = int(KEPT * 1000)
        call = Call("report", [self._backplane.keys.members], [settings.node_id, said, kept, int(WATCHED_FOR * 1000)])
        sent = time.time()
        watched, seconds, micros = await self._run(call)
        self.clock.read(sent, int(seconds) + int(micros) / 1e6, time.time())
        return bool(watched)

    async def all(self) -> list[Member]:
        """Return every member that reported lately, by kind and name; and note that somebody looks.

        Raises:
            Unavailable: when Redis did not answer.
        """
        kept = int(KEPT * 1000)
        now, found = await self._run(Call("members", [self._backplane.keys.members], [kept]))
        members = []
        for name, value in zip(found[::2], found[1::2], strict=True):
            at, _, said = value.partition(b" ")
            if (silent := (now - int(at)) / 1000) < KEPT:
                members.append(Member(name.decode(), max(0.0, silent), json.loads(said)))
        return sorted(members, key=lambda member: (member.facts["kind"], member.node_id))

    async def _run(self, call: Call) -> Any:
        async with self._backplane.answering():
            return await scripts.run(self._backplane.redis, call)
