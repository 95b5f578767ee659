"""Events: what happens in a thread, as text that is stored, published and sent without being changed.

An event is written once, by a Lua script that gives it its offset. The JSON text of the log entry is
the text that reaches the client, live or on replay.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

APPROVAL_DECIDED = "approval_decided"
APPROVAL_REQUEST = "approval_request"
CHAT_ACCEPTED = "chat_accepted"
CHAT_DONE = "chat_done"
CHAT_ERROR = "chat_error"
INFERENCE_START = "inference_start"
INFERENCE_HEARTBEAT = "inference_heartbeat"
ITERATION_START = "iteration_start"
TEXT_DELTA = "text_delta"
THINKING_DELTA = "thinking_delta"
TOOL_ARGS_DELTA = "tool_args_delta"
TOOL_CALL = "tool_call"
TOOL_RESULT = "tool_result"
STEP_DONE = "step_done"
THREAD_EDITED = "thread_edited"
TURN_RESTARTED = "turn_restarted"
QUEUE_ITEM_QUEUED = "queue_item_queued"
QUEUE_ITEM_DELIVERED = "queue_item_delivered"
QUEUE_ITEM_REMOVED = "queue_item_removed"

TERMINAL = frozenset({CHAT_DONE, CHAT_ERROR})
DELTAS = frozenset({TEXT_DELTA, THINKING_DELTA, TOOL_ARGS_DELTA})

# made once: `json.dumps` makes another for each call that asks for anything but its defaults
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


@dataclass(slots=True, eq=False)
class Event:
    """One entry of a log: its offset, its name, and the JSON (UTF-8) that clients receive."""

    offset: int
    name: str
    raw: bytes
    _fields: dict[str, Any] | None = field(default=None, repr=False)
    encoded: Any = field(default=None, repr=False)
    """What a node made of it for its sockets, once for all of them."""

    @property
    def text(self) -> str:
        """The JSON as text."""
        return self.raw.decode()

    @property
    def fields(self) -> dict[str, Any]:
        """The event as a dictionary, decoded once."""
        if self._fields is None:
            self._fields = json.loads(self.raw)
        return self._fields

    @property
    def request_id(self) -> str:
        """The turn that this event belongs to."""
        return str(self.fields["request_id"])


def dumps(value: Any) -> str:
    """Return compact JSON that every reader accepts.

    Raises:
        ValueError: for NaN, infinities, and text with lone surrogates.
    """
    text = _JSON.encode(value)
    text.encode()  # a lone surrogate passes json but no UTF-8 reader; UnicodeEncodeError is a ValueError
    return text


def quoted(text: str) -> str:
    """Return text as JSON. It must have no lone surrogates: this is for text that was looked at already."""
    return _JSON.encode(text)


def body(fields: dict[str, Any]) -> str:
    """Return the inside of a JSON object, without braces: the part of an event that its author chooses."""
    return dumps(fields)[1:-1]


def decode_live(message: bytes) -> tuple[str, list[Event]]:
    """Return `(epoch, events)` from a message of a thread's live channel.

    The form, written by lua/lib/emit.lua: a line `epoch first_offset`, then a line `name json` per event.

    Raises:
        ValueError: when the message is not of that form.
    """
    head, *lines = message.split(b"\n")
    epoch, _, first = head.partition(b" ")
    offset = int(first)
    events = []
    for position, line in enumerate(lines):
        name, _, raw = line.partition(b" ")
        if not raw.startswith(b"{"):
            raise ValueError("expected `name {json}` on each line of a live message")
        events.append(Event(offset + position, name.decode(), raw))
    if not epoch or not events:
        raise ValueError("expected an epoch and at least one event in a live message")
    return epoch.decode(), events


def standing(events: Iterable[Event], request_id: str) -> list[Event]:
    """Return the events of one turn that no later attempt made void. Restarts stay: a reader may hold what is void."""
    found: list[Event] = []
    for event in events:
        if event.fields.get("request_id") != request_id:
            continue
        if event.name == TURN_RESTARTED:
            kept = event.fields.get("kept_offset", 0)
            found = [before for before in found if before.offset <= kept]
        found.append(event)
    return found


def merge(events: Iterable[Event], limit: int = 65_536) -> Iterator[Event]:
    """Yield the same events with neighbouring deltas of one kind joined, so that a resume is a few frames.

    A joined delta carries `offset` (its last) and `first_offset`; its text ends near `limit` characters.
    """
    run: list[Event] = []
    kind: tuple[Any, ...] | None = None
    size = 0
    for event in events:
        of = _kind(event)
        if run and (of is None or of != kind or size >= limit):
            yield _joined(run)
            run, size = [], 0
        run.append(event)
        kind = of
        size += len(event.fields["delta"]) if of is not None else 0
    if run:
        yield _joined(run)


def _kind(event: Event) -> tuple[Any, ...] | None:
    """Return what two deltas must have in common to be joined; None for what is no delta."""
    if event.name not in DELTAS:
        return None
    fields = event.fields
    return (event.name, fields.get("epoch"), fields["request_id"], fields.get("round"), fields.get("tool_call_id"))


def _joined(run: list[Event]) -> Event:
    last = run[-1]
    if len(run) == 1:
        return last
    fields = dict(last.fields)
    fields["delta"] = "".join(event.fields["delta"] for event in run)
    fields["first_offset"] = run[0].fields.get("first_offset", run[0].offset)
    return Event(last.offset, last.name, dumps(fields).encode(), fields)
