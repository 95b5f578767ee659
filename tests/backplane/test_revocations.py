"""Revocations of a long month: read page by page, each once, however many there are and whatever fails in between."""

from __future__ import annotations

import time
from typing import Any

import pytest

from backplane.connection import Backplane, answered
from backplane.errors import Unavailable
from backplane.revocations import KEPT, Revocations

Entry = tuple[bytes, dict[bytes, bytes]]
NOW = int(time.time())


def entry(subject: str, at: int = NOW, number: int = 0) -> Entry:
    return b"%d-%d" % (at * 1000, number), {b"k": b"s", b"t": b"default", b"n": subject.encode()}


class Stream:
    """Stands in the place of Redis: holds entries, and fails when it is told to."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self.asked: list[str] = []
        self.fails_at = -1
        """Which page is not answered, from 0 on."""

    async def xrange(self, _: str, start: str, count: int) -> list[Entry]:
        self.asked.append(start)
        if len(self.asked) - 1 == self.fails_at:
            raise ConnectionError("no answer")
        names = [name for name, _ in self.entries]
        behind = 0 if start == "-" else names.index(start[1:].encode()) + 1
        return self.entries[behind : behind + count]


class Known(dict[Any, int]):
    """Counts how often all of it is looked through."""

    scans = 0

    def items(self) -> Any:
        self.scans += 1
        return super().items()


def reading(backplane: Backplane, monkeypatch: pytest.MonkeyPatch, entries: list[Entry]) -> tuple[Stream, Revocations]:
    stream = Stream(entries)
    monkeypatch.setattr(backplane.redis, "xrange", stream.xrange)
    return stream, Revocations(backplane)


def is_covered(revocations: Revocations, subject: str, issued_at: int | None = NOW) -> bool:
    return revocations.covers("default", subject, None, issued_at)


async def test_twenty_thousand_are_read_in_pages_and_looked_through_once(
    backplane: Backplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: looked through for each entry, they take longer than Redis may, and a new node lets nobody in."""
    entries = [entry(f"user-{n}", number=n) for n in range(20_000)]
    stream, revocations = reading(backplane, monkeypatch, [entry("expired", NOW - KEPT - 1), *entries])
    known = revocations._known = Known()
    bounds: list[None] = []

    def counted() -> Any:
        bounds.append(None)
        return answered(backplane.settings.redis_timeout)

    monkeypatch.setattr(backplane, "answering", counted)
    assert await revocations.read()
    assert (len(stream.asked), len(bounds), known.scans) == (21, 21, 1), "each page has its own bound"
    assert len(known) == 20_000, "the expired one is forgotten"
    assert is_covered(revocations, "user-0")
    assert is_covered(revocations, "user-19999")
    assert not await revocations.read()
    assert known.scans == 1, "nothing new, nothing to look through"


async def test_a_page_that_fails_costs_none_before_it(backplane: Backplane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: a node that begins from the start at each try never comes to the end."""
    stream, revocations = reading(backplane, monkeypatch, [entry(f"user-{n}", number=n) for n in range(3_500)])
    for fails_at, pages in ((1, 1), (3, 2)):
        stream.fails_at = fails_at
        with pytest.raises(Unavailable):
            await revocations.read()
        assert len(revocations._known) == 1000 * pages
        with pytest.raises(Unavailable):  # what is not known yet may be about anybody
            is_covered(revocations, "user-0")
    assert await revocations.read()
    first, second = f"({NOW * 1000}-999", f"({NOW * 1000}-1999"
    assert stream.asked == ["-", first, first, second, second, f"({NOW * 1000}-2999"]
    assert is_covered(revocations, "user-3499")


async def test_what_a_failed_reading_found_is_told_by_the_next(
    backplane: Backplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: nobody looks through the sockets for what stood on the page before the failure."""
    stream, revocations = reading(backplane, monkeypatch, [entry(f"user-{n}", number=n) for n in range(1000)])
    stream.fails_at = 1
    with pytest.raises(Unavailable):
        await revocations.read()
    assert await revocations.read(), "the last page is empty, and yet there was something"
    assert not await revocations.read()


async def test_behind_a_failover_it_reads_from_the_start_though_the_first_try_fails(
    backplane: Backplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: a server that went back in time has entries before the last one; a failed try must not pass them over."""
    stream, revocations = reading(backplane, monkeypatch, [entry("late", NOW)])
    assert await revocations.read()
    stream.entries = [entry("early", NOW - 10)]
    revocations.missed()
    stream.fails_at = len(stream.asked)
    with pytest.raises(Unavailable):
        await revocations.read()
    assert not is_covered(revocations, "early", NOW - 20)
    assert await revocations.read()
    assert is_covered(revocations, "early", NOW - 20)
    assert is_covered(revocations, "late"), "what was known counts on"


async def test_a_failover_between_two_pages_begins_from_the_start(
    backplane: Backplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, revocations = reading(backplane, monkeypatch, [entry("late", NOW)])
    answer = stream.xrange

    async def moved(*args: Any, **options: Any) -> list[Entry]:
        page = await answer(*args, **options)
        if len(stream.asked) == 1:
            stream.entries = [entry("early", NOW - 10), *stream.entries]
            revocations.missed()
        return page

    monkeypatch.setattr(backplane.redis, "xrange", moved)
    assert await revocations.read()
    assert stream.asked == ["-", "-"]
    assert is_covered(revocations, "early", NOW - 20)


async def test_a_subject_stays_shut_out_while_its_entries_are_read_again(
    backplane: Backplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: the earlier of two entries, read again, lets in what was taken back by the later one."""
    between = [entry(f"user-{n}", NOW - 50, n) for n in range(1000)]
    stream, revocations = reading(
        backplane, monkeypatch, [entry("mallory", NOW - 100), *between, entry("mallory", NOW)]
    )
    assert await revocations.read()
    revocations.missed()
    stream.fails_at = len(stream.asked) + 1
    with pytest.raises(Unavailable):
        await revocations.read()
    assert is_covered(revocations, "mallory", NOW - 30)
