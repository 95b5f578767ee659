"""Steady load on a fleet: people who talk one turn after the other, each thread watched by clients that resume."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from itertools import pairwise

from backplane.ids import new_id
from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet
from tests.fleet.watcher import Watcher
from threadline_client.errors import ClientError

PATIENCE = 60.0
"""Seconds that anything may take before it counts as never."""
_PACE = 20.0
"""Milliseconds between two words: about what a model takes."""
_WORTH_KEEPING = 0.1
"""Seconds: shorter silences, and quicker answers to a start, are nothing that a person notices."""
_LONG = 0.15
"""How often an answer is a long one."""
_JOIN, _CANCEL, _MOVE = 0.3, 0.1, 0.2
"""How often, in mixed load, a turn sees a client join and leave, is cancelled, and makes a client move."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How much load.

    Args:
        clients: threads that are talked in at once.
        watchers: clients that follow each of them, at least.
        turns: of one thread; then another one begins.
        words: of an answer; some are twelve times as long, so that they outlast the grace of a worker that stops.
        mixed: whether clients join, leave and move, and turns are cancelled, too.
    """

    clients: int = 20
    watchers: int = 2
    turns: int = 4
    words: int = 60
    mixed: bool = False


@dataclass(slots=True)
class Noticed:
    """What clients noticed, of threads that have ended."""

    threads: int = 0
    turns: int = 0
    events: int = 0
    reconnects: int = 0
    handed_on: int = 0
    """Turns that went on in another worker."""
    silences: list[tuple[float, float]] = field(default_factory=list)
    """When one in the middle of a turn ended, and how long it was (seconds)."""
    starts: list[tuple[float, float]] = field(default_factory=list)
    """When one was acknowledged, and how long that took (seconds)."""
    wrong: list[str] = field(default_factory=list)
    """What does not hold, with the thread."""


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
    """

    def __init__(self, fleet: Fleet, shape: Shape) -> None:
        self.noticed = Noticed()
        self._fleet = fleet
        self._shape = shape
        self._stopping = asyncio.Event()
        self._talks: set[Conversation] = set()

    @property
    def reconnects(self) -> int:
        """How often a client has come back so far."""
        return self.noticed.reconnects + sum(_reconnects(talk) for talk in self._talks)

    def longest_silence(self, begin: float, end: float) -> float:
        """Return the longest silence in the middle of a turn that ended within a span (seconds, the loop's clock)."""
        living = [one for talk in self._talks for watcher in talk.watchers for one in silences(watcher)]
        return max((long for at, long in (*living, *self.noticed.silences) if begin <= at <= end), default=0.0)

    def slowest_start(self, begin: float, end: float) -> float:
        """Return the longest time that a start took which was acknowledged within a span."""
        return max((long for at, long in self.noticed.starts if begin <= at <= end), default=0.0)

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
        await asyncio.sleep(chance.random())  # so that they do not all speak at once
        while not self._stopping.is_set():
            talk = Conversation(self._fleet, f"t-{new_id()}", patience=PATIENCE)
            self._talks.add(talk)
            try:
                async with talk:
                    for number in range(self._shape.turns):
                        if not self._stopping.is_set():
                            await self._turn(talk, number, chance)
            except (AssertionError, TimeoutError, ClientError) as error:
                self.noticed.wrong.append(f"{talk.thread_id}: {error or type(error).__name__}")
                await asyncio.sleep(1)
            self._talks.discard(talk)
            await self._count(talk)

    async def _turn(self, talk: Conversation, number: int, chance: random.Random) -> None:
        words = self._shape.words * (12 if chance.random() < _LONG else 1)
        node = chance.randrange(len(self._fleet.urls))
        loop = asyncio.get_running_loop()
        begun = loop.time()
        turn = await talk.say(f"say {words} words", node=node, pace=_PACE)
        self._note(self.noticed.starts, loop.time(), begun)
        while len(talk.watchers) < self._shape.watchers:
            await talk.watch(len(talk.watchers) % len(self._fleet.urls))
        expected = "chat_done"
        if self._shape.mixed:
            expected = await self._mix(talk, turn, chance)
        end = await talk.ended(turn, PATIENCE)
        assert end["event"] == expected, f"turn {number} was to end with {expected}, got {end}"

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

    @staticmethod
    def _note(where: list[tuple[float, float]], now: float, begun: float) -> None:
        if now - begun > _WORTH_KEEPING:
            where.append((now, now - begun))

    async def _count(self, talk: Conversation) -> None:
        log = await talk.log()
        noticed = self.noticed
        noticed.threads += 1
        noticed.events += len(log)
        noticed.turns += len(talk.acknowledged)
        noticed.handed_on += sum(entry.name == "turn_restarted" for entry in log)
        noticed.reconnects += _reconnects(talk)
        for watcher in talk.watchers:
            noticed.silences += silences(watcher)


def _reconnects(talk: Conversation) -> int:
    return sum(max(0, len(watcher.arrivals) - 1) for watcher in talk.watchers)
