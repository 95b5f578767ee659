"""Pydantic AI: an agent of that framework as an agent of Threadline.

Needs the extra `threadline[pydantic-ai]`. Each answer of the model and each result of a tool is a step, so another
attempt does neither twice. A tool that needs approval asks the person.

Source: https://ai.pydantic.dev/capabilities/, https://ai.pydantic.dev/deferred-tools/
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from types import MappingProxyType
from typing import Any

import structlog

try:
    import pydantic_ai
except ModuleNotFoundError as error:
    if error.name != "pydantic_ai":
        raise
    raise ImportError(
        "worker.agents.pydantic_ai needs Pydantic AI, which is not installed; "
        "run: pip install 'threadline[pydantic-ai]'"
    ) from error
from pydantic_ai import exceptions, messages
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults, ToolDenied

from backplane.events import dumps
from worker.agents.history import as_model_reads, from_a_question
from worker.agents.provider_errors import provider_error
from worker.agents.records import recorded, said_before, tool_step
from worker.agents.words import as_text, refusal
from worker.turn import (
    Agent,
    AgentError,
    AgentEvent,
    Iteration,
    Message,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
    ToolResult,
    Turn,
    Usage,
)

_log = structlog.get_logger("worker.agents.pydantic_ai")
_MESSAGES = messages.ModelMessagesTypeAdapter

ERRORS: Mapping[type[Exception], str] = MappingProxyType(
    {
        # the first that fits counts, so what is special stands above what is general
        exceptions.ModelQuotaExceededError: "quota_exceeded",
        exceptions.ModelRateLimitError: "rate_limited",
        exceptions.ModelAuthenticationError: "auth",
        exceptions.ModelNotFoundError: "model_not_found",
        exceptions.ModelContextWindowExceededError: "context_length",
        exceptions.ModelRequestRejectedError: "invalid_request",
        exceptions.ModelTimeoutError: "provider_timeout",
        exceptions.ModelRequestTimeout: "provider_timeout",
        exceptions.ModelAPIError: "provider_unavailable",
        exceptions.ContentFilterError: "content_filter",
        exceptions.UnexpectedModelBehavior: "invalid_response",
        exceptions.UsageLimitExceeded: "max_iterations",
        exceptions.RunTimedOut: "provider_timeout",
    }
)


def make_agent(
    agent: pydantic_ai.Agent[Any, Any], options: Callable[[Turn], Mapping[str, Any]] = lambda turn: {}
) -> Agent:
    """Return an agent of Threadline that runs one of Pydantic AI.

    Args:
        agent: what answers; its tools, instructions and output type count.
        options: further arguments of `agent.iter` for a turn, such as `deps`, `model` or `usage_limits`.
    """

    async def answer(turn: Turn) -> AsyncIterator[str | AgentEvent]:
        journal = _Journal(turn)
        given: dict[str, Any] = {"message_history": as_messages(turn.history), **options(turn)}
        if turn.temperature is not None:
            given.setdefault("model_settings", {"temperature": turn.temperature})
        given["capabilities"] = [*given.get("capabilities", ()), journal]
        number, translate = 0, _Round(0)
        with _provider_errors():
            async with agent.iter(turn.message, **given) as run:
                async for node in run:
                    if asked := pydantic_ai.Agent.is_model_request_node(node):
                        if number:
                            wishes = [messages.UserPromptPart(wish) for wish in await turn.steers()]
                            node.request.parts = [*node.request.parts, *wishes]
                        number += 1
                        translate = _Round(number)
                        journal.begin(number)
                        yield Iteration(number)
                    async with aclosing(_streamed(node, run, translate)) as pieces:
                        async for piece in pieces:
                            if not (journal.has_said(piece) or (asked and journal.said_before)):
                                yield piece
                    if asked:
                        yield Usage(run.usage.input_tokens, run.usage.output_tokens, journal.answer.model_name or "")
            if run.result is not None and not _spoken(journal.answer):
                yield as_text(run.result.output)

    return answer


async def _streamed(node: Any, run: Any, translate: _Round) -> AsyncGenerator[AgentEvent]:
    if pydantic_ai.Agent.is_model_request_node(node) or pydantic_ai.Agent.is_call_tools_node(node):
        stream: Any
        async with node.stream(run.ctx) as stream:
            async for event in stream:
                for piece in translate.feed(event):
                    yield piece


def as_messages(history: Sequence[Message]) -> list[messages.ModelMessage]:
    """Return the history of a thread as Pydantic AI's."""
    return [
        messages.ModelRequest(parts=[messages.UserPromptPart(content=message.content)])
        if message.role == "user"
        else messages.ModelResponse(parts=[messages.TextPart(content=as_model_reads(message))])
        for message in from_a_question(history)
    ]


class _Journal(AbstractCapability[Any]):
    """Records what the run does as steps of the turn, and asks the person what it must ask."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self.answer = messages.ModelResponse(parts=[])
        """The model's last answer."""
        self.said_before = False
        """Whether that answer was said in an earlier attempt whose words stand."""
        self._number = 0
        self._results: set[str] = set()
        """The calls of this round whose results were said inside of their steps."""

    def begin(self, number: int) -> None:
        """Begin a round of the model and its tools."""
        self._number = number
        self._results.clear()

    def has_said(self, piece: AgentEvent) -> bool:
        """Tell whether a tool's result was said inside of its step, here or in an earlier attempt."""
        return isinstance(piece, ToolResult) and piece.tool_call_id in self._results

    async def wrap_model_request(self, ctx: Any, *, request_context: Any, handler: Any) -> messages.ModelResponse:
        """Ask the model, unless an earlier attempt has."""

        async def ask() -> Any:
            self.said_before = False  # its words come while it is asked
            self.answer = await handler(request_context)
            return _MESSAGES.dump_python([self.answer], mode="json")

        kept, ran = await recorded(self._turn, "model", ask)
        if not ran:
            [answer] = _MESSAGES.validate_python(kept)
            assert isinstance(answer, messages.ModelResponse)
            self.answer = answer
        self.said_before = said_before(self._turn, ran)
        return self.answer

    async def wrap_tool_execute(
        self, ctx: Any, *, call: messages.ToolCallPart, tool_def: Any, args: Any, handler: Any
    ) -> Any:
        """Run the tool, unless an earlier attempt has."""

        refused: Exception | None = None

        async def run() -> Any:
            nonlocal refused
            try:
                done = _as_record(call, await handler(args))
            except Exception as error:
                refused = error
                done = _as_refusal(error)
            if self._turn.policy == "resume":
                # Calls run beside each other: said behind its step, this might stand already or not when the last of
                # their steps ends, and another attempt could not know.
                await self._turn.say(_Round(self._number).result(_as_part(call, done)))
            return done

        kept, _ = await recorded(self._turn, tool_step(call.tool_name, call.tool_call_id), run)
        if self._turn.policy == "resume":
            self._results.add(call.tool_call_id)
        if refused is not None:
            raise refused
        return _from_record(kept)

    async def handle_deferred_tool_calls(
        self, ctx: Any, *, requests: DeferredToolRequests
    ) -> DeferredToolResults | None:
        """Ask the person, one call after the other, in the order of the calls."""
        decided: dict[str, bool | Any] = {}
        for call in requests.approvals:
            decision = await self._turn.approve(call.tool_name, call.args_as_dict())
            decided[call.tool_call_id] = decision.approved or ToolDenied(refusal(decision))
        return requests.build_results(approvals=decided) if decided else None


def _as_record(call: messages.ToolCallPart, result: Any) -> dict[str, Any]:
    """Return a tool's result as JSON: as a message, the form in which every result can be stored."""
    told: Any = None
    metadata: Any = None
    if isinstance(result, messages.ToolReturn):
        result, told, metadata = result.return_value, result.content, result.metadata
    part = messages.ToolReturnPart(call.tool_name, result, call.tool_call_id, metadata=metadata)
    parts: list[Any] = [part] if told is None else [part, messages.UserPromptPart(told)]
    return {"done": _MESSAGES.dump_python([messages.ModelRequest(parts)], mode="json")}


def _as_refusal(error: Exception) -> dict[str, Any]:
    """Return as JSON that a tool refused, which is an outcome like any other: the model has acted on it.

    Raises:
        Exception: the error itself, when the tool broke.
    """
    for cause in (error, error.__cause__):  # the framework wraps what a tool raises
        if isinstance(cause, exceptions.ModelRetry):
            return {"retry": cause.message}
        if isinstance(cause, exceptions.ToolFailed):
            return {"failed": cause.message}
    raise error


def _as_part(call: messages.ToolCallPart, kept: dict[str, Any]) -> messages.BaseToolReturnPart[Any]:
    """Return a recorded outcome as the framework tells it to the model."""
    if "retry" in kept:
        return messages.ToolReturnPart(call.tool_name, kept["retry"], call.tool_call_id, outcome="retried")
    if "failed" in kept:
        return messages.ToolReturnPart(call.tool_name, kept["failed"], call.tool_call_id, outcome="failed")
    [request] = _MESSAGES.validate_python(kept["done"])
    part = request.parts[0]
    assert isinstance(part, messages.ToolReturnPart)
    return part


def _from_record(kept: dict[str, Any]) -> Any:
    if "retry" in kept:
        raise exceptions.ModelRetry(kept["retry"])
    if "failed" in kept:
        raise exceptions.ToolFailed(kept["failed"])
    [request] = _MESSAGES.validate_python(kept["done"])
    part, *told = request.parts
    assert isinstance(part, messages.ToolReturnPart)
    if not told and part.metadata is None:
        return part.content
    content = next((note.content for note in told if isinstance(note, messages.UserPromptPart)), None)
    return messages.ToolReturn(part.content, content=content, metadata=part.metadata)


class _Round:
    """One round of the model and its tools: what the framework tells, as what an agent yields."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._calls: dict[int, messages.BaseToolCallPart] = {}
        """The tool call that the model writes at an index of its answer."""

    def feed(self, event: Any) -> Iterator[AgentEvent]:
        """Yield what an event of the framework's stream means."""
        match event:
            case messages.PartStartEvent(index=index, part=part):
                yield from self._begun(index, part)
            case messages.PartDeltaEvent(index=index, delta=delta):
                yield from self._added(index, delta)
            case messages.ToolCallEvent(part=part):
                yield ToolCall(part.tool_name, _args(part), part.tool_call_id, self._number)
            case messages.ToolResultEvent(part=part):
                yield self.result(part)

    def _begun(self, index: int, part: Any) -> Iterator[AgentEvent]:
        match part:
            case messages.TextPart(content=text) if text:
                yield Text(text, self._number)
            case messages.ThinkingPart(content=text) if text:
                yield Thinking(text, self._number)
            case messages.ToolCallPart():
                self._calls[index] = part
                yield from self._written(index, part.args)
            case messages.NativeToolCallPart():  # the provider runs it, inside of its answer
                yield ToolCall(part.tool_name, _args(part), part.tool_call_id, self._number)
            case messages.NativeToolReturnPart():
                yield self.result(part)

    def _added(self, index: int, delta: Any) -> Iterator[AgentEvent]:
        match delta:
            case messages.TextPartDelta(content_delta=text):
                yield Text(text, self._number)
            case messages.ThinkingPartDelta(content_delta=str(text)):
                yield Thinking(text, self._number)
            case messages.ToolCallPartDelta(args_delta=args) if index in self._calls:
                yield from self._written(index, args)

    def _written(self, index: int, args: str | dict[str, Any] | None) -> Iterator[AgentEvent]:
        if args:
            call = self._calls[index]
            delta = args if isinstance(args, str) else dumps(args)
            yield ToolArgs(delta, call.tool_call_id, call.tool_name, self._number)

    def result(self, part: messages.BaseToolReturnPart[Any]) -> ToolResult:
        """Return what a tool has returned."""
        succeeded = part.outcome == "success"
        return ToolResult(part.tool_name, part.model_response_str(), part.tool_call_id, succeeded, self._number)


def _args(call: messages.BaseToolCallPart[Any]) -> dict[str, Any]:
    try:
        args = call.args_as_dict()
        dumps(args)
    except (ValueError, AssertionError, RecursionError):  # the model wrote no JSON object; the result says so
        return {}
    return args


def _spoken(answer: messages.ModelResponse) -> bool:
    return any(isinstance(part, messages.TextPart) and part.content for part in answer.parts)


@contextmanager
def _provider_errors() -> Iterator[None]:
    """Turn what the framework raises into an AgentError, without any of the provider's text."""
    try:
        yield
    except exceptions.FallbackExceptionGroup as group:
        raise _meant(group.exceptions[-1]) from group
    except exceptions.AgentRunError as error:
        raise _meant(error) from error


def _meant(error: Exception) -> AgentError:
    error_type = next((meant for kind, meant in ERRORS.items() if isinstance(error, kind)), "invalid_response")
    _log.warning("model failed", error=type(error).__name__, error_type=error_type)
    seconds = getattr(error, "retry_after", None)
    return provider_error(error_type, None if seconds is None else round(seconds * 1000))
