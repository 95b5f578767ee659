"""Deliveries: how a turn came from the log to the sockets of a node, as one span of the turn's trace.

The way back of a trace. A node that has members in a thread takes down two moments of each turn, its first text and its
end, and makes the span when both are known. A delta beside these costs the look at an empty set.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from backplane.connection import Backplane
from backplane.errors import ThreadlineError
from backplane.events import INFERENCE_START, TERMINAL, TEXT_DELTA, Event
from backplane.ids import ThreadRef
from backplane.traces import NODE, Value, of_turn, restored
from gateway.latency import appended


@dataclass(slots=True)
class _Moment:
    """When something was written to the sockets, and how long after its append."""

    at: int
    """Unix nanoseconds."""
    late_ms: float


@dataclass(slots=True)
class _Turn:
    """A turn that members of this node watch."""

    began: int
    first_text: _Moment | None = None


class Deliveries:
    """Follows what one room sends."""

    def __init__(self, backplane: Backplane, ref: ThreadRef) -> None:
        self._backplane = backplane
        self._ref = ref
        self._turns: dict[str, _Turn] = {}
        self._silent: set[str] = set()
        self._telling: set[asyncio.Task[None]] = set()

    def sent(self, event: Event, members: int) -> None:
        """Take down that an event was written to so many members just now."""
        if event.name == TEXT_DELTA:
            if self._silent:
                self._spoken(event, members)
        elif event.name == INFERENCE_START:
            turn = self._turns.setdefault(event.request_id, _Turn(time.time_ns()))
            if turn.first_text is None:
                self._silent.add(event.request_id)
        elif event.name in TERMINAL:
            self._ended(event, members)

    def _spoken(self, event: Event, members: int) -> None:
        if event.request_id in self._silent and members:
            self._silent.discard(event.request_id)
            self._turns[event.request_id].first_text = self._now(event)

    def _ended(self, event: Event, members: int) -> None:
        self._silent.discard(event.request_id)
        end = self._now(event)
        # a room that was joined in the middle has not seen the beginning
        turn = self._turns.pop(event.request_id, None) or _Turn(end.at - round(end.late_ms * 1e6))
        if members:
            task = asyncio.create_task(self._tell(event.request_id, turn, end, members), name=f"deliver-{self._ref}")
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    def _now(self, event: Event) -> _Moment:
        at = appended(event)
        late = 0.0 if at is None else max(0.0, self._backplane.members.clock.now() - at)
        return _Moment(time.time_ns(), round(late * 1000, 3))

    async def _tell(self, request_id: str, turn: _Turn, end: _Moment, members: int) -> None:
        try:
            line = await self._backplane.turns.trace(self._ref, request_id)
        except ThreadlineError:
            return  # a span is not worth asking again
        if not line:
            return
        about: dict[str, Value] = of_turn(self._ref, request_id) | {
            NODE: self._backplane.settings.node_id,
            "threadline.members": members,
            "threadline.end_late_ms": end.late_ms,
        }
        if turn.first_text is not None:
            about["threadline.first_text_late_ms"] = turn.first_text.late_ms
        span = self._backplane.traces.start("deliver", about, parent=restored(line), at=turn.began)
        if turn.first_text is not None:
            span.add_event("first_text", timestamp=turn.first_text.at)
        span.end(end.at)
