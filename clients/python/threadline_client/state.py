"""A thread as a person sees it, folded from snapshots and events. No I/O: feed it what a stream yields.

state = ThreadState()
async for item in events:
    state.apply(item)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from threadline_client.events import Event, Snapshot


@dataclass(slots=True)
class Message:
    """One message of the conversation."""

    role: str
    content: str
    request_id: str = ""
    ts: int = 0
    """Unix time in milliseconds, from the server's clock."""
    interrupted: bool = False
    """True when the answer stopped in the middle (cancelled, superseded, failed)."""
    id: str = ""
    """The id that the history gives it; empty for a message that came as an event."""


@dataclass(slots=True)
class ToolUse:
    """One call of a tool within a turn. `output` and `success` are None until it has run."""

    tool_call_id: str
    tool_name: str = ""
    args: Mapping[str, Any] | None = None
    args_text: str = ""
    """The arguments as the model writes them, before the call."""
    output: str | None = None
    success: bool | None = None
    round: int = 1


@dataclass(slots=True)
class RunningTurn:
    """A turn that has not ended, and what it has said so far."""

    request_id: str
    state: str = "accepted"
    attempt: int = 1
    round: int = 1
    text: str = ""
    thinking: str = ""
    tools: list[ToolUse] = field(default_factory=list)

    def tool(self, tool_call_id: str) -> ToolUse:
        """Return the call with this id, made if it is new."""
        for tool in self.tools:
            if tool.tool_call_id == tool_call_id:
                return tool
        tool = ToolUse(tool_call_id)
        self.tools.append(tool)
        return tool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a turn ended."""

    request_id: str
    ok: bool
    text: str
    """The whole answer; for a turn that failed, what there was of it."""
    error_type: str = ""
    """`cancelled`, `superseded`, `worker_lost`, …; `removed` for a message taken out of the queue;
    `unknown` when the log no longer tells."""
    message: str = ""
    """What went wrong, for people."""
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The terminal event, if it was seen."""


class ThreadState:
    """Messages, running turns, and what waits, as of `cursor`."""

    def __init__(self) -> None:
        self.exists = False
        self.epoch = ""
        self.offset = 0
        self.messages: list[Message] = []
        self.turns: dict[str, RunningTurn] = {}
        """Running turns by request id, oldest first; more than one only with queue mode `parallel`."""
        self.queued: dict[str, Mapping[str, Any]] = {}
        """Messages that wait behind the running turn, by item id."""
        self.approvals: dict[str, Mapping[str, Any]] = {}
        """Requests for approval that wait for a decision, by approval id."""
        self.last: Outcome | None = None
        """How the last turn ended, if its end was seen."""

    @property
    def turn(self) -> RunningTurn | None:
        """The running turn, or None."""
        return next(iter(self.turns.values()), None)

    @property
    def status(self) -> str:
        """`idle`, or the state of the running turn."""
        return self.turn.state if self.turn else "idle"

    def apply(self, item: Event | Snapshot) -> None:
        """Change the state by one item of a stream. Unknown events move the cursor only."""
        self.epoch, self.offset = item.epoch, item.offset
        if isinstance(item, Snapshot):
            self._replace(item)
            return
        self.exists = True
        if item.name in _TURN_EVENTS:
            turn = self.turns.get(item.request_id) or RunningTurn(item.request_id)
            self.turns[item.request_id] = turn
            _TURN_EVENTS[item.name](turn, item)
        elif item.name in _THREAD_EVENTS:
            _THREAD_EVENTS[item.name](self, item)

    def _replace(self, snapshot: Snapshot) -> None:
        self.exists = snapshot.exists
        self.messages = [_message(fields) for fields in snapshot.messages]
        self.turns = {}
        self.queued, self.approvals = {}, {}
        if snapshot.turn is not None:
            turn = turn_of(snapshot.turn)
            self.turns[turn.request_id] = turn
            asked = snapshot.turn.get("approvals")
            pending = [one for one in asked if one.get("state") == "pending"] if isinstance(asked, list) else []
            self.approvals = {str(one.get("approval_id", "")): one for one in pending}

    def _accepted(self, event: Event) -> None:
        self.turns.setdefault(event.request_id, RunningTurn(event.request_id))
        self.queued.pop(event.request_id, None)
        text, ts = str(event.get("message", "")), _int(event.get("ts"))
        self.messages.append(Message("user", text, event.request_id, ts))

    def _ended(self, event: Event) -> None:
        turn = self.turns.pop(event.request_id, None)
        outcome = outcome_of(event, turn.text if turn else "")
        self.last = outcome
        if outcome.ok or outcome.text:
            self.messages.append(
                Message("assistant", outcome.text, event.request_id, _int(event.get("ts")), interrupted=not outcome.ok)
            )

    def _queued(self, event: Event) -> None:
        self.queued[_item_id(event)] = event.fields

    def _unqueued(self, event: Event) -> None:
        self.queued.pop(_item_id(event), None)

    def _asked(self, event: Event) -> None:
        self.approvals[str(event.get("approval_id", ""))] = event.fields

    def _decided(self, event: Event) -> None:
        self.approvals.pop(str(event.get("approval_id", "")), None)


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
    if snapshot.turn is not None and snapshot.turn.get("request_id") == request_id:
        return None
    mine = [message for message in snapshot.messages if message.get("request_id") == request_id]
    for fields in mine:
        if fields.get("role") == "assistant":
            message = _message(fields)
            kind = "unknown" if message.interrupted else ""
            return Outcome(request_id, not message.interrupted, message.content, error_type=kind)
    if queued and not mine and snapshot.exists:
        return None
    return Outcome(request_id, False, "", "unknown", "the turn ended while its events could not be had")


def turn_of(fields: Mapping[str, Any]) -> RunningTurn:
    """Return the running turn of a snapshot."""
    tools = fields.get("tools")
    return RunningTurn(
        request_id=str(fields.get("request_id", "")),
        state=str(fields.get("state", "accepted")),
        attempt=_int(fields.get("attempt"), 1),
        text=str(fields.get("text") or ""),
        thinking=str(fields.get("thinking") or ""),
        tools=[
            ToolUse(
                tool_call_id=str(tool.get("tool_call_id", "")),
                tool_name=str(tool.get("tool_name", "")),
                args=tool.get("args"),
                output=tool.get("output"),
                success=tool.get("success"),
                round=_int(tool.get("round"), 1),
            )
            for tool in (tools if isinstance(tools, list) else [])
            if isinstance(tool, dict)
        ],
    )


def _message(fields: Mapping[str, Any]) -> Message:
    return Message(
        role=str(fields.get("role", "")),
        content=str(fields.get("content", "")),
        request_id=str(fields.get("request_id") or ""),
        ts=_int(fields.get("ts")),
        interrupted=bool(fields.get("interrupted")),
        id=str(fields.get("id", "")),
    )


def _int(value: object, default: int = 0) -> int:
    return value if isinstance(value, int) else default


def _item_id(event: Event) -> str:
    return str(event.get("item_id") or event.request_id)


def _running(turn: RunningTurn, event: Event) -> None:
    turn.state = "running"


def _iteration(turn: RunningTurn, event: Event) -> None:
    turn.state, turn.round = "running", _int(event.get("round"), turn.round)


def _text(turn: RunningTurn, event: Event) -> None:
    turn.state = "running"
    turn.text += event.delta


def _thinking(turn: RunningTurn, event: Event) -> None:
    turn.state = "running"
    turn.thinking += event.delta


def _tool_args(turn: RunningTurn, event: Event) -> None:
    tool = turn.tool(str(event.get("tool_call_id", "")))
    tool.tool_name = str(event.get("tool_name") or tool.tool_name)
    tool.args_text += event.delta


def _tool_call(turn: RunningTurn, event: Event) -> None:
    tool = turn.tool(str(event.get("tool_call_id", "")))
    tool.tool_name, tool.args = str(event.get("tool_name", "")), event.get("args")
    tool.round = _int(event.get("round"), turn.round)


def _tool_result(turn: RunningTurn, event: Event) -> None:
    tool = turn.tool(str(event.get("tool_call_id", "")))
    tool.tool_name = str(event.get("tool_name") or tool.tool_name)
    tool.output, tool.success = str(event.get("output", "")), bool(event.get("success", True))


def _restarted(turn: RunningTurn, event: Event) -> None:
    # What the lost worker said is void; with `kept_text`, only what it said behind its last finished step.
    turn.state, turn.attempt = "accepted", _int(event.get("attempt"), turn.attempt + 1)
    turn.text = turn.text[: _int(event.get("kept_text"))]
    if event.get("kept_offset") is None:
        turn.thinking, turn.round = "", 1
        turn.tools.clear()
    turn.tools = [tool for tool in turn.tools if tool.output is not None]


_TURN_EVENTS = {
    "inference_start": _running,
    "inference_heartbeat": _running,
    "iteration_start": _iteration,
    "text_delta": _text,
    "thinking_delta": _thinking,
    "tool_args_delta": _tool_args,
    "tool_call": _tool_call,
    "tool_result": _tool_result,
    "turn_restarted": _restarted,
}
_THREAD_EVENTS = {
    "chat_accepted": ThreadState._accepted,
    "chat_done": ThreadState._ended,
    "chat_error": ThreadState._ended,
    "queue_item_queued": ThreadState._queued,
    "queue_item_delivered": ThreadState._unqueued,
    "queue_item_removed": ThreadState._unqueued,
    "approval_request": ThreadState._asked,
    "approval_decided": ThreadState._decided,
}
