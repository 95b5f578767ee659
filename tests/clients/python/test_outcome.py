"""How a turn ended, as its events or a snapshot tell it."""

from __future__ import annotations

from typing import Any

import pytest

from threadline_client import Event, Snapshot
from threadline_client.outcome import outcome_in, outcome_of


def ending(name: str, **fields: Any) -> Event:
    return Event(name, "tea", "r1", "e", 9, 9, fields)


def test_a_terminal_event_is_an_outcome() -> None:
    done = outcome_of(ending("chat_done", full_response="all"))
    failed = outcome_of(ending("chat_error", error_type="turn_timeout", message="too long"), "part")
    assert (done.ok, done.text, done.error_type) == (True, "all", "")
    assert (failed.ok, failed.text, failed.error_type, failed.message) == (False, "part", "turn_timeout", "too long")


@pytest.mark.parametrize(
    ("told", "queued", "expected"),
    [
        ({"turn": {"request_id": "r1"}}, False, None),
        ({}, True, None),
        ({}, False, (False, "unknown", "")),
        ({"exists": False}, True, (False, "unknown", "")),
        ({"messages": ({"role": "assistant", "request_id": "r1", "content": "a"},)}, False, (True, "", "a")),
        (
            {"messages": ({"role": "assistant", "request_id": "r1", "content": "a", "interrupted": True},)},
            False,
            (False, "unknown", "a"),
        ),
        ({"messages": ({"role": "user", "request_id": "r1", "content": "q"},)}, True, (False, "unknown", "")),
    ],
)
def test_a_snapshot_may_tell_how_a_turn_ended(
    told: dict[str, Any], queued: bool, expected: tuple[bool, str, str] | None
) -> None:
    outcome = outcome_in(Snapshot("tea", "e", 9, **told), "r1", queued=queued)
    assert (outcome and (outcome.ok, outcome.error_type, outcome.text)) == expected
