"""What is under way in the whole deployment at this moment, for people who watch it. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backplane.ids import ThreadRef
from backplane.keys import split_member
from backplane.pipeline import Command, pipelined

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
    """Look at every partition, and closer at those in which there is something.

    Raises:
        Unavailable: when Redis did not answer.
    """
    keys = backplane.keys
    partitions = [keys.partition(number) for number in range(keys.partitions)]
    counting: list[Command] = [("TIME",)]
    for partition in partitions:
        counting += [("ZCARD", partition.ready), ("ZCARD", partition.due)]
    async with backplane.answering():
        (seconds, micros), *counts = await pipelined(backplane.redis, counting)
        ready = await _first(backplane, [p.ready for p, count in zip(partitions, counts[::2], strict=True) if count])
        looked_at = await _first(backplane, [p.due for p, count in zip(partitions, counts[1::2], strict=True) if count])
    now = int(seconds) + int(micros) / 1e6
    waiting = [mark for found in ready for mark in _marks(found, now, -1)]
    due = [mark for found in looked_at for mark in _marks(found, now, 1)]
    return Overview(
        sum(counts[::2]),
        sorted(waiting, key=lambda mark: -mark.seconds)[:MOST],
        sum(counts[1::2]),
        sorted(due, key=lambda mark: mark.seconds)[:MOST],
    )


async def _first(backplane: Backplane, names: list[str]) -> list[list[bytes]]:
    if not names:
        return []
    return await pipelined(backplane.redis, [("ZRANGE", name, 0, MOST - 1, "WITHSCORES") for name in names])


def _marks(found: list[bytes], now: float, sign: int) -> list[Mark]:
    marks = []
    for member, score in zip(found[::2], found[1::2], strict=True):
        ref, request_id = split_member(member.decode())
        marks.append(Mark(ref, request_id, round(sign * (float(score) / 1000 - now), 3)))
    return marks
