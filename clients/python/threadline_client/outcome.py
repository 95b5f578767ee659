"""Outcomes: how a turn ended, from its terminal event, or from a snapshot when that was lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from threadline_client.events import Event, Snapshot


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a turn ended."""

    request_id: str
    ok: bool
    text: str
    """The whole answer; for a turn that failed, what there was of it."""
    error_type: str = ""
    """`cancelled`, `superseded`, `worker_lost`, …; `removed` for a message taken out of the queue;
    `delivered` for one that went into another turn; `unknown` when the log no longer tells."""
    message: str = ""
    """What went wrong, for people."""
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The terminal event, if it was seen."""


def outcome_of(event: Event, text: str = "") -> Outcome:
    """Return how a turn ended, from its terminal event and the text that was seen of it."""
    if event.name == "chat_done":
        return Outcome(event.request_id, True, str(event.get("full_response", text)), fields=event.fields)
    return Outcome(
        event.request_id,
        False,
        text,
        error_type=str(event.get("error_type", "error")),
        message=str(event.get("message", "")),
        fields=event.fields,
    )


def outcome_in(snapshot: Snapshot, request_id: str, *, queued: bool) -> Outcome | None:
    """Return how a turn ended whose terminal event was lost to us, or None if it still runs or waits.

    `queued` says that the turn had not begun when it was last seen: then its absence proves nothing.
    """
    if any(turn.get("request_id") == request_id for turn in (snapshot.turn or {}, *snapshot.parallel)):
        return None
    mine = [message for message in snapshot.messages if message.get("request_id") == request_id]
    for fields in mine:
        if fields.get("role") == "assistant":
            interrupted = bool(fields.get("interrupted"))
            kind = "unknown" if interrupted else ""
            return Outcome(request_id, not interrupted, str(fields.get("content", "")), error_type=kind)
    if any(fields.get("steer") or fields.get("context") for fields in mine):
        return Outcome(request_id, False, "", "delivered", "the message went into another turn")
    if queued and not mine and snapshot.exists:
        return None
    return Outcome(request_id, False, "", "unknown", "the turn ended while its events could not be had")
