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

from threadline_client.events import Event, Snapshot, whole
from threadline_client.outcome import Outcome, outcome_of
from threadline_client.running import PROGRESS, RunningTurn, ToolUse, pending, stepped, turn_of

if TYPE_CHECKING:
    from threadline_client.connection import NodeChange

MOST_BESIDE = 16
"""Finished parallel turns that are kept to be read; no history holds them."""
_LANES = ("steer", "followup", "collect")


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
    """Its number in the history; None for a message that came as an event: to edit that, name its `request_id`."""
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
        if item.name in PROGRESS:
            PROGRESS[item.name](self._turn_of(item), item)
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
            _approval(asked, str(fields.get("request_id", ""))) for fields in told for asked in pending(fields)
        ]

    def _edited(self, event: Event) -> None:
        """Drop the message that was edited, and all behind it."""
        turns, edited = [message.request_id for message in self.messages], event.get("edited_request_id")
        # not held: it stands before all that is held, for what is held reaches up to the newest message
        del self.messages[turns.index(edited) if edited in turns else 0 :]

    def _accepted(self, event: Event) -> None:
        self._unqueue(event.request_id)
        text, lane = str(event.get("message", "")), str(event.get("lane") or "")
        turn = RunningTurn(event.request_id, lane=lane, message=text)
        if lane == "parallel":
            self.parallel = [other for other in self.parallel if other.request_id != turn.request_id] + [turn]
            return
        self.turn = turn
        self.messages.append(Message("user", text, event.request_id, whole(event.get("ts"))))

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
        place = whole(event.get("position"), len(mine) + 1) - 1
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
            text, ts = str(event.get("message", "")), whole(event.get("ts"))
            steer, context = lane == "steer", lane == "collect"
            self.messages.append(Message("user", text, item_id, ts, steer=steer, context=context))

    def _asked(self, event: Event) -> None:
        asked = _approval(event.fields, event.request_id)
        self.approvals = [other for other in self.approvals if other.approval_id != asked.approval_id] + [asked]
        turn = self._turn_of(event)
        stepped(turn, event)
        turn.state = "waiting"

    def _decided(self, event: Event) -> None:
        self.approvals = [asked for asked in self.approvals if asked.approval_id != event.get("approval_id")]
        if all(asked.request_id != event.request_id for asked in self.approvals):
            self._turn_of(event).state = "running"


def _message(fields: Mapping[str, Any]) -> Message:
    number = fields.get("id")
    return Message(
        role=str(fields.get("role", "")),
        content=str(fields.get("content", "")),
        request_id=str(fields.get("request_id") or ""),
        ts=whole(fields.get("ts")),
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
        whole(event.get("ts")),
        interrupted=not outcome.ok,
        thinking=turn.thinking if turn else "",
        tools=turn.tools if turn else [],
        error_type=outcome.error_type,
        usage=event.get("usage"),
    )


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
        expires_at=whole(fields.get("expires_at")),
    )


def _has_ended(turn: RunningTurn) -> bool:
    return turn.state in ("done", "failed")


def _placed(items: list[QueueItem]) -> list[QueueItem]:
    """Return the items lane by lane, with their positions."""
    lanes = [[item for item in items if item.lane == lane] for lane in _LANES]
    return [replace(item, position=position) for lane in lanes for position, item in enumerate(lane, 1)]


def _item_id(event: Event) -> str:
    return str(event.get("item_id") or event.request_id)


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
