"""What is under way in the whole deployment at this moment, for people who watch it. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backplane.ids import ThreadRef
from backplane.keys import split_member
from backplane.pipeline import pipelined

if TYPE_CHECKING:
    from backplane.connection import Backplane

MOST = 20
"""Turns that are shown of each partition; the counts are of all."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A turn, and how far from now something is (seconds): since when it waits, or until it must be looked at."""

    ref: ThreadRef
    request_id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Overview:
    """The deployment's turns."""

    waiting: int
    """Turns that no worker has taken yet."""
    longest: list[Mark]
    """Those of them that wait longest, oldest first."""
    under_way: int
    """Turns that wait or run, or wait for a person."""
    due: list[Mark]
    """Those that somebody must look at next: a lease lapses, a deadline passes. The nearest first."""


async def look(backplane: Backplane) -> Overview:
    """Look at every partition, in one round trip.

    Raises:
        Unavailable: when Redis did not answer.
    """
    keys = backplane.keys
    partitions = [keys.partition(number) for number in range(keys.partitions)]
    commands: list[tuple[str | int, ...]] = [("TIME",)]
    for partition in partitions:
        commands.append(("ZCARD", partition.ready))
        commands.append(("ZRANGE", partition.ready, 0, MOST - 1, "WITHSCORES"))
        commands.append(("ZCARD", partition.due))
        commands.append(("ZRANGE", partition.due, 0, MOST - 1, "WITHSCORES"))
    async with backplane.answering():
        (seconds, micros), *answers = await pipelined(backplane.redis, commands)
    now = int(seconds) + int(micros) / 1e6
    waiting = [mark for found in answers[1::4] for mark in _marks(found, now, -1)]
    due = [mark for found in answers[3::4] for mark in _marks(found, now, 1)]
    return Overview(
        sum(answers[0::4]),
        sorted(waiting, key=lambda mark: -mark.seconds)[:MOST],
        sum(answers[2::4]),
        sorted(due, key=lambda mark: mark.seconds)[:MOST],
    )


def _marks(found: list[bytes], now: float, sign: int) -> list[Mark]:
    marks = []
    for member, score in zip(found[::2], found[1::2], strict=True):
        ref, request_id = split_member(member.decode())
        marks.append(Mark(ref, request_id, round(sign * (float(score) / 1000 - now), 3)))
    return marks
