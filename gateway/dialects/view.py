"""A view: one turn as frames of a dialect, made of the log's events without any I/O. What all dialects share of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from backplane import events
from backplane.notices import THREAD_DELETED
from gateway.degraded import DEGRADED

Frame = dict[str, Any]
Fields = dict[str, Any]

_STOPPED = frozenset({"cancelled", "superseded"})


class View(ABC):
    """One turn, as a dialect tells it. A dialect says how each thing is told, and the view knows what is to be told.

    Args:
        request_id: the turn.
    """

    def __init__(self, request_id: str) -> None:
        self.ended = False
        """Whether the stream has come to its end: the turn's, or a question that waits for a person."""
        self._request_id = request_id
        self._number = 0
        self._open: tuple[str, str] | None = None
        """`text` or `reasoning`, and the id of what is being written."""
        self._calls: dict[str, tuple[str, Any]] = {}
        """Tool calls that have no result yet: id -> name and arguments."""
        self._settled: frozenset[str] = frozenset()
        self._closing: list[Frame] = []
        """How the stream has ended, for who comes back behind its end."""
        self._feeds: dict[str, Callable[[Fields], list[Frame]]] = {
            events.ITERATION_START: self._round,
            events.TEXT_DELTA: self._text,
            events.THINKING_DELTA: self._thinking,
            events.TOOL_ARGS_DELTA: self._args,
            events.TOOL_CALL: self._call,
            events.TOOL_RESULT: self._result,
            events.APPROVAL_REQUEST: self._asked,
            events.APPROVAL_DECIDED: self._decided,
            events.TURN_RESTARTED: self._restarted,
            events.QUEUE_ITEM_QUEUED: self._queued,
            events.QUEUE_ITEM_DELIVERED: self._delivered,
            events.QUEUE_ITEM_REMOVED: self._removed,
            events.CHAT_DONE: self._answered,
            events.CHAT_ERROR: self._failed,
        }

    # --- the stream --------------------------------------------------------------------------------------

    @abstractmethod
    def begin(self) -> list[Frame]:
        """Return how a stream begins; when events were fed before, so that it goes on behind them."""

    def feed(self, name: str, fields: Fields) -> list[Frame]:
        """Return the frames of one event; those of other turns have none."""
        if name == THREAD_DELETED:
            return self._error("The thread was deleted.", THREAD_DELETED)
        if name == DEGRADED:
            return self._degraded(fields)
        if fields.get("request_id") != self._request_id or name not in self._feeds:
            return []
        return self._told(name, fields)

    def settle(self, approvals: frozenset[str]) -> None:
        """Take the ids of questions that are decided: they end no stream."""
        self._settled |= approvals

    def adopt(self, snapshot: Fields, *, waits: bool = False) -> list[Frame]:
        """Return the frames of a snapshot, in place of events that the log does not hold any more.

        Args:
            snapshot: of the thread.
            waits: whether the turn waits in a lane; of that a snapshot says nothing.
        """
        turns = [turn for turn in (snapshot["turn"], *snapshot["parallel"]) if turn]
        turn = next((turn for turn in turns if turn["request_id"] == self._request_id), None)
        if turn is None:
            said = [message for message in snapshot["messages"] if message["request_id"] == self._request_id]
            answer = next((message for message in said if message["role"] == "assistant"), None)
            return [] if waits and answer is None else self._over(answer)
        frames = self._so_far(turn)
        for approval in turn["approvals"]:
            if approval["state"] == "pending" and not self.ended:  # the others are told when this one is answered
                frames += self._asked(approval)
        return frames

    def _told(self, name: str, fields: Fields) -> list[Frame]:
        return self._feeds[name](fields)

    def _next_id(self) -> str:
        self._number += 1
        return f"{self._request_id}-{self._number}"

    # --- what every dialect tells alike ------------------------------------------------------------------

    def _decided(self, fields: Fields) -> list[Frame]:
        self.ended, self._closing = False, []  # only where the question was told by an earlier stream
        return []

    def _delivered(self, fields: Fields) -> list[Frame]:
        return self._taken_in(fields["into_request_id"]) if "into_request_id" in fields else []

    def _failed(self, fields: Fields) -> list[Frame]:
        kind: str = fields["error_type"]
        return self._stopped(kind) if kind in _STOPPED else self._error(fields["message"], kind)

    # --- what each has its own words for -----------------------------------------------------------------

    @abstractmethod
    def _round(self, fields: Fields) -> list[Frame]: ...

    @abstractmethod
    def _text(self, fields: Fields) -> list[Frame]: ...

    @abstractmethod
    def _thinking(self, fields: Fields) -> list[Frame]: ...

    @abstractmethod
    def _args(self, fields: Fields) -> list[Frame]: ...

    @abstractmethod
    def _call(self, fields: Fields) -> list[Frame]: ...

    @abstractmethod
    def _result(self, fields: Fields) -> list[Frame]: ...

    @abstractmethod
    def _asked(self, fields: Fields) -> list[Frame]: ...

    @abstractmethod
    def _restarted(self, fields: Fields) -> list[Frame]: ...

    @abstractmethod
    def _queued(self, fields: Fields) -> list[Frame]: ...

    @abstractmethod
    def _removed(self, fields: Fields) -> list[Frame]: ...

    @abstractmethod
    def _answered(self, fields: Fields) -> list[Frame]: ...

    @abstractmethod
    def _degraded(self, fields: Fields) -> list[Frame]: ...

    @abstractmethod
    def _taken_in(self, request_id: str) -> list[Frame]:
        """Return the end of a message that went into another turn."""

    @abstractmethod
    def _stopped(self, reason: str) -> list[Frame]:
        """Return the end of a turn that somebody stopped: `cancelled` or `superseded`."""

    @abstractmethod
    def _error(self, message: str, code: str) -> list[Frame]:
        """Return the end of a turn that failed."""

    @abstractmethod
    def _so_far(self, turn: Fields) -> list[Frame]:
        """Return a running turn as a snapshot has it, without its questions."""

    @abstractmethod
    def _over(self, answer: Fields | None) -> list[Frame]:
        """Return a turn that has ended, from its answer in the history; None when that is not there."""


def pending_call(calls: dict[str, tuple[str, Any]], fields: Fields) -> str | None:
    """Return the id of the tool call that an approval is about: the latest of this name and these arguments."""
    about = (fields.get("tool_name"), fields.get("args"))
    return next((call_id for call_id, call in reversed(calls.items()) if call == about), None)
