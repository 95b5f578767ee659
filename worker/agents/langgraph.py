"""LangGraph: a graph of that framework as an agent of Threadline.

Needs the extra `threadline[langgraph]`. Each superstep of the graph is a step of the turn, and its checkpoint the
result, so another attempt goes on behind the last finished one. An `interrupt()` asks the person.

Source: https://docs.langchain.com/oss/python/langgraph/streaming, …/interrupts, …/persistence
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from typing import Any

import structlog

try:
    from langgraph.errors import GraphRecursionError
except ModuleNotFoundError as error:
    if error.name is None or not error.name.startswith("langgraph"):
        raise
    raise ImportError(
        "worker.agents.langgraph needs LangGraph, which is not installed; run: pip install 'threadline[langgraph]'"
    ) from error
from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.pregel import Pregel
from langgraph.types import Command

from worker.agents.checkpoints import Checkpoints
from worker.agents.history import as_model_reads, from_a_question
from worker.agents.provider_errors import meant_by_status, provider_error
from worker.agents.records import recorded, said_before
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

_log = structlog.get_logger("worker.agents.langgraph")
_TURN: ContextVar[Turn] = ContextVar("turn")
_OLD = "thread:"
"""How the ids of the history's answers begin: a node that returns them says nothing new."""
MAX_SUPERSTEPS = 100
"""Supersteps of one turn, when neither the graph nor the options name a `recursion_limit`."""
FILTERED = frozenset({"content_filter", "refusal", "SAFETY", "BLOCKLIST", "PROHIBITED_CONTENT"})
"""How an answer that the provider has stopped is finished: by OpenAI; by Anthropic; by Google."""
_Graph = Pregel[Any, Any, Any, Any]
_KINDS = {kind.__name__: kind for kind in (Iteration, Text, Thinking, ToolArgs, ToolCall, ToolResult)}


def current_turn() -> Turn:
    """Return the turn that a node or a tool of the graph works for.

    Its `step_key` is the same in every attempt of this superstep: with the id of the tool's call, the idempotency key
    of what the tool does outside.

    Raises:
        LookupError: outside of a turn.
    """
    return _TURN.get()


def as_messages(history: Sequence[Message]) -> list[AnyMessage]:
    """Return the history of a thread as LangChain's messages."""
    return [
        HumanMessage(message.content)
        if message.role == "user"
        else AIMessage(as_model_reads(message), id=f"{_OLD}{place}")
        for place, message in enumerate(from_a_question(history))
    ]


def as_input(turn: Turn) -> dict[str, Any]:
    """Return the input of a graph whose state has `messages`."""
    return {"messages": [*as_messages(turn.history), HumanMessage(turn.message)]}


def make_agent(
    graph: Any,
    options: Callable[[Turn], Mapping[str, Any]] = lambda turn: {},
    given: Callable[[Turn], Any] = as_input,
) -> Agent:
    """Return an agent of Threadline that runs a compiled graph.

    Args:
        graph: what `StateGraph.compile()`, `create_agent()` or an `@entrypoint` gave. A checkpointer of its own is
            set aside: the history is the thread's, and the state lives as long as the turn.
        options: further arguments of `graph.astream` for a turn, such as `context` or `config`.
        given: the graph's input for a turn.
    """

    async def answer(turn: Turn) -> AsyncIterator[str | AgentEvent]:
        _TURN.set(turn)  # in the turn's own task, and with it in those of the nodes
        run = _Run(turn, graph, dict(options(turn)))
        with _errors():
            values = await run.finished(given(turn))
        yield run.usage
        _check(values, run.spoken)
        if not run.spoken:
            yield as_text(values)

    return answer


def _check(values: Any, spoken: bool) -> None:
    """Raise when the answer of the model that ends a run is none: its state is nothing that a person should read.

    Raises:
        AgentError: `content_filter` when the provider has stopped it, `invalid_response` when nothing was said at all.
    """
    said = values.get("messages") if isinstance(values, dict) else None
    last = said[-1] if isinstance(said, list) and said else None
    if not isinstance(last, AIMessage):
        return
    if {last.response_metadata.get("finish_reason"), last.response_metadata.get("stop_reason")} & FILTERED:
        raise provider_error("content_filter")
    if not spoken and not last.text and not last.tool_calls and set(values) == {"messages"}:
        raise provider_error("invalid_response")


class _Run:
    """One run of a graph for one turn, superstep by superstep."""

    def __init__(self, turn: Turn, graph: _Graph, options: dict[str, Any]) -> None:
        self.turn = turn
        self.usage = Usage()
        self.spoken = False
        """Whether the graph has said a word."""
        self._checkpoints = Checkpoints()
        self._graph = graph.copy({"checkpointer": self._checkpoints})
        config = dict(options.pop("config", None) or {})
        config["configurable"] = {**config.get("configurable", {}), "thread_id": turn.request_id}
        # LangGraph counts anew at each resumption, and every superstep is one
        self._limit: int = (graph.config or {}).get("recursion_limit", MAX_SUPERSTEPS)
        self._limit = config.pop("recursion_limit", self._limit)
        self._config: Any = config
        self._options = options

    async def finished(self, given: Any) -> Any:
        """Run the graph to its end; return its last values."""
        told = _Told()
        for _ in range(self._limit):
            await self._superstep(given, told)
            state = await self._graph.aget_state(self._config, subgraphs=True)
            if state.interrupts:
                given = Command(resume={one.id: await self._ask(one.value) for one in state.interrupts})
            elif state.next:
                given = None
            else:
                return state.values
        raise provider_error("max_iterations")

    async def _superstep(self, given: Any, told: _Told) -> None:
        async def advance() -> Any:
            told.said.clear()
            stream: Any = self._graph.astream(
                given,
                self._config,
                stream_mode=["messages", "updates"],
                subgraphs=True,
                interrupt_after="*",
                durability="sync",
                **self._options,
            )
            async with aclosing(stream):  # and with it end the nodes that still run
                async for _, mode, data in stream:
                    for event in told.feed(mode, data):
                        await self.turn.say(event)
            return {
                "news": self._checkpoints.news(),
                "told": told.record(),
                # with `resume` what was said stands in the log; no attempt will say it again
                "said": [] if self.turn.policy == "resume" else told.said_as_json(),
            }

        kept, ran = await recorded(self.turn, "superstep", advance)
        if not ran:
            self._checkpoints.add(kept["news"])
            told.restore(kept["told"])
            if not said_before(self.turn, ran):
                for kind, fields in kept["said"]:
                    await self.turn.say(_KINDS[kind](**fields))
        self.usage, self.spoken = told.usage, told.spoken

    async def _ask(self, value: Any) -> Any:
        """Ask the person what an `interrupt(value)` asks; return what it gives back to the graph."""
        match value:
            case {"action_requests": [*actions]}:  # LangChain's middleware for a human in the loop
                return {"decisions": [await self._decide(action) for action in actions]}
            case {"tool_name": str(name), "args": dict(args)}:
                return (await self.turn.approve(name, args)).approved
            case {"question": str(question), "options": [*options]}:
                return await self.turn.ask(question, [str(option) for option in options])
            case {"question": str(question)} | str(question):
                return await self.turn.ask(question)
        return await self.turn.ask(as_text(value))

    async def _decide(self, action: Any) -> dict[str, str]:
        decision = await self.turn.approve(str(action["name"]), dict(action["args"]))
        if decision.approved:
            return {"type": "approve"}
        return {"type": "reject", "message": refusal(decision)}


class _Told:
    """What the graph tells, as what an agent says."""

    def __init__(self) -> None:
        self.round = 0
        self.usage = Usage()
        self.spoken = False
        self.said: list[AgentEvent] = []
        self._rounds: dict[str, int] = {}
        """The round of each message of a model, by the message's id."""
        self._calls: dict[tuple[str, Any], tuple[str, str]] = {}
        """The id and the name of the tool call at an index of a message that streams."""
        self._seen: set[str] = set()
        """Tool calls and results that were said, and messages whose cost was counted."""

    def record(self) -> dict[str, Any]:
        """Return what the next attempt must know, as JSON."""
        usage, seen = asdict(self.usage), sorted(self._seen)
        return {"round": self.round, "spoken": self.spoken, "usage": usage, "rounds": self._rounds, "seen": seen}

    def restore(self, kept: dict[str, Any]) -> None:
        """Take what `record` gave in an earlier attempt."""
        self.round, self.spoken, self.usage = kept["round"], kept["spoken"], Usage(**kept["usage"])
        self._rounds, self._seen = dict(kept["rounds"]), set(kept["seen"])

    def said_as_json(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what was said in this superstep; neighbouring pieces of text are one."""
        whole: list[tuple[str, dict[str, Any]]] = []
        for event in self.said:
            kind, fields = type(event).__name__, asdict(event)
            if whole and kind in {"Text", "Thinking"} and whole[-1][0] == kind and whole[-1][1]["round"] == event.round:  # type: ignore[union-attr]
                whole[-1][1]["delta"] += fields["delta"]
            else:
                whole.append((kind, fields))
        return whole

    def feed(self, mode: str, data: Any) -> Iterator[AgentEvent]:
        """Yield what a part of the stream means."""
        found = self._message(data[0]) if mode == "messages" else self._update(data)
        for event in found:
            self.said.append(event)
            yield event

    def _message(self, message: BaseMessage) -> Iterator[AgentEvent]:
        if not isinstance(message, AIMessage) or (message.id or "").startswith(_OLD):
            return  # tools' results come with the update of their node
        number = self._rounds.get(message.id or "")
        if number is None:
            self.round += 1
            number = self._rounds[message.id or ""] = self.round
            yield Iteration(number)
        for block in message.content_blocks:
            if block["type"] == "reasoning" and block.get("reasoning"):
                yield Thinking(block["reasoning"], number)
        if message.text:
            self.spoken = True
            yield Text(str(message.text), number)
        if isinstance(message, AIMessageChunk):
            yield from self._args(message, number)

    def _args(self, message: AIMessageChunk, number: int) -> Iterator[AgentEvent]:
        for chunk in message.tool_call_chunks:
            place = (message.id or "", chunk["index"])
            if chunk["id"]:
                self._calls[place] = (chunk["id"], chunk["name"] or "")
            if chunk["args"] and place in self._calls:
                call_id, name = self._calls[place]
                yield ToolArgs(chunk["args"], call_id, name, number)

    def _update(self, data: Any) -> Iterator[AgentEvent]:
        for update in data.values() if isinstance(data, dict) else ():
            for part in update if isinstance(update, list) else [update]:
                for value in part.values() if isinstance(part, dict) else ():
                    for message in value if isinstance(value, list) else [value]:
                        yield from self._whole(message)

    def _whole(self, message: Any) -> Iterator[AgentEvent]:
        if isinstance(message, ToolMessage):
            if self._first_time(f"result {message.tool_call_id}"):
                output, succeeded = str(message.text), message.status != "error"
                yield ToolResult(message.name or "", output, message.tool_call_id, succeeded, self.round or 1)
        elif isinstance(message, AIMessage):
            self._count(message)
            number = self._rounds.get(message.id or "")
            for call in message.tool_calls if number else ():  # what was not streamed is not for the person
                if self._first_time(f"call {call['id']}"):
                    yield ToolCall(call["name"], call["args"], call["id"] or "", number or 1)

    def _first_time(self, what: str) -> bool:
        if what in self._seen:
            return False
        self._seen.add(what)
        return True

    def _count(self, message: AIMessage) -> None:
        spent, name = message.usage_metadata, message.response_metadata.get("model_name", self.usage.model)
        if spent and self._first_time(f"usage {message.id}"):
            self.usage = Usage(
                self.usage.input_tokens + spent["input_tokens"], self.usage.output_tokens + spent["output_tokens"], name
            )


@contextmanager
def _errors() -> Iterator[None]:
    """Turn what a graph and the SDKs of providers raise into an AgentError, without any of the provider's text."""
    try:
        yield
    except AgentError:
        raise
    except GraphRecursionError as error:  # of a graph inside of a node
        raise provider_error("max_iterations") from error
    except Exception as error:
        meant = meant_by_status(error)
        if meant is None:
            raise
        _log.warning("model failed", error=type(error).__name__, error_type=meant.error_type)
        raise meant from error
