"""Steady load on a fleet: people who talk one turn after the other, each thread watched by clients that resume."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from redis.exceptions import RedisError

from backplane.ids import new_id
from scripts.endurance.crowd import Crowd, judged
from scripts.endurance.lean import LeanWatcher
from scripts.faultsuite.case import PATIENCE
from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet
from tests.fleet.watcher import Watcher
from threadline_client.errors import ClientError

_SLOTS = 16
"""Of a worker, at least: the product's default."""
PACE = 20.0
"""Milliseconds between two words: about what a model takes."""
_LONGEST = 14.4
"""Seconds of a long answer: more than the 10 that a worker has to end its turns when it stops."""
_WORTH_KEEPING = 0.1
"""Seconds: shorter silences are nothing that a person notices."""
_LONG = 0.15
"""How often an answer is a long one."""
_ARRIVALS = 20
"""Threads that begin in a second, in the beginning."""
_JOIN, _CANCEL, _MOVE = 0.3, 0.1, 0.2
"""How often, in mixed load, a turn sees a client join and leave, is cancelled, and makes a client move."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How much load.

    Args:
        clients: threads that are talked in at once.
        watchers: clients that follow each of them, at least.
        turns: of one thread (of a talker's first one, up to so many); then another one begins.
        words: of an answer; some last longer than the grace of a worker that stops, so that it hands them back.
        mixed: whether clients join, leave and move, and turns are cancelled, too.
        counting: further clients that follow each thread, and check where each event belongs without keeping it.
        pace: milliseconds between two words of an answer.
    """

    clients: int = 20
    watchers: int = 2
    turns: int = 4
    words: int = 60
    mixed: bool = False
    counting: int = 0
    pace: float = PACE

    @property
    def long(self) -> int:
        """The words of a long answer."""
        return max(self.words, round(_LONGEST * 1000 / self.pace))


@dataclass(slots=True)
class Noticed:
    """What clients noticed, of threads that have ended."""

    threads: int = 0
    turns: int = 0
    events: int = 0
    frames: int = 0
    """Frames that clients were sent, as far as they count."""
    reconnects: int = 0
    handed_on: int = 0
    """Turns that went on in another worker."""
    silences: list[tuple[float, float]] = field(default_factory=list)
    """When one in the middle of a turn ended, and how long it was (seconds)."""
    wrong: list[str] = field(default_factory=list)
    """What does not hold, with the thread."""


def settings(clients: int) -> dict[str, Any]:
    """Return the fleet's settings, on top of the product's defaults.

    The load comes from few sockets; and each worker has as many slots as threads are talked in at once, so that no turn
    waits for one while the other worker is away.
    """
    return {"calls_per_second": 1000, "calls_burst": 1000, "slots": max(clients, _SLOTS)}


def silences(watcher: Watcher) -> list[tuple[float, float]]:
    """Return when each silence worth keeping ended, and how long it was; between two turns none is counted."""
    found = []
    frames = list(zip(watcher.times, watcher.frames, strict=True))
    for (before, one), (at, other) in pairwise(frames):
        if at - before > _WORTH_KEEPING and one["request_id"] == other["request_id"]:
            found.append((at, at - before))
    return found


class Load:
    """Talkers, until they are told to stop.

    Args:
        fleet: whose `urls` they go to: its gateways, or a load balancer's one address.
        shape: how much.
        crowd: where its clients that only count are.
    """

    def __init__(self, fleet: Fleet, shape: Shape, crowd: Crowd | None = None) -> None:
        self._crowd = crowd
        self.noticed = Noticed()
        self._fleet = fleet
        self._shape = shape
        self._stopping = asyncio.Event()
        self._silent = shape.clients
        self._all_talk = asyncio.Event()
        self._talks: set[Conversation] = set()

    @property
    def reconnects(self) -> int:
        """How often a client has come back so far."""
        return self.noticed.reconnects + sum(_reconnects(talk) for talk in self._talks)

    def longest_silence(self, begin: float, end: float) -> float:
        """Return the longest silence in the middle of a turn that ended within a span (seconds, the loop's clock)."""
        living = [one for talk in self._talks for watcher in talk.watchers for one in silences(watcher)]
        return max((long for at, long in (*living, *self.noticed.silences) if begin <= at <= end), default=0.0)

    async def talking(self) -> None:
        """Wait until each thread has begun its first turn."""
        await self._all_talk.wait()

    def stop(self) -> None:
        """Begin no more turns; `run` returns when all threads have come to rest."""
        self._stopping.set()

    async def run(self) -> Noticed:
        """Talk until `stop`; return what was noticed, and what does not hold."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._shape.clients):
                group.create_task(self._talk(random.Random(number)))
        return self.noticed

    async def _talk(self, chance: random.Random) -> None:
        # so that they do not all speak at once, nor end their threads at once and begin the next together
        await asyncio.sleep(chance.random() * max(1.0, self._shape.clients / _ARRIVALS))
        turns = chance.randint(1, self._shape.turns)
        while not self._stopping.is_set():
            talk = Conversation(self._fleet, f"t-{new_id()}", patience=PATIENCE, watching=LeanWatcher)
            self._talks.add(talk)
            try:
                async with talk:
                    for number in range(turns):
                        if not self._stopping.is_set():
                            await self._turn(talk, number, chance)
                if self._crowd is not None and talk.acknowledged:
                    await self._dismiss(self._crowd, talk)
            except (AssertionError, TimeoutError, ClientError, RedisError) as error:
                self.noticed.wrong.append(f"{talk.thread_id}: {error or type(error).__name__}")
                await asyncio.sleep(1)
            self._talks.discard(talk)
            turns = self._shape.turns
            await self._count(talk)

    async def _turn(self, talk: Conversation, number: int, chance: random.Random) -> None:
        shape = self._shape
        words = shape.long if chance.random() < _LONG else shape.words
        node = chance.randrange(len(self._fleet.urls))
        turn = await talk.say(f"say {words} words", node=node, pace=shape.pace)
        self._began(talk)
        if self._crowd is not None and len(talk.acknowledged) == 1:
            await self._crowd.follow(talk.thread_id, talk.acknowledged[0].epoch, shape.counting)
        while len(talk.watchers) < shape.watchers:
            await talk.watch(len(talk.watchers) % len(self._fleet.urls))
        expected = "chat_done"
        if shape.mixed:
            expected = await self._mix(talk, turn, chance)
        end = await talk.ended(turn, PATIENCE)
        assert end["event"] == expected, f"turn {number} was to end with {expected}, got {end}"

    def _began(self, talk: Conversation) -> None:
        self._silent -= len(talk.acknowledged) == 1
        if self._silent <= 0:
            self._all_talk.set()

    async def _mix(self, talk: Conversation, turn: str, chance: random.Random) -> str:
        """Do in the middle of a turn what people do; return how it is to end."""
        await talk.words(turn, 5)
        if chance.random() < _MOVE:
            chance.choice(talk.watchers).move()
        if chance.random() < _JOIN:
            async with Watcher([self._fleet.urls[-1]], talk.thread_id) as guest:
                await guest.arrived(1)
        if chance.random() < _CANCEL:
            answer = await talk.cancel(turn, node=chance.randrange(len(self._fleet.urls)))
            return "chat_error" if answer.get("cancelled") else "chat_done"  # it may have ended meanwhile
        return "chat_done"

    async def _dismiss(self, crowd: Crowd, talk: Conversation) -> None:
        """Ask those who count whether they have seen it all."""
        counted = await crowd.leave(talk.thread_id, (await talk.log())[-1].offset)
        self.noticed.wrong += judged(talk.thread_id, self._shape.counting, counted)
        self.noticed.reconnects += counted["closed"]
        self.noticed.frames += counted["frames"]

    async def _count(self, talk: Conversation) -> None:
        log = await talk.log()
        noticed = self.noticed
        noticed.threads += 1
        noticed.events += len(log)
        noticed.turns += len(talk.acknowledged)
        noticed.handed_on += sum(entry.name == "turn_restarted" for entry in log)
        noticed.reconnects += _reconnects(talk)
        for watcher in talk.watchers:
            noticed.frames += len(watcher.frames)
            noticed.silences += silences(watcher)


def _reconnects(talk: Conversation) -> int:
    return sum(max(0, len(watcher.arrivals) - 1) for watcher in talk.watchers)
