"""A thread as a person sees it, folded from snapshots and events. No I/O: feed it what a stream yields.

state = ThreadState()
async for item in events:
    state.apply(item)

The TypeScript client folds the same: tests/clients/sequences holds sequences and the ends that both must come to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from threadline_client.events import Event, Snapshot

if TYPE_CHECKING:
    from threadline_client.connection import NodeChange

MOST_BESIDE = 16
"""Finished parallel turns that are kept to be read; no history holds them."""
_LANES = ("steer", "followup", "collect")


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
class Message:
    """One message of the conversation."""

    role: str
    content: str
    request_id: str = ""
    ts: int = 0
    """Unix time in milliseconds, from the server's clock."""
    interrupted: bool = False
    """True when the answer stopped in the middle (cancelled, superseded, failed)."""
    id: int | None = None
    """Its number in the history; None for a message that came as an event."""
    steer: bool = False
    """True for a message that went into a turn that was running."""
    context: bool = False
    """True for a message that was collected as context of a turn."""
    thinking: str = ""
    """The reasoning, as far as this client saw it: the history does not hold it."""
    tools: list[ToolUse] = field(default_factory=list)
    """The tools, as far as this client saw them: the history does not hold them."""
    error_type: str = ""
    """Why an answer was interrupted, if this client saw it."""
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _Kept:
    offset: int
    round: int
    text: str
    thinking: str
    tools: tuple[ToolUse, ...]


@dataclass(slots=True)
class RunningTurn:
    """A turn, and what it has said so far."""

    request_id: str
    state: str = "ready"
    """`ready`: no worker has it; `running`; `waiting` for a person; a parallel one also `done` or `failed`."""
    lane: str = ""
    """`parallel`, or the lane it waited in, or empty."""
    message: str = ""
    """The message that it answers, if this client saw it."""
    attempt: int = 1
    round: int = 1
    text: str = ""
    thinking: str = ""
    tools: list[ToolUse] = field(default_factory=list)
    error_type: str = ""
    kept: _Kept | None = field(default=None, repr=False)
    """What stands if another attempt goes on behind the last finished step."""

    def tool(self, tool_call_id: str) -> ToolUse:
        """Return the call with this id, made if it is new."""
        for tool in self.tools:
            if tool.tool_call_id == tool_call_id:
                return tool
        tool = ToolUse(tool_call_id)
        self.tools.append(tool)
        return tool


@dataclass(frozen=True, slots=True)
class QueueItem:
    """A message that waits in a lane."""

    item_id: str
    lane: str
    position: int
    """1 is next."""
    preview: str = ""


@dataclass(frozen=True, slots=True)
class Approval:
    """A request for a decision that waits for one."""

    approval_id: str
    request_id: str
    kind: str = "approval"
    options: tuple[str, ...] | None = None
    """What may be answered; None for any text."""
    tool_name: str = ""
    args: Mapping[str, Any] | None = None
    question: str = ""
    expires_at: int = 0
    """Unix milliseconds; then it is refused."""


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


class ThreadState:
    """Messages, running turns, and what waits, as of `epoch` and `offset`."""

    def __init__(self) -> None:
        self.exists = False
        self.epoch = ""
        self.offset = 0
        self.messages: list[Message] = []
        self.turn: RunningTurn | None = None
        """The primary turn that runs, or None."""
        self.parallel: list[RunningTurn] = []
        """Turns beside it, oldest first. One that has ended stays until `dismiss` or a snapshot: no history has it."""
        self.queue: list[QueueItem] = []
        """Messages that wait, lane by lane: steer, followup, collect."""
        self.approvals: list[Approval] = []
        """Requests that wait for a decision."""
        self.last: Outcome | None = None
        """How the last turn ended, if its end was seen."""
        self.degraded = False
        """Whether the gateway in use has lost Redis, as far as `node` was told."""

    @property
    def status(self) -> str:
        """`idle`, or the state of the primary turn."""
        return self.turn.state if self.turn else "idle"

    def apply(self, item: Event | Snapshot) -> None:
        """Change the state by one item of a stream. Unknown events move the cursor only."""
        self.epoch, self.offset = item.epoch, item.offset
        if isinstance(item, Snapshot):
            self._replace(item)
            return
        self.exists = True
        if item.name in _TURN_EVENTS:
            _TURN_EVENTS[item.name](self._turn_of(item), item)
        elif item.name in _THREAD_EVENTS:
            _THREAD_EVENTS[item.name](self, item)

    def node(self, change: NodeChange) -> None:
        """Take a change of the gateway in use, as `on_change` is given it."""
        self.degraded = change.state == "degraded"

    def dismiss(self, request_id: str) -> None:
        """Take a parallel turn that has ended out of `parallel`."""
        self.parallel = [turn for turn in self.parallel if turn.request_id != request_id or not _has_ended(turn)]

    def lanes(self, lanes: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Replace what waits by the `lanes` of a `queue:status`: a snapshot says nothing of them."""
        found = [
            QueueItem(str(item.get("item_id", "")), lane, 0, str(item.get("preview", "")))
            for lane in _LANES
            for item in lanes.get(lane, ())
        ]
        self.queue = _placed(found)

    def _find(self, request_id: str) -> RunningTurn | None:
        turns = [*self.parallel] if self.turn is None else [self.turn, *self.parallel]
        return next((turn for turn in turns if turn.request_id == request_id), None)

    def _turn_of(self, event: Event) -> RunningTurn:
        found = self._find(event.request_id)
        if found is None:
            # a stream that begins in the middle of a turn; beside another primary one it is not ours to show
            found = RunningTurn(event.request_id)
            self.turn = self.turn or found
        return found

    def _replace(self, snapshot: Snapshot) -> None:
        self.exists = snapshot.exists
        self.messages = [_message(fields) for fields in snapshot.messages]
        self.turn = None if snapshot.turn is None else turn_of(snapshot.turn)
        self.parallel = [replace(turn_of(fields), lane="parallel") for fields in snapshot.parallel]
        self.queue = []
        told = [*snapshot.parallel] if snapshot.turn is None else [snapshot.turn, *snapshot.parallel]
        self.approvals = [
            _approval(asked, str(fields.get("request_id", ""))) for fields in told for asked in _pending(fields)
        ]

    def _edited(self, event: Event) -> None:
        """Drop the message that was edited, and all behind it."""
        turns = [message.request_id for message in self.messages]
        if (edited := str(event.get("edited_request_id", ""))) in turns:
            del self.messages[turns.index(edited) :]

    def _accepted(self, event: Event) -> None:
        self._unqueue(event.request_id)
        text, lane = str(event.get("message", "")), str(event.get("lane") or "")
        turn = RunningTurn(event.request_id, lane=lane, message=text)
        if lane == "parallel":
            self.parallel = [other for other in self.parallel if other.request_id != turn.request_id] + [turn]
            return
        self.turn = turn
        self.messages.append(Message("user", text, event.request_id, _int(event.get("ts"))))

    def _ended(self, event: Event) -> None:
        turn = self._find(event.request_id)
        self.last = outcome = outcome_of(event, turn.text if turn else "")
        self.approvals = [asked for asked in self.approvals if asked.request_id != event.request_id]
        if turn is not None and turn is not self.turn:
            turn.state, turn.text = "done" if outcome.ok else "failed", outcome.text
            turn.error_type, turn.kept = outcome.error_type, None
            finished = [other for other in self.parallel if _has_ended(other)]
            for oldest in finished[: max(0, len(finished) - MOST_BESIDE)]:
                self.parallel.remove(oldest)
            return
        if outcome.text:
            self.messages.append(_answer(event, outcome, turn))
        if turn is not None:
            self.turn = None

    def _queued(self, event: Event) -> None:
        item_id, lane = _item_id(event), str(event.get("lane", "followup"))
        others = [item for item in self.queue if item.item_id != item_id]
        mine = [item for item in others if item.lane == lane]
        place = _int(event.get("position"), len(mine) + 1) - 1
        mine.insert(place, QueueItem(item_id, lane, place + 1, str(event.get("preview", ""))))
        self.queue = _placed([item for item in others if item.lane != lane] + mine)

    def _removed(self, event: Event) -> None:
        self._unqueue(_item_id(event))

    def _unqueue(self, item_id: str) -> None:
        self.queue = _placed([item for item in self.queue if item.item_id != item_id])

    def _delivered(self, event: Event) -> None:
        item_id, lane = _item_id(event), event.get("lane")
        self._unqueue(item_id)
        if event.get("into_request_id") is not None:
            text, ts = str(event.get("message", "")), _int(event.get("ts"))
            steer, context = lane == "steer", lane == "collect"
            self.messages.append(Message("user", text, item_id, ts, steer=steer, context=context))

    def _asked(self, event: Event) -> None:
        asked = _approval(event.fields, event.request_id)
        self.approvals = [other for other in self.approvals if other.approval_id != asked.approval_id] + [asked]
        turn = self._turn_of(event)
        _stepped(turn, event)
        turn.state = "waiting"

    def _decided(self, event: Event) -> None:
        self.approvals = [asked for asked in self.approvals if asked.approval_id != event.get("approval_id")]
        if all(asked.request_id != event.request_id for asked in self.approvals):
            self._turn_of(event).state = "running"


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
            message = _message(fields)
            kind = "unknown" if message.interrupted else ""
            return Outcome(request_id, not message.interrupted, message.content, error_type=kind)
    if any(fields.get("steer") or fields.get("context") for fields in mine):
        return Outcome(request_id, False, "", "delivered", "the message went into another turn")
    if queued and not mine and snapshot.exists:
        return None
    return Outcome(request_id, False, "", "unknown", "the turn ended while its events could not be had")


def turn_of(fields: Mapping[str, Any]) -> RunningTurn:
    """Return the running turn of a snapshot."""
    tools = fields.get("tools")
    return RunningTurn(
        request_id=str(fields.get("request_id", "")),
        state="waiting" if _pending(fields) else str(fields.get("state", "ready")),
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
    number = fields.get("id")
    return Message(
        role=str(fields.get("role", "")),
        content=str(fields.get("content", "")),
        request_id=str(fields.get("request_id") or ""),
        ts=_int(fields.get("ts")),
        interrupted=bool(fields.get("interrupted")),
        id=number if isinstance(number, int) else None,
        steer=bool(fields.get("steer")),
        context=bool(fields.get("context")),
    )


def _answer(event: Event, outcome: Outcome, turn: RunningTurn | None) -> Message:
    return Message(
        "assistant",
        outcome.text,
        event.request_id,
        _int(event.get("ts")),
        interrupted=not outcome.ok,
        thinking=turn.thinking if turn else "",
        tools=turn.tools if turn else [],
        error_type=outcome.error_type,
        usage=event.get("usage"),
    )


def _pending(turn: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    asked = turn.get("approvals")
    return [one for one in asked if one.get("state") == "pending"] if isinstance(asked, list) else []


def _approval(fields: Mapping[str, Any], request_id: str) -> Approval:
    options = fields.get("options")
    return Approval(
        approval_id=str(fields.get("approval_id", "")),
        request_id=request_id,
        kind=str(fields.get("kind", "approval")),
        options=tuple(options) if isinstance(options, list) else None,
        tool_name=str(fields.get("tool_name") or ""),
        args=fields.get("args"),
        question=str(fields.get("question") or ""),
        expires_at=_int(fields.get("expires_at")),
    )


def _has_ended(turn: RunningTurn) -> bool:
    return turn.state in ("done", "failed")


def _placed(items: list[QueueItem]) -> list[QueueItem]:
    """Return the items lane by lane, with their positions."""
    lanes = [[item for item in items if item.lane == lane] for lane in _LANES]
    return [replace(item, position=position) for lane in lanes for position, item in enumerate(lane, 1)]


def _int(value: object, default: int = 0) -> int:
    return value if isinstance(value, int) else default


def _item_id(event: Event) -> str:
    return str(event.get("item_id") or event.request_id)


def _started(turn: RunningTurn, event: Event) -> None:
    turn.state, turn.attempt = "running", _int(event.get("attempt"), turn.attempt)


def _alive(turn: RunningTurn, event: Event) -> None:
    if turn.state == "ready":
        turn.state = "running"


def _iteration(turn: RunningTurn, event: Event) -> None:
    turn.state, turn.round = "running", _int(event.get("round"), turn.round)


def _text(turn: RunningTurn, event: Event) -> None:
    turn.state = "running"
    turn.text += event.delta


def _thinking(turn: RunningTurn, event: Event) -> None:
    turn.state = "running"
    turn.thinking += event.delta


def _tool_of(turn: RunningTurn, event: Event) -> ToolUse:
    turn.state = "running"
    known = len(turn.tools)
    tool = turn.tool(str(event.get("tool_call_id", "")))
    tool.tool_name = str(event.get("tool_name") or tool.tool_name)
    if len(turn.tools) > known:
        tool.round = _int(event.get("round"), turn.round)
    return tool


def _tool_args(turn: RunningTurn, event: Event) -> None:
    _tool_of(turn, event).args_text += event.delta


def _tool_call(turn: RunningTurn, event: Event) -> None:
    tool = _tool_of(turn, event)
    tool.args, tool.round = event.get("args"), _int(event.get("round"), turn.round)


def _tool_result(turn: RunningTurn, event: Event) -> None:
    tool = _tool_of(turn, event)
    tool.output, tool.success = str(event.get("output", "")), bool(event.get("success", True))


def _stepped(turn: RunningTurn, event: Event) -> None:
    tools = tuple(replace(tool) for tool in turn.tools)  # copies: a result may come behind the step
    turn.kept = _Kept(event.offset, turn.round, turn.text, turn.thinking, tools)


def _restarted(turn: RunningTurn, event: Event) -> None:
    # What the lost worker said is void; with `kept_offset`, only what it said behind its last finished step.
    turn.state, turn.attempt = "ready", _int(event.get("attempt"), turn.attempt + 1)
    kept = turn.kept
    if event.get("kept_offset") is None:
        turn.text, turn.thinking, turn.round, turn.tools, turn.kept = "", "", 1, [], None
    elif kept is not None and kept.offset == event["kept_offset"]:
        turn.text, turn.thinking, turn.round = kept.text, kept.thinking, kept.round
        turn.tools = [replace(tool) for tool in kept.tools]
    else:
        # the step was done before this client came: the length of the text is told, the rest is as good as it gets
        turn.text = turn.text[: _int(event.get("kept_text"))]
        turn.tools = [tool for tool in turn.tools if tool.output is not None]


_TURN_EVENTS = {
    "inference_start": _started,
    "inference_heartbeat": _alive,
    "iteration_start": _iteration,
    "text_delta": _text,
    "thinking_delta": _thinking,
    "tool_args_delta": _tool_args,
    "tool_call": _tool_call,
    "tool_result": _tool_result,
    "step_done": _stepped,
    "turn_restarted": _restarted,
}
_THREAD_EVENTS = {
    "chat_accepted": ThreadState._accepted,
    "thread_edited": ThreadState._edited,
    "chat_done": ThreadState._ended,
    "chat_error": ThreadState._ended,
    "queue_item_queued": ThreadState._queued,
    "queue_item_delivered": ThreadState._delivered,
    "queue_item_removed": ThreadState._removed,
    "approval_request": ThreadState._asked,
    "approval_decided": ThreadState._decided,
}
