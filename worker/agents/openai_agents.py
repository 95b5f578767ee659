"""The OpenAI Agents SDK: an agent of that framework as an agent of Threadline.

Needs the extra `threadline[openai-agents]`. Each answer of the model and each result of a function tool is a step, so
another attempt does neither twice. A tool that needs approval asks the person.

Source: https://openai.github.io/openai-agents-python/running_agents/,
https://openai.github.io/openai-agents-python/human_in_the_loop/
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from inspect import isawaitable
from typing import Any

import structlog

try:
    import agents
except ModuleNotFoundError as error:
    if error.name != "agents":
        raise
    raise ImportError(
        "worker.agents.openai_agents needs the OpenAI Agents SDK, which is not installed; "
        "run: pip install 'threadline[openai-agents]'"
    ) from error
import openai
from agents import exceptions
from agents.models.interface import Model, ModelProvider
from agents.run import CallModelData, ModelInputData
from openai.types import responses
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from backplane.events import dumps
from worker.agents.history import as_model_reads, from_a_question
from worker.agents.openai_errors import as_agent_error
from worker.agents.provider_errors import provider_error, type_by_words
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

_log = structlog.get_logger("worker.agents.openai_agents")
_RESPONSE = TypeAdapter(agents.ModelResponse)
_NESTED: ContextVar[bool] = ContextVar("nested", default=False)
"""Whether an agent runs as the tool of another: what it says is no part of the answer."""


def make_agent(agent: agents.Agent[Any], options: Callable[[Turn], Mapping[str, Any]] = lambda turn: {}) -> Agent:
    """Return an agent of Threadline that runs one of the OpenAI Agents SDK.

    Args:
        agent: what answers, or hands over to another.
        options: further arguments of `Runner.run` for a turn, such as `context`, `max_turns` or `run_config`; but
            `hooks` are taken: give the agent its own.
    """

    async def answer(turn: Turn) -> AsyncIterator[str | AgentEvent]:
        run = _Run(turn)
        given = {**options(turn), "hooks": _Hooks(run)}
        given["run_config"] = run.configuration(given.get("run_config") or agents.RunConfig())
        starting = run.wrapped(agent)
        told: Any = as_input(turn.history, turn.message)
        with _errors():
            while True:
                result = await agents.Runner.run(starting, told, **given)
                spent = result.context_wrapper.usage
                yield Usage(spent.input_tokens, spent.output_tokens, run.model)
                if not result.interruptions:
                    break
                told = await run.decided(result)
                given.pop("context", None)  # the state has it
        if not run.spoken:
            yield as_text(result.final_output)

    return answer


def as_input(history: Sequence[Message], message: str) -> list[Any]:
    """Return the history of a thread and the new message as the SDK's input."""
    said = [{"role": message.role, "content": as_model_reads(message)} for message in from_a_question(history)]
    return [*said, {"role": "user", "content": message}]


class _Run:
    """One run for one turn: it says what happens in the order in which it happens, and records it."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.round = 0
        """The rounds in which the model has answered."""
        self._announced = 0
        self.model = ""
        self.spoken = False
        """Whether the last answer of the model had words."""
        self._steers: list[tuple[int, Any]] = []
        """What the person has added, each with its place in the input: the SDK gives its own items anew each round."""
        self._wrapped: dict[int, agents.Agent[Any]] = {}
        self._handoffs: dict[str, ToolCall] = {}
        """The call by which an agent of this name is handed to."""
        self.results: set[str] = set()
        """The calls whose results were said inside of their steps, here or in an earlier attempt."""

    # --- the agents, with models and tools that record ---------------------------------------------------

    def configuration(self, config: agents.RunConfig) -> agents.RunConfig:
        """Return the configuration with models that record, and that are told what the person adds."""
        model = _RecordedModel(config.model, self) if isinstance(config.model, Model) else config.model
        provider = _RecordingProvider(config.model_provider, self)
        own = config.call_model_input_filter

        async def steered(data: CallModelData[Any]) -> ModelInputData:
            told = data.model_data if own is None else own(data)
            told = await told if isawaitable(told) else told
            return told if _NESTED.get() else await self._steered(told)

        return replace(config, model=model, model_provider=provider, call_model_input_filter=steered)

    async def _steered(self, told: ModelInputData) -> ModelInputData:
        if self.round:
            wishes = await self.turn.steers()
            self._steers += [(len(told.input), {"role": "user", "content": wish}) for wish in wishes]
        items = list(told.input)
        for place, wish in reversed(self._steers):
            items.insert(place, wish)
        return ModelInputData(items, told.instructions)

    def wrapped(self, agent: agents.Agent[Any]) -> agents.Agent[Any]:
        """Return a copy of an agent, and of all that it hands over to, whose models and tools record."""
        if (known := self._wrapped.get(id(agent))) is not None:
            return known
        copy = self._wrapped[id(agent)] = agent.clone()
        self._wrapped[id(copy)] = copy
        if isinstance(agent.model, Model):
            copy.model = _RecordedModel(agent.model, self)
        copy.tools = [self._tool(tool) for tool in agent.tools]
        copy.handoffs = [
            self._handoff(other) if isinstance(other, agents.Handoff) else self.wrapped(other)
            for other in agent.handoffs
        ]
        return copy

    def _handoff(self, handoff: agents.Handoff[Any, Any]) -> agents.Handoff[Any, Any]:
        async def invoke(context: agents.RunContextWrapper[Any], args: str) -> agents.Agent[Any]:
            return self.wrapped(await handoff.on_invoke_handoff(context, args))

        return replace(handoff, on_invoke_handoff=invoke)

    def _tool(self, tool: agents.Tool) -> agents.Tool:
        if not isinstance(tool, agents.FunctionTool):
            return tool

        async def nested(context: Any, args: str) -> Any:
            _NESTED.set(True)  # each call of a tool is a task, with variables of its own
            return await tool.on_invoke_tool(context, args)

        # Calls run beside each other: said behind its step, a result might stand already or not when the last of their
        # steps ends, and another attempt could not know. What a guardrail has not seen yet, nobody is told.
        inside = self.turn.policy == "resume" and not tool.tool_output_guardrails

        async def once(context: Any, args: str) -> Any:
            result: Any = None

            async def run() -> Any:
                nonlocal result
                result = await tool.on_invoke_tool(context, args)
                if inside:
                    await self.returned(tool, context.tool_call_id, result)
                return to_jsonable_python(result, fallback=str)

            kept, ran = await recorded(self.turn, tool_step(tool.name, context.tool_call_id), run)
            if inside:
                self.results.add(context.tool_call_id)
            return result if ran else kept

        # an agent as a tool may be interrupted in its middle: its state is no result that could be recorded
        is_agent = getattr(tool, "_is_agent_tool", False)
        return replace(tool, on_invoke_tool=nested if is_agent else once)

    # --- approvals ---------------------------------------------------------------------------------------

    async def decided(self, result: agents.RunResult) -> Any:
        """Ask the person about each tool that waits for approval; return the state to go on from."""
        state = result.to_state()
        for item in result.interruptions:
            name = item.name or "tool"
            decision = await self.turn.approve(name, _args(item.arguments or ""))
            if decision.approved:
                state.approve(item)
                continue
            words = refusal(decision)
            state.reject(item, rejection_message=words)
            await self.turn.say(ToolResult(name, words, item.call_id or "", False, self.round))
        return state

    # --- what is said ------------------------------------------------------------------------------------

    async def begin_round(self) -> None:
        """Say that a round begins, unless the SDK asks the model once more in the same."""
        if self._announced == self.round:
            self._announced += 1
            await self.turn.say(Iteration(self._announced))

    async def called(self, response: agents.ModelResponse, handoffs: Sequence[agents.Handoff[Any, Any]]) -> None:
        """Say which tools the model has called."""
        targets = {handoff.tool_name: handoff.agent_name for handoff in handoffs}
        for item in response.output:
            if isinstance(item, responses.ResponseFunctionToolCall):
                call = ToolCall(item.name, _args(item.arguments), item.call_id, self.round)
                if item.name in targets:
                    self._handoffs[targets[item.name]] = call
                await self.turn.say(call)

    async def returned(self, tool: agents.Tool, call_id: str, result: object) -> None:
        """Say what a tool has returned."""
        await self.turn.say(ToolResult(tool.name, as_text(result), call_id, True, self.round))

    async def handed_over(self, name: str) -> None:
        """Say that another agent answers from here on."""
        if (call := self._handoffs.pop(name, None)) is not None:
            await self.turn.say(ToolResult(call.tool_name, f"{name} goes on.", call.tool_call_id, True, self.round))


class _Hooks(agents.RunHooks[Any]):
    def __init__(self, run: _Run) -> None:
        self._run = run

    async def on_tool_end(self, context: Any, agent: Any, tool: agents.Tool, result: object) -> None:
        """Say what a tool has returned."""
        call_id = str(getattr(context, "tool_call_id", ""))
        if call_id in self._run.results:
            self._run.results.remove(call_id)
        else:
            await self._run.returned(tool, call_id, result)

    async def on_handoff(self, context: Any, from_agent: Any, to_agent: Any) -> None:
        """Say that another agent answers from here on."""
        await self._run.handed_over(to_agent.name)


class _RecordingProvider(ModelProvider):
    def __init__(self, provider: ModelProvider, run: _Run) -> None:
        self._provider = provider
        self._run = run

    def get_model(self, model_name: str | None) -> Model:
        """Return a model that records."""
        return _RecordedModel(self._provider.get_model(model_name), self._run)

    async def aclose(self) -> None:
        """Close the provider that was given."""
        await self._provider.aclose()


class _RecordedModel(Model):
    """A model whose answers are steps of the turn, and are said while they are written."""

    def __init__(self, model: Model, run: _Run) -> None:
        self._model = model
        self._run = run

    async def _cleanup_on_run_end(self, owner: object) -> None:
        await self._model._cleanup_on_run_end(owner)

    async def close(self) -> None:
        """Close the model that was given."""
        await self._model.close()

    def get_retry_advice(self, request: Any) -> Any:
        """Return what the model that was given advises."""
        return self._model.get_retry_advice(request)

    async def get_response(self, *asked: Any, **further: Any) -> agents.ModelResponse:
        """Return the model's answer: from the record, or else from the model."""
        if _NESTED.get():
            return await self._model.get_response(*asked, **further)
        run, answer = self._run, _Answer(self._run.round + 1)
        run.model = str(getattr(self._model, "model", ""))
        await run.begin_round()
        refused: Exception | None = None

        async def ask() -> Any:
            nonlocal refused
            try:
                await self._streamed(answer, asked, further)
            except openai.OpenAIError as error:
                refused = error
                return None
            return _RESPONSE.dump_python(answer.response(), mode="json", warnings=False)

        # The SDK may try again, which is another step of this round: a failure is recorded too, so that another attempt
        # passes it by and does not ask what was answered behind it.
        kept, ran = None, False
        while kept is None:
            kept, ran = await recorded(run.turn, f"model:{run.round + 1}", ask)
            if refused is not None:
                raise refused
        run.round += 1
        response = answer.response() if ran else _RESPONSE.validate_python(kept)
        if not ran and not said_before(run.turn, ran):
            for piece in answer.whole(response.output):
                await run.turn.say(piece)
        run.spoken = any(isinstance(item, responses.ResponseOutputMessage) for item in response.output)
        await run.called(response, further["handoffs"] if "handoffs" in further else asked[5])
        return response

    async def _streamed(self, answer: _Answer, asked: tuple[Any, ...], further: dict[str, Any]) -> None:
        try:
            async with _closing(self._model.stream_response(*asked, **further)) as stream:
                async for event in stream:
                    for piece in answer.feed(event):
                        await self._run.turn.say(piece)
        except openai.OpenAIError as error:
            if answer.begun:  # the SDK must not try again: its words would come twice
                raise as_agent_error(error) from error
            raise

    def stream_response(self, *asked: Any, **further: Any) -> AsyncIterator[Any]:
        """Stream from the model that was given; only an agent that runs as a tool asks for it."""
        return self._model.stream_response(*asked, **further)


@asynccontextmanager
async def _closing(stream: AsyncIterator[Any]) -> AsyncIterator[AsyncIterator[Any]]:
    """Close a model's stream at the end of the block, and with it its connection: also when its turn is cancelled."""
    try:
        yield stream
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


class _Answer:
    """One answer of the model, put together from the events of its stream."""

    def __init__(self, number: int) -> None:
        self.begun = False
        self._number = number
        self._calls: dict[int, responses.ResponseFunctionToolCall] = {}
        self._items: list[Any] = []
        self._response: responses.Response | None = None

    def feed(self, event: Any) -> Iterator[AgentEvent]:
        """Yield what an event of the stream adds."""
        match event:
            case responses.ResponseTextDeltaEvent(delta=delta) | responses.ResponseRefusalDeltaEvent(delta=delta):
                yield Text(delta, self._number)
            case responses.ResponseReasoningSummaryTextDeltaEvent(delta=delta):
                yield Thinking(delta, self._number)
            case responses.ResponseReasoningTextDeltaEvent(delta=delta):
                yield Thinking(delta, self._number)
            case responses.ResponseOutputItemAddedEvent(item=responses.ResponseFunctionToolCall() as call):
                self._calls[event.output_index] = call
            case responses.ResponseFunctionCallArgumentsDeltaEvent(delta=delta) if event.output_index in self._calls:
                call = self._calls[event.output_index]
                yield ToolArgs(delta, call.call_id, call.name, self._number)
            case responses.ResponseOutputItemDoneEvent(item=item):
                self._items.append(item)
            case responses.ResponseCompletedEvent() | responses.ResponseIncompleteEvent():
                self._response = event.response
                cause = event.response.incomplete_details
                if cause is not None and cause.reason == "content_filter":
                    raise provider_error("content_filter")
            case responses.ResponseFailedEvent():
                told = event.response.error
                raise provider_error(type_by_words(told.code, "", told.message) if told else "provider_unavailable")
            case responses.ResponseErrorEvent():
                raise provider_error(type_by_words(event.code or "", "", event.message))
            case _:
                return
        self.begun = True

    def whole(self, items: Sequence[Any]) -> Iterator[AgentEvent]:
        """Yield a whole answer."""
        for item in items:
            match item:
                case responses.ResponseOutputMessage(content=contents):
                    for content in contents:
                        match content:
                            case (
                                responses.ResponseOutputText(text=said) | responses.ResponseOutputRefusal(refusal=said)
                            ):
                                yield Text(said, self._number)
                case responses.ResponseReasoningItem():
                    for part in [*item.summary, *(item.content or ())]:
                        yield Thinking(part.text, self._number)
                case responses.ResponseFunctionToolCall():
                    yield ToolArgs(item.arguments, item.call_id, item.name, self._number)

    def response(self) -> agents.ModelResponse:
        """Return the answer.

        Raises:
            AgentError: when the stream broke off.
        """
        response = self._response
        if response is None:
            raise provider_error("provider_unavailable")
        usage = agents.Usage()
        if (spent := response.usage) is not None:
            usage = agents.Usage(1, spent.input_tokens, output_tokens=spent.output_tokens)
            usage = replace(
                usage,
                input_tokens_details=spent.input_tokens_details,
                output_tokens_details=spent.output_tokens_details,
                total_tokens=spent.total_tokens,
            )
        return agents.ModelResponse(response.output or self._items, usage, response.id)


def _args(text: str) -> dict[str, Any]:
    try:
        args = json.loads(text or "{}")
        dumps(args)
    except (ValueError, RecursionError):
        return {}
    return args if isinstance(args, dict) else {}


@contextmanager
def _errors() -> Iterator[None]:
    """Turn what the SDK raises into an AgentError, without any of the provider's text."""
    try:
        yield
    except openai.OpenAIError as error:
        raise as_agent_error(error) from error
    except exceptions.UserError:
        raise  # a defect of the program, for its log
    except exceptions.AgentsException as error:
        meant = _meant(error)
        _log.warning("the run failed", error=type(error).__name__, error_type=meant.error_type)
        raise meant from error


_TRIPWIRES = (
    exceptions.InputGuardrailTripwireTriggered,
    exceptions.OutputGuardrailTripwireTriggered,
    exceptions.ToolInputGuardrailTripwireTriggered,
    exceptions.ToolOutputGuardrailTripwireTriggered,
)


def _meant(error: exceptions.AgentsException) -> AgentError:
    match error:
        case exceptions.MaxTurnsExceeded():
            return provider_error("max_iterations")
        case exceptions.ModelTimeoutError():
            return provider_error("provider_timeout")
        case exceptions.ModelRefusalError():
            return provider_error("content_filter")
        case _ if isinstance(error, _TRIPWIRES):
            return AgentError("A rule of this assistant stopped this. Ask for something else.", error_type="guardrail")
        case exceptions.ToolTimeoutError():
            return AgentError(
                "A tool took too long. Try again.", error_type="tool_timeout", source="tool", retryable=True
            )
    return provider_error("invalid_response")
