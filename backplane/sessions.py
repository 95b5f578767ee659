"""Sessions: what the agent remembers of a thread, and the snapshot for a client that has no usable cursor."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from backplane.errors import NotFound
from backplane.events import THINKING_DELTA, TOOL_CALL, TOOL_RESULT, Event, standing
from backplane.ids import ThreadRef
from backplane.log import Ancestry, decode_ancestry, decode_entries, no_such_thread

if TYPE_CHECKING:
    from backplane.connection import Backplane

Message = dict[str, Any]
"""`{id, ts, role, content, request_id, interrupted?, steer?, context?}`; ts in Unix milliseconds."""

PAGE_BYTES = 1024 * 1024
"""JSON of the messages that a client is given at once; but always one, which may be larger: up to `max_answer_bytes`.
Two hundred of the longest would hold up a node and all its clients, or fill it. Of a running turn, what its tools gave:
older outputs are replaced by a marker (lua/snapshot.lua)."""

_CACHED_SESSIONS = 256


def _decode(entries: Sequence[Any]) -> list[Message]:
    return [json.loads(fields[1]) for _, fields in reversed(entries)]


@dataclass(slots=True)
class RunningTurn:
    """The turn in flight, as far as it has come."""

    request_id: str
    lane: str
    """`parallel`, or the lane that it waited in; empty when it began at once."""
    state: str
    attempt: int
    text: str
    thinking: str = ""
    tools: list[dict[str, Any]] = field(default_factory=list)
    approvals: list[dict[str, Any]] = field(default_factory=list)
    """What it has asked a person, with what became of it."""
    position: int = 0
    """While it is ready: its place among all that wait for a worker, about; 1 is next, 0 when that is not known."""

    def fold(self, events: list[Event]) -> None:
        """Take in the turn's events other than text, which is kept whole beside the log."""
        thinking: list[str] = []
        tools: dict[str, dict[str, Any]] = {}
        for event in standing(events, self.request_id):
            fields = event.fields
            if event.name == THINKING_DELTA:
                thinking.append(fields["delta"])
            elif event.name == TOOL_CALL:
                names = ("tool_call_id", "tool_name", "args", "round")
                tools[fields["tool_call_id"]] = {name: fields[name] for name in names}
            elif event.name == TOOL_RESULT and fields["tool_call_id"] in tools:
                tools[fields["tool_call_id"]] |= {"output": fields["output"], "success": fields["success"]}
        self.thinking = "".join(thinking)
        self.tools = list(tools.values())

    def as_dict(self) -> dict[str, Any]:
        """Return `{request_id, lane, state, attempt, text, thinking, tools, approvals, position?}`."""
        found: dict[str, Any] = {
            "request_id": self.request_id,
            "lane": self.lane,
            "state": self.state,
            "attempt": self.attempt,
            "text": self.text,
            "thinking": self.thinking,
            "tools": self.tools,
            "approvals": self.approvals,
        }
        if self.position:
            found["position"] = self.position
        return found


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A thread as of one offset: its last messages and its running turns."""

    epoch: str
    offset: int
    messages: list[Message]
    turn: RunningTurn | None
    """The primary turn."""
    parallel: list[RunningTurn] = field(default_factory=list)
    ancestry: Ancestry = field(default_factory=dict)
    """What the log shares with older epochs."""

    @property
    def active(self) -> frozenset[str]:
        """The turns that have begun and not ended."""
        turns = self.parallel if self.turn is None else [self.turn, *self.parallel]
        return frozenset(turn.request_id for turn in turns)

    def as_dict(self) -> dict[str, Any]:
        """Return `{messages, turn, parallel}`, the snapshot of an acknowledgement."""
        return {
            "messages": self.messages,
            "turn": self.turn.as_dict() if self.turn else None,
            "parallel": [turn.as_dict() for turn in self.parallel],
        }


class SessionCache:
    """A worker's local copies of sessions, each valid only at its version, and in its epoch: a thread that was deleted
    and begun again counts its versions from the beginning.

    Entries are kept, found and dropped by the thread's one name, `ThreadRef`. The system that this began with
    changed the form of its keys and left the old form in the invalidation; here there is no second form.
    """

    def __init__(self, size: int = _CACHED_SESSIONS) -> None:
        self._size = size
        self._entries: OrderedDict[ThreadRef, tuple[str, int, list[Message]]] = OrderedDict()

    def get(self, ref: ThreadRef, epoch: str, version: int) -> list[Message] | None:
        """Return the messages, if the copy is of exactly this version of this epoch."""
        entry = self._entries.get(ref)
        if entry is None or entry[:2] != (epoch, version):
            return None
        self._entries.move_to_end(ref)
        return entry[2]

    def put(self, ref: ThreadRef, epoch: str, version: int, messages: list[Message]) -> None:
        """Keep a copy; the one used longest ago makes room."""
        self._entries[ref] = (epoch, version, messages)
        self._entries.move_to_end(ref)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def invalidate(self, ref: ThreadRef) -> None:
        """Forget a thread."""
        self._entries.pop(ref, None)

    def clear(self) -> None:
        """Forget every thread."""
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)


@dataclass(frozen=True, slots=True)
class Branch:
    """A part of the conversation as it was before an edit."""

    branch: str
    """Its name: the request id of the edit that made it old."""
    message_id: int
    """The first message that was cut off. Those before it are common."""
    created: int
    """When, Unix milliseconds."""

    def as_dict(self) -> dict[str, Any]:
        """Return `{branch, message_id, created}`."""
        return {"branch": self.branch, "message_id": self.message_id, "created": self.created}


class Sessions:
    """Reads sessions."""

    def __init__(self, backplane: Backplane) -> None:
        self._backplane = backplane

    async def history(
        self, ref: ThreadRef, *, subject: str = "", before: int = 0, most: int = 50
    ) -> tuple[int, list[Message]]:
        """Return `(session version, messages)`, oldest first; `before` is a message id, 0 for the newest.

        For a worker: nothing but `most` cuts what an agent is given.

        Raises:
            NotFound: when there is no such thread, or it is another's.
            Unavailable: when Redis did not answer.
        """
        version, messages, _ = await self.conversation(ref, subject=subject, before=before, most=most, bounded=False)
        return version, messages

    async def conversation(
        self,
        ref: ThreadRef,
        *,
        subject: str = "",
        before: int = 0,
        most: int = 50,
        branch: str = "",
        bounded: bool = True,
    ) -> tuple[int, list[Message], list[Branch]]:
        """Return `(session version, messages, what edits cut off)`, both of them oldest first.

        Args:
            ref: the thread.
            subject: who asks; empty for a worker.
            before: a message id: only older ones are returned; 0 for the newest.
            most: the most messages.
            branch: the conversation as it was before this edit; empty for how it stands.
            bounded: whether `PAGE_BYTES` count too.

        Raises:
            NotFound: when there is no such thread or branch, or it is another's.
            Unavailable: when Redis did not answer.
        """
        keys = self._backplane.keys.thread(ref)
        most_bytes = PAGE_BYTES if bounded else 0
        call = self._backplane.call(
            "history", ref, subject, before, most, branch, most_bytes, extra_keys=[keys.branches, keys.branch]
        )
        code, version, entries, cuts = await self._backplane.readings.run(call)
        if code == b"not_found":
            raise no_such_thread()
        if code == b"no_branch":
            raise NotFound("no such branch in this thread; its history without a branch names those that are kept")
        branches = [Branch(cuts[n].decode(), cuts[n + 1], int(cuts[n + 2])) for n in range(0, len(cuts), 3)]
        return version, _decode(entries), branches

    async def snapshot(self, ref: ThreadRef, *, subject: str, most: int = 50) -> Snapshot:
        """Return the thread as of its newest offset, read in one step.

        Raises:
            NotFound: when there is no such thread, or it is another's.
            Unavailable: when Redis did not answer.
        """
        code, epoch, top, messages, turns, entries, ancestry = await self._backplane.readings.run(
            self._backplane.call("snapshot", ref, subject, most, PAGE_BYTES)
        )
        if code == b"not_found":
            raise no_such_thread()
        events = decode_entries(entries)[::-1]
        primary, parallel = None, []
        for request, lane, state, attempt, text, asked in turns:
            turn = RunningTurn(request.decode(), lane.decode(), state.decode(), attempt, text.decode())
            turn.approvals = json.loads(asked)
            turn.fold(events)
            if turn.state == "ready":
                turn.position = await self._backplane.turns.place(ref, turn.request_id, subject)
            if turn.lane == "parallel":
                parallel.append(turn)
            else:
                primary = turn
        return Snapshot(epoch.decode(), top, _decode(messages), primary, parallel, decode_ancestry(ancestry))
