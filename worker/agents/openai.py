"""The OpenAI agent: a chat model at any OpenAI-compatible endpoint, in a loop with tools.

Needs the extra `threadline[openai]`. The SDK reads its usual variables (`OPENAI_API_KEY`,
`OPENAI_BASE_URL`, …); `OPENAI_MODEL` names the model of turns that name none.

Source: https://platform.openai.com/docs/api-reference/chat-streaming
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog

try:
    import openai
except ModuleNotFoundError as error:
    if error.name != "openai":
        raise
    raise ImportError(
        "worker.agents.openai needs the openai SDK, which is not installed; run: pip install 'threadline[openai]'"
    ) from error
from openai.types.chat import (
    ChatCompletionChunk,
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageParam,
)
from openai.types.chat.chat_completion_chunk import ChoiceDelta, ChoiceDeltaToolCall

from backplane.events import dumps
from worker.agents.history import as_model_reads, from_a_question
from worker.agents.openai_errors import as_agent_error
from worker.agents.provider_errors import provider_error
from worker.agents.tools import TOOLS, Tool, ToolFailure
from worker.turn import (
    Agent,
    AgentError,
    AgentEvent,
    Iteration,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
    ToolResult,
    Turn,
    Usage,
)

MAX_ITERATIONS = 10
"""Rounds of model and tools in one turn: enough for honest work, and a model in a loop is stopped."""
MAX_CALLS = 128
"""Tool calls of one round. The API takes at most 128 tools, so more calls than that are a model in a loop."""
MAX_ARGS = 256 * 1024
"""Characters of one tool call's arguments: as long as a message may be."""
INSTRUCTIONS = "You are a helpful assistant. Use the tools for arithmetic and for the current time."
BROKEN = frozenset({"abort", "error", "insufficient_system_resource"})
"""How an answer that broke off is finished: by vLLM; by Mistral and OpenRouter; by DeepSeek."""
CUT = "\n\n[The answer reached the model's length limit. Ask it to go on.]"

_log = structlog.get_logger("worker.agents.openai")
_LOCALE = re.compile(r"[A-Za-z0-9_-]{2,35}", re.ASCII)  # 35: the longest language tag of RFC 5646, 4.4.1


def make_agent(
    client_factory: Callable[[], openai.AsyncOpenAI] = openai.AsyncOpenAI,
    tools: Sequence[Tool] = TOOLS,
    max_iterations: int = MAX_ITERATIONS,
    instructions: str = INSTRUCTIONS,
) -> Agent:
    """Return an agent with its own client, tools and limits.

    Args:
        client_factory: called for each turn; the client is closed when the turn ends, whatever ends it.
        tools: what the model may call.
        max_iterations: rounds of model and tools before the turn ends with `max_iterations`.
        instructions: the system message.
    """
    by_name = {tool.name: tool for tool in tools}

    async def agent(turn: Turn) -> AsyncIterator[str | AgentEvent]:
        model = _model(turn)
        messages = _messages(turn, instructions)
        usage = Usage(model=model)
        async with _client(client_factory) as client:
            for number in range(1, max_iterations + 1):
                if number > 1:
                    messages += [{"role": "user", "content": wish} for wish in await turn.steers()]
                yield Iteration(number)
                answer = _Round(number)
                with _provider_errors():
                    # Leaving the block closes the HTTP stream: also when the turn is cancelled inside it.
                    async with await _request(client, turn, model, messages, tools) as stream:
                        async for chunk in stream:
                            for event in answer.feed(chunk):
                                yield event
                usage = answer.added_to(usage)
                yield usage
                for event in answer.end():
                    yield event
                if not answer.calls:
                    return
                for event in answer.tool_calls():
                    yield event
                results = await asyncio.gather(*(_run(by_name, call, number) for call in answer.calls))
                for result in results:
                    yield result
                messages += _as_messages(answer, results)
        raise AgentError(
            f"The model still wanted tools after {max_iterations} rounds. Ask for less at once.",
            error_type="max_iterations",
        )

    return agent


@contextmanager
def _provider_errors() -> Iterator[None]:
    """Turn what the SDK raises into an AgentError, without any of the provider's text."""
    try:
        yield
    except openai.OpenAIError as error:
        meant = as_agent_error(error)
        told = {name: getattr(error, name, None) for name in ("status_code", "code", "request_id")}
        # Not the provider's message: it may quote keys and prompts, also into a log.
        _log.warning("provider failed", error=type(error).__name__, error_type=meant.error_type, **told)
        raise meant from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:  # a stream that is not JSON
        raise provider_error("provider_unavailable") from error


async def _request(
    client: openai.AsyncOpenAI,
    turn: Turn,
    model: str,
    messages: list[ChatCompletionMessageParam],
    tools: Sequence[Tool],
) -> openai.AsyncStream[ChatCompletionChunk]:
    return await client.chat.completions.create(
        model=model,
        messages=messages,
        stream=True,
        stream_options={"include_usage": True},
        temperature=openai.omit if turn.temperature is None else turn.temperature,
        tools=[_as_param(tool) for tool in tools] or openai.omit,
    )


def _client(client_factory: Callable[[], openai.AsyncOpenAI]) -> openai.AsyncOpenAI:
    try:
        return client_factory()
    except Exception as error:  # no key, a malformed address, …: all of them are settings
        raise AgentError(
            "The model provider is not set up. The operator must set OPENAI_API_KEY, and OPENAI_BASE_URL "
            "for another endpoint.",
            error_type="auth",
            source="provider",
        ) from error


def _model(turn: Turn) -> str:
    model = turn.model or os.environ.get("OPENAI_MODEL")
    if not model:
        raise AgentError(
            "No model is named. Send `model` with the message, or the operator sets OPENAI_MODEL.",
            error_type="invalid_request",
        )
    return model


def _messages(turn: Turn, instructions: str) -> list[ChatCompletionMessageParam]:
    if turn.locale and _LOCALE.fullmatch(turn.locale):
        instructions += f" The person's locale is {turn.locale}."
    messages: list[ChatCompletionMessageParam] = [{"role": "system", "content": instructions}]
    for message in from_a_question(turn.history):
        if message.role == "user":
            messages.append({"role": "user", "content": message.content})
        else:
            messages.append({"role": "assistant", "content": as_model_reads(message)})
    messages.append({"role": "user", "content": turn.message})
    return messages


def _as_param(tool: Tool) -> ChatCompletionFunctionToolParam:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}  # type: ignore[typeddict-item]


@dataclass(slots=True)
class _Call:
    """One tool call, as far as the model has written it."""

    id: str
    name: str = ""
    text: str = ""

    def args(self) -> dict[str, Any]:
        """Return the arguments.

        Raises:
            ToolFailure: when the model did not write a JSON object that every reader accepts.
        """
        try:
            args = json.loads(self.text or "{}")
            if isinstance(args, dict):
                dumps(args)  # NaN, infinities and lone surrogates pass json.loads, but no log
                return args
        except (ValueError, RecursionError):
            pass
        raise ToolFailure("arguments: expected a JSON object, got something else; call again with JSON")


class _Round:
    """One answer of the model, put together from its chunks without any I/O."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.text = ""
        self.calls: list[_Call] = []
        self.finish_reason: str | None = None
        self._by_index: dict[int | None, _Call] = {}
        self._usage: tuple[int, int] = (0, 0)
        self._model = ""

    def feed(self, chunk: ChatCompletionChunk) -> Iterator[AgentEvent]:
        """Take one chunk and yield what it adds.

        Raises:
            AgentError: when it is JSON of another form, as a proxy or a failing endpoint may send it.
        """
        try:
            yield from self._feed(chunk)
        except (AttributeError, LookupError, TypeError, ValueError) as error:  # the SDK does not check what it reads
            raise provider_error("provider_unavailable") from error

    def _feed(self, chunk: ChatCompletionChunk) -> Iterator[AgentEvent]:
        self._model = chunk.model or self._model
        if chunk.usage:
            self._usage = (int(chunk.usage.prompt_tokens or 0), int(chunk.usage.completion_tokens or 0))
        for choice in chunk.choices or ():
            self.finish_reason = choice.finish_reason or self.finish_reason
            if choice.delta:
                yield from self._feed_delta(choice.delta)

    def _feed_delta(self, delta: ChoiceDelta) -> Iterator[AgentEvent]:
        # Not in OpenAI's own API; DeepSeek and vLLM say `reasoning_content`, OpenRouter `reasoning`.
        thought = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
        if thought and isinstance(thought, str):
            yield Thinking(thought, self.number)
        yield from self._feed_content(delta.content)
        yield from self._feed_content(delta.refusal)
        for fragment in delta.tool_calls or ():
            yield from self._feed_call(fragment)

    def _feed_content(self, content: Any) -> Iterator[AgentEvent]:
        if isinstance(content, list):  # of Mistral's models that reason; in OpenAI's own API it is a text
            for part in content:
                if part["type"] == "thinking":
                    thought = "".join(piece.get("text", "") for piece in part["thinking"])
                    if thought:
                        yield Thinking(thought, self.number)
                elif part["type"] == "text":
                    yield from self._feed_content(part["text"])
        elif content:
            self.text += content
            yield Text(content, self.number)

    def _feed_call(self, fragment: ChoiceDeltaToolCall) -> Iterator[AgentEvent]:
        call = self._by_index.get(fragment.index)
        if call is None or (fragment.id and fragment.id != call.id):  # some endpoints give every call index 0
            call = _Call(fragment.id or f"call_{self.number}_{len(self.calls) + 1}")
            self._by_index[fragment.index] = call
            self.calls.append(call)
        if fragment.function is None:
            return
        call.name = call.name or fragment.function.name or ""
        written = fragment.function.arguments or ""
        call.text += written
        if len(call.text) > MAX_ARGS or len(self.calls) > MAX_CALLS:
            raise AgentError("The model asked for too many or too large tool calls.", error_type="invalid_response")
        if written:
            yield ToolArgs(written, call.id, call.name, self.number)

    def end(self) -> Iterator[AgentEvent]:
        """Yield what is to be said at the end of the stream.

        Raises:
            AgentError: when the provider filtered the answer, or the stream broke off.
        """
        if self.finish_reason == "content_filter":
            raise provider_error("content_filter")
        if self.finish_reason is None or self.finish_reason in BROKEN:
            raise provider_error("provider_unavailable")
        if self.finish_reason == "length" and not self.calls:
            yield Text(CUT, self.number)

    def tool_calls(self) -> Iterator[ToolCall]:
        """Yield the calls; one whose arguments cannot be read has none, and its result says why."""
        for call in self.calls:
            try:
                args = call.args()
            except ToolFailure:
                args = {}
            yield ToolCall(call.name, args, call.id, self.number)

    def added_to(self, usage: Usage) -> Usage:
        """Return the turn's usage with this round's."""
        spent, said = self._usage
        return Usage(usage.input_tokens + spent, usage.output_tokens + said, self._model or usage.model)


async def _run(tools: dict[str, Tool], call: _Call, number: int) -> ToolResult:
    """Run one tool. Whatever goes wrong is a failed result, which the model reads and may mend."""
    try:
        if call.name not in tools:
            raise ToolFailure(f"no such tool; known tools: {', '.join(tools) or 'none'}")
        output, success = await tools[call.name].run(call.args()), True
    except ToolFailure as failure:
        output, success = str(failure), False
    except Exception:
        _log.exception("tool failed", tool=call.name)
        output, success = "the tool failed", False
    return ToolResult(call.name, output, call.id, success, number)


def _as_messages(answer: _Round, results: Sequence[ToolResult]) -> Iterator[ChatCompletionMessageParam]:
    """Yield the round as the next request repeats it: what the model said and called, what came of it."""
    yield {
        "role": "assistant",
        "content": answer.text or None,
        "tool_calls": [
            {
                "id": call.tool_call_id,
                "type": "function",
                "function": {"name": call.tool_name, "arguments": dumps(call.args)},
            }
            for call in answer.tool_calls()
        ],
    }
    for result in results:
        output = result.output if result.success else f"Error: {result.output}"
        yield {"role": "tool", "tool_call_id": result.tool_call_id, "content": output}


agent = make_agent()
"""The agent of `--agent worker.agents.openai:agent`."""
