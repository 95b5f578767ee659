"""Graphs of LangGraph as agents of Threadline, with a chat model that reads from a script."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, TypedDict

import httpx
import openai
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Send, interrupt
from pydantic import PrivateAttr

from tests.support.attempts import Attempts, all_of, words
from tests.worker.agents.contract import Work, failure, parked_and_finished_elsewhere, stopped_at, stopped_by_a_word
from worker.agents.langgraph import current_turn, make_agent
from worker.turn import (
    AgentError,
    Iteration,
    Message,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
    ToolResult,
    Usage,
)

Chunks = list[AIMessageChunk]


class Script(BaseChatModel):
    """A chat model that streams its lines, one answer after the other, and remembers what it was told."""

    answers: list[Any]
    _told: list[list[BaseMessage]] = PrivateAttr(default_factory=list)

    @property
    def told(self) -> list[list[BaseMessage]]:
        return self._told

    @property
    def _llm_type(self) -> str:
        return "script"

    def _generate(self, messages: list[BaseMessage], *args: Any, **further: Any) -> ChatResult:
        self._told.append(messages)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(self.answers.pop(0)))])

    async def _astream(self, messages: list[BaseMessage], *args: Any, **further: Any) -> AsyncIterator[Any]:
        self._told.append(messages)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        for chunk in await answer() if callable(answer) else answer:
            yield ChatGenerationChunk(message=chunk)


def says(*pieces: str, spent: int = 0) -> Chunks:
    chunks = [AIMessageChunk(content=piece) for piece in pieces]
    usage: Any = {"input_tokens": 10, "output_tokens": spent, "total_tokens": 10 + spent}
    return [*chunks, AIMessageChunk(content="", usage_metadata=usage, response_metadata={"model_name": "tiny"})]


def calls(name: str, *args: str, call_id: str = "c1") -> Chunks:
    first, *rest = args or ("{}",)
    chunks = [tool_call_chunk(name=name, args=first, id=call_id, index=0)]
    chunks += [tool_call_chunk(name=None, args=piece, id=None, index=0) for piece in rest]
    return [AIMessageChunk(content="", tool_call_chunks=[chunk]) for chunk in chunks]


def react(model: Any, *tools: Any) -> Any:
    """Return a graph of a model and its tools, in a loop."""

    async def think(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", think)
    graph.add_edge(START, "model")
    if tools:
        graph.add_node("tools", ToolNode(list(tools)))
        graph.add_conditional_edges("model", tools_condition)
        graph.add_edge("tools", "model")
    return graph.compile()


def single(node: Callable[..., Any], state: Any = MessagesState) -> Any:
    graph = StateGraph(state)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    return graph.compile()


@tool
def add(x: int, y: int) -> str:
    """Add."""
    return str(x + y)


async def test_text_thinking_tools_and_usage_become_events() -> None:
    thought = AIMessageChunk(content=[{"type": "reasoning", "reasoning": "Hm."}])
    script = Script(answers=[[thought, *calls("add", '{"x":1,', '"y":2}')], says("Three", ".", spent=2)])
    said = await Attempts(make_agent(react(script, add))).run()
    assert said == [
        Iteration(1),
        Thinking("Hm."),
        ToolArgs('{"x":1,', "c1", "add"),
        ToolArgs('"y":2}', "c1", "add"),
        ToolCall("add", {"x": 1, "y": 2}, "c1"),
        ToolResult("add", "3", "c1"),
        Iteration(2),
        Text("Three", 2),
        Text(".", 2),
        Usage(10, 2, "tiny"),
    ]


async def test_the_library_s_fake_model_streams() -> None:
    fake = GenericFakeChatModel(messages=iter([AIMessage("one two three")]))
    said = await Attempts(make_agent(react(fake))).run()
    assert words(said) == "one two three"
    assert len(all_of(said, Text)) > 1


async def test_the_history_and_the_message_reach_the_model() -> None:
    script = Script(answers=[says("ok")])
    history = [Message("user", "one"), Message("assistant", "tw", interrupted=True)]
    said = await Attempts(make_agent(react(script)), history=history, message="three").run()
    assert [(told.type, told.content) for told in script.told[0]] == [
        ("human", "one"),
        ("ai", "tw\n[This answer was interrupted.]"),
        ("human", "three"),
    ]
    assert words(said) == "ok"


async def test_what_a_node_writes_itself_is_said_and_old_messages_are_not() -> None:
    async def node(state: MessagesState) -> Any:
        return {"messages": [*state["messages"], AIMessage("by hand")]}

    history = [Message("user", "one"), Message("assistant", "two")]
    assert words(await Attempts(make_agent(single(node)), history=history).run()) == "by hand"


async def test_a_graph_without_messages_answers_with_its_values() -> None:
    class State(TypedDict):
        question: str
        answer: str

    async def node(state: State) -> Any:
        return {"answer": state["question"].upper()}

    agent = make_agent(single(node, State), given=lambda turn: {"question": turn.message, "answer": ""})
    assert words(await Attempts(agent, message="hi").run()) == '{"question":"hi","answer":"HI"}'


async def test_options_are_given_to_the_graph_and_a_node_knows_its_turn() -> None:
    async def node(state: MessagesState, config: Any) -> Any:
        return {"messages": [AIMessage(f"{config['configurable']['flavour']} {current_turn().subject}")]}

    node.__annotations__.pop("config")
    agent = make_agent(single(node), lambda turn: {"config": {"configurable": {"flavour": "mint"}}})
    assert words(await Attempts(agent).run()) == "mint ada"


async def test_a_node_may_ask_what_the_person_has_added() -> None:
    async def node(state: MessagesState) -> Any:
        return {"messages": [AIMessage(", ".join(await current_turn().steers()))]}

    attempts = Attempts(make_agent(single(node)))
    attempts.wishes = ["in French", "and short"]
    assert words(await attempts.run()) == "in French, and short"


async def test_another_attempt_runs_no_finished_superstep_again() -> None:
    """With `retry` its words are said again, with `resume` they were kept."""
    for policy, said_again in (("retry", "Look. Done."), ("resume", "")):
        ran: list[int] = []

        @tool
        def count() -> str:
            """Count."""
            ran.append(1)  # noqa: B023  # called in this round of the loop alone
            return str(len(ran))  # noqa: B023

        script = Script(answers=[[*says("Look", ". "), *calls("count")], says("Done.")])
        attempts = Attempts(make_agent(react(script, count)), policy=policy)
        first, second = await attempts.run(), await attempts.run()
        assert words(first) == "Look. Done."
        assert words(second) == said_again
        if policy == "retry":
            assert all_of(first, ToolCall) == all_of(second, ToolCall)
            assert all_of(first, ToolResult) == all_of(second, ToolResult)
        assert all_of(first, Usage) == all_of(second, Usage)
        assert (len(script.told), ran) == (2, [1])


@pytest.mark.parametrize("finished", [1, 2, 3])
async def test_an_attempt_goes_on_behind_any_superstep(finished: int) -> None:
    """Whatever was recorded: the model sees the same messages as without the loss."""
    script = Script(answers=[calls("add", '{"x":1,"y":2}'), says("Three.")])
    attempts = Attempts(make_agent(react(script, add)))
    await attempts.run()
    kept = list(attempts.records)[:finished]
    attempts.records = {name: attempts.records[name] for name in kept}
    script.answers = [says("Three.")]
    said = await attempts.run()
    assert words(said) == "Three."
    assert all_of(said, ToolResult) == [ToolResult("add", "3", "c1")]
    assert [message.content for message in script.told[-1]] == ["go", "", "3"]


async def test_branches_run_beside_each_other_and_none_is_run_again() -> None:
    ran: list[str] = []

    async def branch(state: Any) -> Any:
        ran.append(state["name"])
        return {"messages": [AIMessage(state["name"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("branch", branch)
    graph.add_conditional_edges(START, lambda state: [Send("branch", {"name": name}) for name in "ab"], ["branch"])
    attempts = Attempts(make_agent(graph.compile()))
    first, second = await attempts.run(), await attempts.run()
    assert sorted(words(first)) == sorted(words(second)) == ["a", "b"]
    assert sorted(ran) == ["a", "b"]


@pytest.mark.parametrize(
    ("value", "decisions", "asked", "given"),
    [
        ({"tool_name": "rm", "args": {"p": 1}}, ["approved"], {"kind": "approval", "tool_name": "rm"}, "True"),
        ({"tool_name": "rm", "args": {"p": 1}}, ["denied"], {"kind": "approval", "args": {"p": 1}}, "False"),
        ("Which?", ["left"], {"kind": "question", "question": "Which?"}, "left"),
        ({"question": "Which?", "options": ["a", "b"]}, ["b"], {"options": ["a", "b"]}, "b"),
        ({"question": "Which?"}, [], {"question": "Which?"}, "None"),
        ([1, 2], ["yes"], {"question": "[1,2]"}, "yes"),
        (
            {"action_requests": [{"name": "rm", "args": {}}, {"name": "mv", "args": {}}]},
            ["approved"],
            {"tool_name": "rm"},
            "{'decisions': [{'type': 'approve'}, {'type': 'reject', "
            "'message': 'Nobody decided in time, so it was not done.'}]}",
        ),
    ],
)
async def test_an_interrupt_asks_the_person(value: Any, decisions: list[str], asked: Any, given: str) -> None:
    async def node(state: MessagesState) -> Any:
        return {"messages": [AIMessage(str(interrupt(value)))]}

    attempts = Attempts(make_agent(single(node)))
    assert words(await attempts.run(*decisions)) == given
    assert asked.items() <= attempts.asked[0].items()


async def test_interrupts_of_branches_are_asked_one_after_the_other() -> None:
    async def branch(state: Any) -> Any:
        return {"messages": [AIMessage(f"{state['name']}={interrupt(state['name'])} ")]}

    graph = StateGraph(MessagesState)
    graph.add_node("branch", branch)
    graph.add_conditional_edges(START, lambda state: [Send("branch", {"name": name}) for name in "ab"], ["branch"])
    attempts = Attempts(make_agent(graph.compile()))
    assert sorted(words(await attempts.run("x", "y")).split()) == ["a=x", "b=y"]


REQUEST: Any = httpx.Request("POST", "http://127.0.0.1/secret")


def refused(kind: Any, status: int, code: str = "") -> Exception:
    response: Any = httpx.Response(status, request=REQUEST, headers={"retry-after": "2"})
    error: Exception = kind("sk-secret", response=response, body={"code": code})
    return error


@pytest.mark.parametrize(
    ("error", "error_type", "retry_after_ms"),
    [
        (refused(openai.RateLimitError, 429), "rate_limited", 2000),
        (refused(openai.AuthenticationError, 401), "auth", None),
        (refused(openai.InternalServerError, 502), "provider_unavailable", 2000),
        (refused(openai.BadRequestError, 400), "invalid_request", None),
        (refused(openai.BadRequestError, 400, "context_length_exceeded"), "context_length", None),
        (refused(openai.BadRequestError, 400, "content_filter"), "content_filter", None),
        (refused(openai.RateLimitError, 429, "insufficient_quota"), "quota_exceeded", None),
        (refused(openai.APIStatusError, 402), "quota_exceeded", None),
        (openai.APIError("sk-secret", REQUEST, body={"code": "rate_limit_exceeded"}), "rate_limited", None),
        (openai.APIError("sk-secret", REQUEST, body=None), "provider_unavailable", None),
        (openai.APITimeoutError(REQUEST), "provider_timeout", None),
        (openai.APIConnectionError(request=REQUEST), "provider_unavailable", None),
    ],
)
async def test_each_failure_of_a_model_has_its_type_and_none_of_its_text(
    error: Exception, error_type: str, retry_after_ms: int | None
) -> None:
    assert await failure(make_agent(react(Script(answers=[error])))) == (error_type, retry_after_ms)


@pytest.mark.parametrize(
    ("answer", "error_type"),
    [
        (AIMessageChunk(content="", response_metadata={"finish_reason": "content_filter"}), "content_filter"),
        (AIMessageChunk(content="Half", response_metadata={"finish_reason": "SAFETY"}), "content_filter"),
        (AIMessageChunk(content="", response_metadata={"stop_reason": "refusal"}), "content_filter"),
        (AIMessageChunk(content="", response_metadata={"finish_reason": "length"}), "invalid_response"),
        (AIMessageChunk(content=""), "invalid_response"),
    ],
)
async def test_an_answer_without_words_is_an_error_and_not_the_graph_s_state(
    answer: AIMessageChunk, error_type: str
) -> None:
    assert await failure(make_agent(react(Script(answers=[[answer]])))) == (error_type, None)


async def test_a_graph_that_fails_otherwise_is_a_defect_of_the_agent() -> None:
    with pytest.raises(ValueError, match="broken"):
        await Attempts(make_agent(react(Script(answers=[ValueError("broken")])))).run()


async def test_a_limit_of_supersteps_ends_the_turn() -> None:
    """The limit counts from the start of the turn, as it does without Threadline."""
    script = Script(answers=[calls("add", '{"x":1,"y":2}', call_id=f"c{number}") for number in range(9)])
    with pytest.raises(AgentError) as caught:
        await Attempts(make_agent(react(script, add), lambda turn: {"config": {"recursion_limit": 4}})).run()
    assert caught.value.error_type == "max_iterations"
    assert len(script.told) <= 3


async def test_a_turn_that_fails_at_a_word_ends_the_nodes() -> None:
    stuck = Work()

    class Streams(Script):
        async def _astream(self, *args: Any, **further: Any) -> AsyncIterator[Any]:
            yield ChatGenerationChunk(message=AIMessageChunk(content="Well, "))
            await stuck()

    graph = react(Streams(answers=[]))
    kept: list[Any] = []  # so that no collector closes it

    class Kept(type(graph)):  # type: ignore[misc]
        def astream(self, *args: Any, **further: Any) -> Any:
            kept.append(super().astream(*args, **further))
            return kept[-1]

    graph.__class__ = Kept
    await stopped_by_a_word(stuck, make_agent(graph))


# --- on a real worker ----------------------------------------------------------------------------------


async def test_a_turn_that_waits_for_approval_is_parked_and_goes_on_at_another_worker(open_backplane: Any) -> None:
    """No slot waits, no word comes twice, no model is asked twice, and the tool runs once."""
    ran: list[str] = []

    @tool
    def delete(path: str) -> str:
        """Delete."""
        if interrupt({"tool_name": "delete", "args": {"path": path}}) is not True:
            return "kept"
        ran.append(path)
        return "gone"

    script = Script(answers=[[*says("I shall. "), *calls("delete", '{"path":"/"}')], says("It is ", "gone.", spent=4)])
    agent = make_agent(react(script, delete))
    end = await parked_and_finished_elsewhere(open_backplane, agent)
    assert end["usage"] == {"input_tokens": 20, "output_tokens": 4, "model": "tiny"}
    assert (len(script.told), ran) == (2, ["/"])


@pytest.mark.parametrize("where", ["model", "tool"])
async def test_a_cancelled_turn_stops_the_model_and_the_tools(open_backplane: Any, where: str) -> None:
    stuck = Work()

    @tool
    async def work() -> str:
        """Work."""
        await stuck()
        return ""

    async def answer() -> Chunks:
        if where == "model":
            await stuck()
        return calls("work")

    await stopped_at(stuck, open_backplane, make_agent(react(Script(answers=[answer]), work)))
