"""What a room remembers for those who join it just now."""

from __future__ import annotations

from backplane.events import Event
from gateway.recent import MOST_BYTES, MOST_EVENTS, Recent


def remembered(*sizes: int) -> Recent:
    recent = Recent()
    for offset, size in enumerate(sizes, start=1):
        recent.append(Event(offset, "text_delta", b"x" * size))
    return recent


def offsets(events: list[Event] | None) -> list[int] | None:
    return None if events is None else [event.offset for event in events]


def test_it_gives_what_follows_an_offset() -> None:
    assert offsets(remembered(1, 1, 1).after(1)) == [2, 3]
    assert offsets(remembered(1, 1, 1).after(3)) == []


def test_it_says_when_it_does_not_reach_back_that_far() -> None:
    assert remembered().after(0) is None
    assert remembered(*[1] * (MOST_EVENTS + 1)).after(0) is None
    assert offsets(remembered(*[1] * (MOST_EVENTS + 1)).after(MOST_EVENTS)) == [MOST_EVENTS + 1]


def test_large_events_push_out_more_of_the_older_ones() -> None:
    recent = remembered(*[MOST_BYTES // 4] * 6)
    assert recent.after(1) is None
    assert offsets(recent.after(2)) == [3, 4, 5, 6]


def test_an_event_larger_than_all_it_may_hold_is_not_kept() -> None:
    assert remembered(1, MOST_BYTES + 1).after(1) is None


def test_cleared_it_remembers_nothing() -> None:
    recent = remembered(1, 1)
    recent.clear()
    assert recent.after(1) is None
