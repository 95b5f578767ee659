"""What every dialect has in common: frames for one turn, made of the log's events without any I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from backplane.events import TURN_RESTARTED, Event, merge

Frame = dict[str, Any]
Fields = dict[str, Any]


class View(Protocol):
    """One turn, as a dialect tells it."""

    ended: bool
    """Whether the stream has come to its end: the turn's, or a question that waits for a person."""

    def begin(self) -> list[Frame]:
        """Return how a stream begins; when events were fed before, so that it goes on behind them."""

    def feed(self, name: str, fields: Fields) -> list[Frame]:
        """Return the frames of one event; those of other turns have none."""

    def adopt(self, snapshot: Fields) -> list[Frame]:
        """Return the frames of a snapshot, in place of events that the log does not hold any more."""

    def settle(self, approvals: frozenset[str]) -> None:
        """Take the ids of questions that are decided: they end no stream."""


def standing(events: Iterable[Event], request_id: str) -> list[Event]:
    """Return the events of one turn that are not void, merged. Restarts stay: a reader may have what they void."""
    found: list[Event] = []
    for event in events:
        if event.fields.get("request_id") != request_id:
            continue
        if event.name == TURN_RESTARTED:
            kept = event.fields.get("kept_offset", 0)
            found = [before for before in found if before.offset <= kept]
        found.append(event)
    return list(merge(found))


def pending_call(calls: dict[str, tuple[str, Any]], fields: Fields) -> str | None:
    """Return the id of the tool call that an approval is about: the latest of this name and these arguments."""
    about = (fields.get("tool_name"), fields.get("args"))
    return next((call_id for call_id, call in reversed(calls.items()) if call == about), None)


def into(frames: list[Frame], fields: Fields) -> list[Frame]:
    """Return frames with the time of the event that they come from, in Unix milliseconds."""
    return [{**frame, "timestamp": fields["ts"]} for frame in frames] if "ts" in fields else frames
