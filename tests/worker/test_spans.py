"""Each attempt of a turn goes on in the trace of its start, and the agent's work stands below it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from backplane.connection import Backplane
from backplane.ids import thread_ref
from backplane.settings import Policy
from backplane.traces import received, within
from backplane.turns import Start
from tests.support.spans import CALLER, TRACE_ID, Spans, about, above, span_id, trace_id
from tests.support.threads import Thread
from tests.support.waiting import wait_until
from tests.support.working import working
from worker.turn import AgentError, AgentEvent, Iteration, ToolCall, ToolResult, Turn, Usage

REF = thread_ref("t")
WORDS = "a private sentence"


@pytest.fixture
def spans(backplane: Backplane) -> Spans:
    """Return where the spans of the test's backplane go."""
    spans = Spans()
    backplane.traces = spans.traces
    return spans


async def start(backplane: Backplane, policy: Policy = "retry") -> str:
    """Start a turn in the caller's trace."""
    with within(received(CALLER)):
        return (await backplane.turns.start(REF, Start(WORDS, "ann", "sid", policy=policy))).request_id


def outcomes(spans: Spans) -> list[tuple[object, object]]:
    """Return the attempts that have ended: which, and how."""
    attempts = spans.named("process turns")
    return [(about(span, "threadline.attempt"), about(span, "threadline.outcome")) for span in attempts]


async def test_an_attempt_goes_on_in_the_trace_of_its_start(backplane: Backplane, spans: Spans) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
        yield WORDS
        yield Usage(3, 5, "small")

    async with working(backplane, agent):
        request_id = await start(backplane)
        attempt = await spans.one("process turns")
    (sent,), (waited,) = spans.named("send turns"), spans.named("receive turns")
    (run,) = spans.named(f"invoke_agent {backplane.settings.agent}")
    assert {trace_id(span) for span in spans.all} == {TRACE_ID}
    assert above(waited) == above(attempt) == span_id(sent)
    assert above(run) == span_id(attempt)
    assert (attempt.kind, about(attempt, "threadline.attempt")) == (SpanKind.CONSUMER, 1)
    assert about(attempt, "threadline.node_id") == backplane.settings.node_id
    assert {about(span, "threadline.request_id") for span in spans.all} == {request_id}
    assert outcomes(spans) == [(1, "done")]
    assert about(run, "gen_ai.usage.output_tokens") == 5
    assert about(run, "gen_ai.response.model") == "small"
    assert [event.name for event in run.events] == ["first_text"]
    assert WORDS not in spans.text()


async def test_rounds_and_tools_stand_below_the_agent_and_deltas_make_no_span(
    backplane: Backplane, spans: Spans
) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
        yield Iteration(1)
        for word in range(100):
            yield f"{word} "
        yield ToolCall("search", {"text": WORDS}, "c1", 1)
        yield ToolCall(WORDS, {}, "c2", 1)
        yield ToolResult("search", WORDS, "c1", success=False)
        yield Iteration(2)
        yield "done"

    async with working(backplane, agent):
        await start(backplane)
        await spans.one("process turns")
    first, second = spans.named("round")
    (search,), (unknown,) = spans.named("execute_tool search"), spans.named("execute_tool")
    (run,) = spans.named(f"invoke_agent {backplane.settings.agent}")
    assert above(first) == above(second) == span_id(run)
    assert above(search) == above(unknown) == span_id(first)
    assert (about(first, "threadline.round"), about(second, "threadline.round")) == (1, 2)
    assert about(search, "gen_ai.tool.call.id") == "c1"
    assert not search.status.is_ok
    assert len(spans.all) == 8
    assert WORDS not in spans.text()


async def test_what_an_agent_traces_by_itself_stands_below_its_own_span_and_below_its_steps(
    backplane: Backplane, spans: Spans
) -> None:
    """Also in tasks and threads that it starts."""

    def library(name: str) -> None:
        spans.traces.start(name, {}).end()

    async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
        library("direct")
        yield Iteration(1)
        library("behind a round")
        await asyncio.create_task(asyncio.to_thread(library, "in a thread"))
        await turn.step("pay", library, "in a step")
        library("behind a step")
        yield "done"

    async with working(backplane, agent):
        await start(backplane)
        await spans.one("process turns")
    (run,), (step,) = spans.named(f"invoke_agent {backplane.settings.agent}"), spans.named("step pay")
    for name in ("direct", "behind a round", "in a thread", "behind a step", "step pay"):
        assert above(spans.named(name)[0]) == span_id(run), name
    assert above(spans.named("in a step")[0]) == span_id(step)
    assert about(step, "threadline.step") == "pay"


async def test_a_turn_that_is_parked_goes_on_as_another_attempt_of_the_same_trace(
    backplane: Backplane, spans: Spans
) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
        await turn.step("look", lambda: 1)
        yield str(await turn.ask("Which?"))

    async with working(backplane, agent):
        await start(backplane, "resume")
        await wait_until(lambda: outcomes(spans) == [(1, "parked")], "the turn leaves its slot")
        await Thread(backplane, REF).decide("this")
        await wait_until(lambda: outcomes(spans) == [(1, "parked"), (2, "done")], "the turn ends")
    assert {trace_id(span) for span in spans.all if span.name != "approval:decide"} == {TRACE_ID}
    assert len(spans.named("step look")) == 1, "what was recorded is not done again"
    again = spans.named(f"invoke_agent {backplane.settings.agent}")[1]
    assert next(event.name for event in again.events) == "step_recorded_before"


async def test_a_turn_that_is_handed_back_says_so(open_backplane: Any, spans: Spans, backplane: Backplane) -> None:
    begun = asyncio.Event()

    async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
        yield "a"
        begun.set()
        await asyncio.Event().wait()

    async with open_backplane(drain_grace=0.05) as stopping:
        stopping.traces = spans.traces
        async with working(stopping, agent):
            await start(backplane)
            await begun.wait()
    assert outcomes(spans) == [(1, "handed_back")]


Failing = Callable[[], Exception]


@pytest.mark.parametrize(
    ("failing", "kind"),
    [
        (lambda: AgentError(WORDS, error_type="rate_limited"), "rate_limited"),
        (lambda: AgentError("no", error_type=WORDS), "AgentError"),
        (lambda: ValueError(WORDS), "ValueError"),
    ],
)
async def test_a_failure_is_told_by_its_kind_alone(
    backplane: Backplane, spans: Spans, failing: Failing, kind: str
) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
        yield Iteration(1)
        yield ToolCall("search", {}, "c1")
        raise failing()

    async with working(backplane, agent):
        await start(backplane)
        attempt = await spans.one("process turns")
    (run,) = spans.named(f"invoke_agent {backplane.settings.agent}")
    assert about(run, "error.type") == kind
    assert outcomes(spans) == [(1, "failed")]
    assert not attempt.status.is_ok
    assert len(spans.named("round")) == len(spans.named("execute_tool search")) == 1, "what was open is ended"
    assert WORDS not in spans.text()


async def test_a_cancelled_turn_is_no_failure(backplane: Backplane, spans: Spans) -> None:
    begun = asyncio.Event()

    async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
        yield "a"
        begun.set()
        await asyncio.Event().wait()

    async with working(backplane, agent):
        await start(backplane)
        await begun.wait()
        await Thread(backplane, REF).cancel()
        attempt = await spans.one("process turns")
    assert outcomes(spans) == [(1, "cancelled")]
    assert attempt.status.is_ok


async def test_tools_that_never_return_are_bounded(backplane: Backplane, spans: Spans) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
        for number in range(200):
            yield ToolCall("search", {}, f"c{number}")

    async with working(backplane, agent):
        await start(backplane)
        await spans.one("process turns")
    assert len(spans.named("execute_tool search")) == 64


async def test_without_traces_a_callers_context_still_reaches_what_the_agent_calls(backplane: Backplane) -> None:
    found: list[str] = []

    async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
        yield Iteration(1)
        found.append(f"{trace.get_current_span().get_span_context().trace_id:032x}")
        yield "done"

    async with working(backplane, agent):
        await start(backplane)
        await wait_until(lambda: found != [], "the agent runs")
    assert found == [TRACE_ID]


async def test_every_line_that_is_logged_within_a_turn_names_its_thread_and_its_request(backplane: Backplane) -> None:
    found: list[dict[str, Any]] = []

    async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
        found.append(structlog.contextvars.get_contextvars())
        yield "done"

    async with working(backplane, agent):
        request_id = await start(backplane)
        await wait_until(lambda: found != [], "the agent runs")
    assert found == [{"thread_id": "t", "request_id": request_id, "fence": 1}]
    assert structlog.contextvars.get_contextvars() == {}
