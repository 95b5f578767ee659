"""Reading the log, and what happens when it does not reach back."""

from __future__ import annotations

from typing import Any

import pytest

from backplane.connection import Backplane
from backplane.errors import NotFound
from backplane.events import body
from backplane.ids import thread_ref
from backplane.turns import Batch, Claim, Start

REF = thread_ref("log")


async def running(backplane: Backplane) -> Claim:
    started = await backplane.turns.start(REF, Start("q", "ann", "sid"))
    claim = await backplane.turns.claim(backplane.keys.thread(REF).member(started.request_id), "w")
    assert claim is not None
    return claim


async def say(backplane: Backplane, claim: Claim, count: int) -> None:
    events = [("text_delta", body({"delta": f"{n} ", "round": 1})) for n in range(count)]
    await backplane.turns.append(claim, Batch(1, events))


async def test_reading_goes_on_after_an_offset(backplane: Backplane) -> None:
    claim = await running(backplane)
    await say(backplane, claim, 8)
    page = await backplane.log.read(REF, epoch=claim.epoch, after=4)
    assert (page.reached, page.top, [e.offset for e in page.events]) == (True, 10, [5, 6, 7, 8, 9, 10])


async def test_a_page_has_a_size_and_the_next_one_follows_on(backplane: Backplane) -> None:
    claim = await running(backplane)
    await say(backplane, claim, 8)
    first = await backplane.log.read(REF, after=0, most=4)
    rest = await backplane.log.read(REF, after=4, most=100)
    assert [e.offset for e in first.events + rest.events] == list(range(1, 11))


async def test_a_page_is_bounded_by_its_bytes_too(backplane: Backplane) -> None:
    """Outputs of tools are large: a thousand of them would hold up the store, and fill a node."""
    claim = await running(backplane)
    await backplane.turns.append(claim, Batch(1, [("tool_result", body({"output": "x" * 200_000}))] * 5))
    assert [e.offset for e in (await backplane.log.read(REF, after=2)).events] == [3, 4, 5]
    assert [e.offset for e in (await backplane.log.read(REF, after=5)).events] == [6, 7]


async def test_a_page_names_every_turn_that_runs(backplane: Backplane) -> None:
    claim = await running(backplane)
    beside = [await backplane.turns.start(REF, Start("b", "ann", "sid", queue_mode="parallel")) for _ in range(2)]
    runs = {claim.request_id, *(started.request_id for started in beside)}
    assert (await backplane.log.read(REF)).active == runs


async def test_a_reader_that_has_everything_gets_nothing(backplane: Backplane) -> None:
    await running(backplane)
    page = await backplane.log.read(REF, after=2)
    assert (page.reached, page.events) == (True, [])


@pytest.mark.parametrize(("epoch", "after"), [("another", 1), ("", 99)])
async def test_a_cursor_that_this_log_never_gave_is_not_reached(backplane: Backplane, epoch: str, after: int) -> None:
    """Another epoch, or an offset beyond the top: the reader is told, never served a guess."""
    await running(backplane)
    assert not (await backplane.log.read(REF, epoch=epoch, after=after)).reached


async def test_a_log_that_was_trimmed_does_not_reach_back(open_backplane: Any) -> None:
    async with open_backplane(log_max_entries=10) as backplane:
        claim = await running(backplane)
        await say(backplane, claim, 500)
        assert not (await backplane.log.read(REF, after=1)).reached
        top = (await backplane.log.read(REF, after=1)).top
        assert (await backplane.log.read(REF, after=top - 5)).reached
        assert await backplane.redis.xlen(backplane.keys.thread(REF).log) < 300


async def test_a_log_that_expired_says_so_and_goes_on_counting(backplane: Backplane) -> None:
    """Offsets are never used twice in one epoch."""
    claim = await running(backplane)
    await backplane.redis.delete(backplane.keys.thread(REF).log)
    assert not (await backplane.log.read(REF, epoch=claim.epoch, after=1)).reached
    assert (await backplane.log.read(REF, epoch=claim.epoch, after=2)).reached
    await say(backplane, claim, 1)
    page = await backplane.log.read(REF, epoch=claim.epoch, after=2)
    assert [e.offset for e in page.events] == [3]


async def test_a_thread_whose_store_was_lost_begins_another_epoch(backplane: Backplane) -> None:
    claim = await running(backplane)
    keys = backplane.keys.thread(REF)
    await backplane.redis.delete(keys.thread, keys.log, keys.session, keys.turn(claim.request_id))
    with pytest.raises(NotFound):
        await backplane.log.read(REF, epoch=claim.epoch, after=2)
    started = await backplane.turns.start(REF, Start("again", "ann", "sid"))
    assert started.epoch != claim.epoch
    assert not (await backplane.log.read(REF, epoch=claim.epoch, after=1)).reached


async def test_many_logs_are_read_in_one_round_trip(backplane: Backplane) -> None:
    claim = await running(backplane)
    pages = await backplane.log.read_many([(REF, claim.epoch, 1), (thread_ref("gone"), "e", 1)])
    assert [page is not None and page.reached for page in pages] == [True, False]
    assert await backplane.log.read_many([]) == []
