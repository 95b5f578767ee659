"""Which events pass, against every order in which a network may bring them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadline_client import Cursor, Event, Snapshot
from threadline_client.errors import Refused
from threadline_client.events import parse_event
from threadline_client.tracker import Item, Standing, Tracker


def event(offset: int, first: int | None = None, epoch: str = "e") -> Event:
    fields: dict[str, Any] = {"thread_id": "t", "request_id": "r", "epoch": epoch, "offset": offset}
    if first is not None:
        fields["first_offset"] = first
    parsed = parse_event("text_delta", fields)
    assert parsed is not None
    return parsed


def answer(offset: int, recovered: bool | None = None, epoch: str = "e") -> dict[str, Any]:
    return {"ok": True, "epoch": epoch, "offset": offset, "recovered": recovered, "snapshot": {}}


def live(offset: int) -> Tracker:
    tracker = Tracker("t", Cursor("e", offset))
    tracker.ask()
    assert tracker.answer(answer(offset, True)) == []
    assert tracker.standing is Standing.LIVE
    return tracker


def test_the_question_carries_the_cursor_and_nothing_without_one() -> None:
    assert Tracker("t").ask() == {"thread_id": "t"}
    assert Tracker("t", Cursor("e", 4), history=3).ask() == {
        "thread_id": "t",
        "epoch": "e",
        "after": 4,
        "history": 3,
    }


def test_a_merged_delta_that_begins_behind_the_cursor_passes_whole() -> None:
    tracker = live(4)
    assert tracker.event(event(9, first=5)) == [event(9, first=5)]
    assert tracker.cursor == Cursor("e", 9)


def test_a_merged_delta_that_overlaps_the_cursor_is_asked_for_again() -> None:
    tracker = live(4)
    assert tracker.event(event(9, first=3)) == []
    assert (tracker.standing, tracker.cursor) == (Standing.STALE, Cursor("e", 4))


def test_an_event_that_overtakes_the_answer_is_not_forgotten() -> None:
    """The socket was in the room before the answer left: 7 came live, and the answer only reaches 6."""
    tracker = Tracker("t")
    tracker.ask()
    assert tracker.event(event(7)) == []
    assert isinstance(tracker.answer(answer(6))[0], Snapshot)
    assert tracker.standing is Standing.STALE
    assert tracker.ask()["after"] == 6


def test_an_answer_that_promises_more_than_came_is_not_believed() -> None:
    tracker = Tracker("t", Cursor("e", 4))
    tracker.ask()
    tracker.event(event(5))
    tracker.answer(answer(6, True))
    assert tracker.standing is Standing.STALE


def test_a_log_that_went_back_is_noticed() -> None:
    """A failover lost offsets inside one epoch: what comes next must not be taken for doubles."""
    tracker = Tracker("t", Cursor("e", 50))
    tracker.ask()
    tracker.answer(answer(40, True))
    assert (tracker.standing, tracker.cursor) == (Standing.STALE, None)


@pytest.mark.parametrize("others", [[], [event(5, epoch="f")], [event(7, first=5, epoch="f")]], ids=len)
def test_a_log_without_the_event_that_it_is_to_begin_with_went_back(others: list[Event]) -> None:
    """It reaches to the place before, and what came there since is of another epoch."""
    tracker = Tracker("t", Cursor("e", 4), first=Cursor("e", 5))
    tracker.ask()
    for other in others:
        tracker.event(other)
    top = others[-1].cursor if others else Cursor("e", 4)
    assert tracker.answer(answer(top.offset, True, epoch=top.epoch)) == []
    assert (tracker.standing, tracker.cursor) == (Standing.STALE, None)
    tracker.ask()
    assert isinstance(tracker.answer(answer(top.offset, epoch=top.epoch))[0], Snapshot)
    assert tracker.standing is Standing.LIVE


def test_the_event_that_it_is_to_begin_with_is_met_once() -> None:
    tracker = Tracker("t", Cursor("e", 4), first=Cursor("e", 5))
    tracker.event(event(5))
    tracker.ask()
    tracker.answer(answer(5, True))
    tracker.lost()
    tracker.ask()
    tracker.answer(answer(5, True))
    assert (tracker.standing, tracker.cursor) == (Standing.LIVE, Cursor("e", 5))


def test_another_epoch_with_a_lower_offset_is_no_log_that_went_back() -> None:
    tracker = Tracker("t", Cursor("e", 50))
    tracker.ask()
    tracker.answer(answer(3, False, epoch="f"))
    assert (tracker.standing, tracker.cursor) == (Standing.LIVE, Cursor("f", 3))


def test_an_epoch_that_follows_on_is_gone_along_with() -> None:
    """A failover that lost nothing of what the client has: no snapshot is needed."""
    tracker = Tracker("t", Cursor("e", 4))
    tracker.ask()
    tracker.answer(answer(4, True))
    assert tracker.event(event(5, epoch="f"))
    assert tracker.event(event(6, epoch="g")) == [event(6, epoch="g")]
    assert (tracker.standing, tracker.cursor) == (Standing.LIVE, Cursor("g", 6))
    assert tracker.event(event(4, epoch="h")) == []
    assert tracker.standing is Standing.STALE


def test_missed_events_may_lead_into_another_epoch() -> None:
    tracker = Tracker("t", Cursor("e", 4))
    tracker.ask()
    assert len(tracker.event(event(5)) + tracker.event(event(6, epoch="f"))) == 2
    assert tracker.answer(answer(6, True, epoch="f")) == []
    assert (tracker.standing, tracker.cursor) == (Standing.LIVE, Cursor("f", 6))


@pytest.mark.parametrize("ending", ["lost", "refused", "not recovered"])
def test_another_epoch_counts_only_when_the_answer_confirms_it(ending: str) -> None:
    """What was sent may be of a log that lacks what the client has."""
    tracker = Tracker("t", Cursor("e", 4))
    tracker.ask()
    tracker.event(event(5, epoch="f"))
    if ending == "lost":
        tracker.lost()
    elif ending == "refused":
        with pytest.raises(Refused):
            tracker.answer({"ok": False, "error": {"code": "unavailable"}})
    else:
        tracker.answer(answer(9, False, epoch="f"))
    assert tracker.cursor == (Cursor("f", 9) if ending == "not recovered" else None)


def test_before_the_log_was_asked_no_other_epoch_is_entered() -> None:
    tracker = Tracker("t", Cursor("e", 4))
    assert tracker.event(event(5, epoch="f")) == []
    assert tracker.ask()["after"] == 4


def test_live_events_that_overtake_the_answer_are_no_log_that_went_back() -> None:
    tracker = Tracker("t", Cursor("e", 4))
    tracker.ask()
    assert [item.offset for item in tracker.event(event(5)) + tracker.event(event(6))] == [5, 6]
    tracker.answer(answer(5, True))
    assert (tracker.standing, tracker.cursor) == (Standing.LIVE, Cursor("e", 6))


def test_a_thread_that_is_not_there_is_told_once() -> None:
    missing = {"ok": False, "error": {"code": "not_found", "message": "no"}}
    tracker = Tracker("t")
    tracker.ask()
    (told,) = tracker.answer(missing)
    assert isinstance(told, Snapshot)
    assert not told.exists
    tracker.lost()
    tracker.ask()
    assert tracker.answer(missing) == []
    assert tracker.event(event(1)) == [event(1)]


def test_a_thread_first_seen_in_the_middle_is_read_from_its_beginning() -> None:
    tracker = Tracker("t")
    tracker.ask()
    tracker.answer({"ok": False, "error": {"code": "not_found"}})
    assert tracker.event(event(3)) == []
    assert tracker.ask()["after"] == 0


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_each_offset_passes_once_and_in_order_whatever_the_wire_does(seed: int, length: int) -> None:
    """Events are lost, doubled, merged, overtaken; connections drop: the reader sees 1, 2, 3, …"""
    chance = random.Random(seed)
    tracker = Tracker("t", Cursor("e", 0))
    seen: list[Item] = []
    top = 0

    def subscribe() -> None:
        after = tracker.ask()["after"]
        missed = after + 1
        while missed <= top:
            last = min(top, missed + chance.randrange(4))
            seen.extend(tracker.event(event(last, first=missed)))
            if chance.random() < 0.1:
                seen.extend(tracker.event(event(top)))  # a live one overtakes
            missed = last + 1
        seen.extend(tracker.answer(answer(top, True)))

    while top < length:
        top += 1
        for _ in range(chance.choice((0, 1, 1, 1, 2))):
            seen.extend(tracker.event(event(top)))
        if chance.random() < 0.2:
            tracker.lost()
        if tracker.standing is Standing.STALE and chance.random() < 0.7:
            subscribe()
    tracker.lost()
    while tracker.standing is Standing.STALE:
        subscribe()
    covered = [
        offset for item in seen if isinstance(item, Event) for offset in range(item.first_offset, item.offset + 1)
    ]
    assert covered == list(range(1, length + 1))
