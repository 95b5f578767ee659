"""What frames are taken for."""

from __future__ import annotations

from typing import Any

import pytest

from threadline_client import Cursor
from threadline_client.errors import NotFound, Unauthorized, refusal
from threadline_client.events import parse_event, parse_snapshot

GOOD: dict[str, Any] = {"thread_id": "t", "request_id": "r", "epoch": "e", "offset": 3, "delta": "x"}


def test_an_event_keeps_its_fields_and_its_place() -> None:
    event = parse_event("text_delta", GOOD)
    assert event is not None
    assert (event.cursor, event.first_offset, event.delta, event["delta"]) == (Cursor("e", 3), 3, "x", "x")
    assert event.as_dict() == GOOD
    assert not event.terminal


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("text:delta", GOOD),
        ("ready", {"sid": "s"}),
        ("text_delta", GOOD | {"offset": True}),
        ("text_delta", GOOD | {"offset": "3"}),
        ("text_delta", GOOD | {"offset": 0}),
        ("text_delta", GOOD | {"epoch": None}),
        ("text_delta", "text"),
        ("text_delta", None),
    ],
)
def test_what_is_not_an_entry_of_a_log_is_no_event(name: str, fields: object) -> None:
    assert parse_event(name, fields) is None


@pytest.mark.parametrize("text", ["", "17", "e:", ":17", "e:-1", "e:x"])
def test_a_cursor_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected EPOCH:OFFSET"):
        Cursor.parse(text)


def test_a_cursor_reads_back_as_it_is_written() -> None:
    assert Cursor.parse(str(Cursor("a-b_c", 17))) == Cursor("a-b_c", 17)


def test_a_snapshot_with_nonsense_in_it_is_an_empty_one() -> None:
    told = parse_snapshot("t", {"epoch": "e", "offset": 2, "snapshot": {"messages": [1], "turn": "x"}})
    assert (told.messages, told.turn, told.offset, told.recovered) == ((), None, 2, None)


def test_an_error_becomes_the_exception_of_its_code() -> None:
    assert isinstance(refusal({"code": "unauthorized"}), Unauthorized)
    assert isinstance(refusal({"code": "not_found", "message": "no"}), NotFound)
    late = refusal({"code": "rate_limited", "message": "slow", "retryable": True, "retry_after_ms": 40})
    assert (late.code, str(late), late.retryable, late.retry_after_ms) == ("rate_limited", "slow", True, 40)
    assert refusal(None).code == "invalid_answer"
