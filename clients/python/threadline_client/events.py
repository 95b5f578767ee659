"""What a thread's stream yields: events, and snapshots where events are no longer to be had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

TERMINAL = frozenset({"chat_done", "chat_error"})
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A place in a thread's log: everything up to `offset` of `epoch` has been seen."""

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Return the cursor written as `EPOCH:OFFSET`.

        Raises:
            ValueError: when the text is not of that form.
        """
        epoch, colon, offset = text.strip().rpartition(":")
        if not (epoch and colon and offset.isascii() and offset.isdigit()):
            raise ValueError(f"expected EPOCH:OFFSET such as 0f3a:17, got {text!r}; copy it from an event")
        return cls(epoch, int(offset))


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a thread, or several neighbouring deltas in one (`first_offset` to `offset`)."""

    name: str
    thread_id: str
    request_id: str
    epoch: str
    offset: int
    first_offset: int
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The event as it came, such as `delta`, `tool_name`, `full_response`; see docs/protocol.md."""

    @property
    def cursor(self) -> Cursor:
        """The place in the log behind this event."""
        return Cursor(self.epoch, self.offset)

    @property
    def terminal(self) -> bool:
        """Whether the turn ends with this event."""
        return self.name in TERMINAL

    @property
    def delta(self) -> str:
        """The text of a delta; empty for other events."""
        return str(self.fields.get("delta", ""))

    def __getitem__(self, key: str) -> Any:
        return self.fields[key]

    def get(self, key: str, default: Any = None) -> Any:
        """Return a field of the event, or `default`."""
        return self.fields.get(key, default)

    def as_dict(self) -> dict[str, Any]:
        """Return the event as the gateway sent it."""
        return dict(self.fields)


def _offset(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def parse_event(name: str, fields: object) -> Event | None:
    """Return the event that a frame carries, or None for a frame that is not an entry of a log.

    Aliases (`chat:done` for `chat_done`) are None too: they say again what the event itself says.
    """
    if ":" in name or not isinstance(fields, dict):
        return None
    offset, epoch, thread_id = _offset(fields.get("offset")), fields.get("epoch"), fields.get("thread_id")
    if not offset or not isinstance(epoch, str) or not isinstance(thread_id, str):
        return None
    first = _offset(fields.get("first_offset")) or offset
    request_id = fields.get("request_id")
    return Event(
        name=name,
        thread_id=thread_id,
        request_id=request_id if isinstance(request_id, str) else "",
        epoch=epoch,
        offset=offset,
        first_offset=min(first, offset),
        fields=fields,
    )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How a thread stands at `offset`: yielded first, and instead of events that can no longer be had.

    `recovered` is None for the first one, False when events were lost to this client. `exists` is False
    for a thread that nobody has written to; it then has no epoch.
    """

    thread_id: str
    epoch: str
    offset: int
    recovered: bool | None = None
    exists: bool = True
    messages: tuple[Mapping[str, Any], ...] = ()
    """The last messages, oldest first: `{id, role, content, ts, request_id, interrupted?, steer?, context?}`."""
    turn: Mapping[str, Any] | None = None
    """The primary turn that runs, or None:
    `{request_id, lane, state, attempt, text, thinking, tools, approvals, position?}`."""
    parallel: tuple[Mapping[str, Any], ...] = ()
    """The turns that run beside it."""

    @property
    def cursor(self) -> Cursor:
        """The place in the log that the snapshot was taken at."""
        return Cursor(self.epoch, self.offset)


def parse_snapshot(thread_id: str, answer: Mapping[str, Any]) -> Snapshot:
    """Return the snapshot that the acknowledgement of `thread:subscribe` carries."""
    snapshot = answer.get("snapshot")
    inside: Mapping[str, Any] = snapshot if isinstance(snapshot, dict) else _NOTHING
    turn = inside.get("turn")
    recovered = answer.get("recovered")
    return Snapshot(
        thread_id=thread_id,
        epoch=str(answer.get("epoch", "")),
        offset=_offset(answer.get("offset")) or 0,
        recovered=recovered if isinstance(recovered, bool) else None,
        messages=_objects(inside.get("messages")),
        turn=turn if isinstance(turn, dict) else None,
        parallel=_objects(inside.get("parallel")),
    )


def whole(value: object, default: int = 0) -> int:
    """Return a whole number that a gateway has sent, or the default for anything else."""
    return value if isinstance(value, int) else default


def _objects(value: object) -> tuple[Mapping[str, Any], ...]:
    return tuple(one for one in value if isinstance(one, dict)) if isinstance(value, list) else ()
