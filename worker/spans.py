"""The spans of an attempt: its wait in the queue, its time in a slot, its agent, and the agent's rounds and tools.

The agent's own span is the current one while it runs, and a step's while that runs: what the libraries of an agent
trace by themselves stands below. Names and attributes are those of OpenTelemetry's conventions for messaging and for
generative AI, as far as they have any. There is no span for a delta, and none for what an earlier attempt has done.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode

from backplane.connection import Backplane
from backplane.traces import ATTEMPT, NODE, Traces, Value, of_queue, of_turn, restored
from backplane.turns import Claim
from worker.turn import AgentEvent, Iteration, ToolCall, ToolResult, Turn, Usage

OUTCOME, ROUND, STEP = "threadline.outcome", "threadline.round", "threadline.step"
_MOST_OPEN = 64
"""Tools at once that have a span, so that calls which never return are bounded."""
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
"""A name that an author gave. A model may call a tool that is none, by any text."""
_FAILED = frozenset({"failed", "crashed"})


@contextmanager
def attempt(backplane: Backplane, claim: Claim) -> Iterator[Span]:
    """Do the block as an attempt of a turn, in the trace that its start began; its wait until now is told first."""
    parent, wait = restored(claim.trace), max(0.0, backplane.members.clock.now() - claim.ready_at / 1000)
    about: dict[str, Value] = {ATTEMPT: claim.fence, NODE: backplane.settings.node_id}
    received = of_queue("receive", claim.ref, claim.request_id) | about
    # ended at once: of an attempt whose worker is killed, this is what remains
    began = time.time_ns() - round(wait * 1e9)
    backplane.traces.start("receive turns", received, SpanKind.CLIENT, parent, began).end()
    processed = of_queue("process", claim.ref, claim.request_id) | about | {"threadline.policy": claim.policy}
    with backplane.traces.span("process turns", processed, SpanKind.CONSUMER, parent) as span:
        yield span


def note_outcome(span: Span, outcome: str) -> None:
    """Write what became of an attempt: done, failed, cancelled, fenced, handed_back, parked or crashed."""
    span.set_attribute(OUTCOME, outcome)
    if outcome in _FAILED:
        span.set_status(StatusCode.ERROR)


class AgentSpans:
    """What an agent does, as spans below its own."""

    def __init__(self, traces: Traces, claim: Claim, name: str) -> None:
        self._traces = traces
        self._turn = of_turn(claim.ref, claim.request_id)
        self._name = name
        self._own: Span = trace.INVALID_SPAN
        self._below = Context()
        self._round: Span | None = None
        self._tools: dict[str, Span] = {}

    @contextmanager
    def running(self, turn: Turn) -> Iterator[None]:
        """Run the agent in this block, within its span."""
        about = self._turn | {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": self._name}
        about["gen_ai.conversation.id"] = turn.thread_id
        if turn.model:
            about["gen_ai.request.model"] = turn.model
        with self._traces.span(f"invoke_agent {self._name}", about) as span:
            self._own, self._below = span, trace.set_span_in_context(span)
            try:
                yield
            finally:
                self._close()

    def first_text(self) -> None:
        """Note that the answer has begun."""
        self._own.add_event("first_text")

    def used(self, usage: Usage) -> None:
        """Note what the turn has cost so far."""
        self._own.set_attributes(
            {"gen_ai.usage.input_tokens": usage.input_tokens, "gen_ai.usage.output_tokens": usage.output_tokens}
        )
        if usage.model:
            self._own.set_attribute("gen_ai.response.model", usage.model)

    def take(self, event: AgentEvent) -> None:
        """Follow what the agent says of itself: rounds, and tools with their results."""
        if not self._own.is_recording():
            return
        if isinstance(event, Iteration):
            if self._round is not None:
                self._round.end()
            self._round = self._traces.start("round", self._turn | {ROUND: event.round}, parent=self._below)
        elif isinstance(event, ToolCall):
            self._called(event)
        elif isinstance(event, ToolResult) and (tool := self._tools.pop(event.tool_call_id, None)) is not None:
            if not event.success:
                tool.set_status(StatusCode.ERROR)
            tool.end()

    def _called(self, call: ToolCall) -> None:
        if call.tool_call_id in self._tools or len(self._tools) >= _MOST_OPEN:
            return
        about = self._turn | {"gen_ai.operation.name": "execute_tool", ROUND: call.round}
        name = "execute_tool"
        if _NAME.fullmatch(call.tool_name):
            name, about["gen_ai.tool.name"] = f"{name} {call.tool_name}", call.tool_name
        if _NAME.fullmatch(call.tool_call_id):
            about["gen_ai.tool.call.id"] = call.tool_call_id
        below = self._below if self._round is None else trace.set_span_in_context(self._round)
        self._tools[call.tool_call_id] = self._traces.start(name, about, parent=below)

    def _close(self) -> None:
        for span in (*self._tools.values(), *([] if self._round is None else [self._round])):
            span.end()
        self._tools.clear()
        self._round = None
