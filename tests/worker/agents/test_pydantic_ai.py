"""Agents of Pydantic AI as agents of Threadline, with that library's own test models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, ModelMessage, ModelRetry, RunContext, ToolFailed, ToolReturn, exceptions
from pydantic_ai.messages import ModelRequest, ModelResponse, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaThinkingCalls, DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.usage import UsageLimits

from tests.support.attempts import Attempts, all_of, words
from tests.worker.agents.contract import (
    Between,
    Work,
    failure,
    parked_and_finished_elsewhere,
    results_stand_once,
    stopped_at,
)
from worker.agents.provider_errors import WORDS
from worker.agents.pydantic_ai import ERRORS, make_agent
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

Piece = str | dict[int, DeltaToolCall] | DeltaThinkingCalls


class Script:
    """A model that says its lines, one answer after the other, and remembers what it was told."""

    def __init__(self, *answers: list[Piece]) -> None:
        self.answers = list(answers)
        self.told: list[list[ModelMessage]] = []
        self.model = FunctionModel(stream_function=self._answer)

    async def _answer(self, told: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        self.told.append(told)
        for piece in self.answers.pop(0):
            yield piece


def call(name: str, args: str, call_id: str = "c1") -> dict[int, DeltaToolCall]:
    return {1: DeltaToolCall(name=name, json_args=args, tool_call_id=call_id)}


def one(said: list[Any], kind: type) -> Any:
    [found] = all_of(said, kind)
    return found


async def test_text_thinking_tools_and_usage_become_events() -> None:
    script = Script(
        [{0: DeltaThinkingPart(content="Hm. ")}, {0: DeltaThinkingPart(content="Add.")}, call("add", '{"x":1,"y":2}')],
        ["Three", "."],
    )
    agent = Agent(script.model)

    @agent.tool_plain
    def add(x: int, y: int) -> int:
        return x + y

    said = await Attempts(make_agent(agent)).run()
    usages = [event for event in said if isinstance(event, Usage)]
    assert [event for event in said if not isinstance(event, Usage)] == [
        Iteration(1),
        Thinking("Hm. "),
        Thinking("Add."),
        ToolArgs('{"x":1,"y":2}', "c1", "add"),
        ToolCall("add", {"x": 1, "y": 2}, "c1"),
        ToolResult("add", "3", "c1"),
        Iteration(2),
        Text("Three", 2),
        Text(".", 2),
    ]
    assert usages[-1].input_tokens > usages[0].input_tokens > 0
    assert usages[-1].output_tokens > 0
    assert usages[-1].model.startswith("function")


async def test_the_library_s_test_model_runs_every_tool() -> None:
    agent = Agent(TestModel())

    @agent.tool_plain
    async def look(topic: str) -> dict[str, str]:
        return {topic: "nothing"}

    said = await Attempts(make_agent(agent)).run()
    assert one(said, ToolResult) == ToolResult("look", '{"a":"nothing"}', "pyd_ai_tool_call_id__look")
    assert words(said) == '{"look":{"a":"nothing"}}'


async def test_the_history_and_the_message_reach_the_model() -> None:
    script = Script(["ok"])
    history = [Message("user", "one"), Message("assistant", "tw", interrupted=True)]
    await Attempts(make_agent(Agent(script.model)), history=history, message="three").run()
    [told] = script.told
    texts = [part.content for message in told for part in message.parts]  # type: ignore[union-attr]
    assert texts == ["one", "tw\n[This answer was interrupted.]", "three"]
    assert isinstance(told[1], ModelResponse)


async def test_what_the_person_adds_reaches_the_model_behind_the_tool() -> None:
    script = Script([call("look", "{}")], [call("look", "{}", "c2")], ["Done."])
    agent = Agent(script.model)

    @agent.tool_plain
    def look() -> str:
        return "nothing"

    attempts = Attempts(make_agent(agent))
    attempts.wishes = ["in French", "and short"]
    await attempts.run()
    prompts = [
        [part.content for message in told for part in message.parts if isinstance(part, UserPromptPart)]
        for told in script.told
    ]
    assert prompts == [["go"], ["go", "in French", "and short"], ["go", "in French", "and short"]]
    assert [part.part_kind for part in script.told[1][-1].parts] == ["tool-return", "user-prompt", "user-prompt"]


async def test_options_are_given_to_the_run() -> None:
    agent = Agent(TestModel(), deps_type=str)

    @agent.tool
    def who(ctx: RunContext[str]) -> str:
        return str(ctx.deps)

    said = await Attempts(make_agent(agent, lambda turn: {"deps": turn.subject}), subject="ada").run()
    assert one(said, ToolResult).output == "ada"


async def test_the_temperature_reaches_the_model() -> None:
    seen: list[Any] = []

    async def answer(told: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        seen.append(info.model_settings)
        yield "ok"

    await Attempts(make_agent(Agent(FunctionModel(stream_function=answer))), temperature=0.5).run()
    assert seen == [{"temperature": 0.5}]


async def test_a_structured_output_is_the_answer_as_json() -> None:
    class City(BaseModel):
        name: str

    agent = Agent(TestModel(custom_output_args={"name": "Oslo"}), output_type=City)
    assert words(await Attempts(make_agent(agent)).run()) == '{"name":"Oslo"}'


async def test_another_attempt_asks_no_model_and_runs_no_tool_again() -> None:
    """What was recorded stands; with `retry` its words are said again, with `resume` they were kept."""
    for policy, said_again in (("retry", "Look. Done."), ("resume", "")):
        script = Script(["Look. ", call("count", "{}")], ["Done."])
        agent = Agent(script.model)
        ran: list[int] = []

        @agent.tool_plain
        def count() -> int:
            ran.append(1)  # noqa: B023  # called in this round of the loop alone
            return 1

        attempts = Attempts(make_agent(agent), policy=policy)
        first, second = await attempts.run(), await attempts.run()
        assert words(first) == "Look. Done."
        assert words(second) == said_again
        assert all_of(second, ToolResult) == ([one(first, ToolResult)] if policy == "retry" else [])
        assert (len(script.told), ran) == (2, [1])
        assert [event for event in first if isinstance(event, Usage)] == [
            event for event in second if isinstance(event, Usage)
        ]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("text", "text"),
        ({"a": [1, None]}, {"a": [1, None]}),
        (BinaryContent(b"\x01\x02", media_type="image/png"), None),
        (ToolReturn("value", content="look at this", metadata={"page": 3}), "value"),
    ],
)
async def test_a_result_comes_back_from_the_record_as_it_was(result: Any, expected: Any) -> None:
    """The model is told the same in the attempt that has the result from the record."""
    script = Script([call("fetch", "{}")], ["a"], ["b"])
    agent = Agent(script.model)

    @agent.tool_plain
    def fetch() -> Any:
        return result

    attempts = Attempts(make_agent(agent))
    await attempts.run()
    del attempts.records["model#2"]
    await attempts.run()
    first, second = (
        [part for message in told[2:] if isinstance(message, ModelRequest) for part in message.parts]
        for told in script.told[1:]
    )
    assert [type(part) for part in first] == [type(part) for part in second]
    for before, after in zip(first, second, strict=True):
        assert isinstance(before, ToolReturnPart | UserPromptPart)
        assert isinstance(after, ToolReturnPart | UserPromptPart)
        assert before.content == after.content
    if expected is not None:
        assert isinstance(first[0], ToolReturnPart)
        assert first[0].content == expected


@pytest.mark.parametrize("failure", [ModelRetry("say it otherwise"), ToolFailed("there is none")])
async def test_a_tool_that_refused_is_recorded_too(failure: Exception) -> None:
    script = Script([call("fetch", "{}")], ["I see."])
    agent = Agent(script.model)
    ran: list[int] = []

    @agent.tool_plain
    def fetch() -> str:
        ran.append(1)
        raise failure

    attempts = Attempts(make_agent(agent))
    for said in (await attempts.run(), await attempts.run()):
        result = one(said, ToolResult)
        assert not result.success
        assert str(failure) in result.output
    assert ran == [1]


@pytest.mark.parametrize(
    ("decision", "output", "success"),
    [(("approved",), "gone", True), (("denied",), "The person said no.", False), ((), "Nobody decided", False)],
)
async def test_a_tool_that_needs_approval_asks_the_person(decision: tuple[str], output: str, success: bool) -> None:
    agent = Agent(Script([call("delete", '{"path":"/"}')], ["ok"]).model)

    @agent.tool_plain(requires_approval=True)
    def delete(path: str) -> str:
        return "gone"

    attempts = Attempts(make_agent(agent))
    result = one(await attempts.run(*decision), ToolResult)
    assert result.success is success
    assert output in result.output
    [question] = attempts.asked
    assert (question["kind"], question["tool_name"], question["args"]) == ("approval", "delete", {"path": "/"})


@pytest.mark.parametrize(
    ("error", "error_type", "retry_after_ms"),
    [
        (exceptions.ModelHTTPError(500, "m", "sk-secret"), "provider_unavailable", None),
        (exceptions.ModelRateLimitError("m", "sk-secret", retry_after=1.5), "rate_limited", 1500),
        (exceptions.ModelQuotaExceededError("m", "sk-secret"), "quota_exceeded", None),
        (exceptions.ModelAuthenticationError("m", "sk-secret"), "auth", None),
        (exceptions.ModelContextWindowExceededError("m", "sk-secret"), "context_length", None),
        (exceptions.ModelNotFoundError("m", "sk-secret"), "model_not_found", None),
        (exceptions.ModelTimeoutError("m", "sk-secret"), "provider_timeout", None),
        (exceptions.ModelRequestTimeout("m", 3), "provider_timeout", None),
        (exceptions.ModelConnectionError("m", "sk-secret"), "provider_unavailable", None),
        (exceptions.ContentFilterError("sk-secret"), "content_filter", None),
        (exceptions.UnexpectedModelBehavior("sk-secret"), "invalid_response", None),
        (
            exceptions.FallbackExceptionGroup("all", [exceptions.ModelServerError("m", "sk")]),
            "provider_unavailable",
            None,
        ),
    ],
)
async def test_each_failure_of_a_model_has_its_type_and_none_of_its_text(
    error: Exception, error_type: str, retry_after_ms: int | None, capfd: pytest.CaptureFixture[str]
) -> None:
    async def answer(told: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        yield "half"
        raise error

    agent = make_agent(Agent(FunctionModel(stream_function=answer)))
    assert await failure(agent) == (error_type, retry_after_ms)
    assert "sk-secret" not in "".join(capfd.readouterr())


async def test_a_limit_of_rounds_ends_the_turn() -> None:
    agent = Agent(Script([call("more", "{}")], [call("more", "{}", "c2")]).model)

    @agent.tool_plain
    def more() -> str:
        return "again"

    with pytest.raises(AgentError) as caught:
        await Attempts(make_agent(agent, lambda turn: {"usage_limits": UsageLimits(request_limit=1)})).run()
    assert caught.value.error_type == "max_iterations"


@pytest.mark.parametrize("error_type", sorted(set(ERRORS.values())))
def test_each_type_has_words(error_type: str) -> None:
    assert error_type in WORDS


# --- on a real worker ----------------------------------------------------------------------------------


async def test_a_turn_that_waits_for_approval_is_parked_and_goes_on_at_another_worker(open_backplane: Any) -> None:
    """No slot waits, no word comes twice, no model is asked twice, and the tool runs once."""
    script = Script(["I shall. ", call("delete", '{"path":"/"}')], ["It is ", "gone."])
    agent = Agent(script.model)
    ran: list[str] = []

    @agent.tool_plain(requires_approval=True)
    def delete(path: str) -> str:
        ran.append(path)
        return "gone"

    end = await parked_and_finished_elsewhere(open_backplane, make_agent(agent))
    assert end["usage"]["input_tokens"] > 0
    assert (len(script.told), ran) == (2, ["/"])


async def test_results_of_parallel_tools_are_told_once_over_a_lost_worker(open_backplane: Any) -> None:
    between = Between()

    async def answer(told: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        if len(told) > 1:
            await between.answering()
            yield "Done."
        else:
            yield {1: DeltaToolCall(name="quick", json_args="{}", tool_call_id="a")}
            yield {2: DeltaToolCall(name="slow", json_args="{}", tool_call_id="b")}

    agent = Agent(FunctionModel(stream_function=answer))

    @agent.tool_plain
    def quick() -> str:
        return "quick"

    @agent.tool_plain
    async def slow() -> str:
        await between.slow.wait()
        return "slow"

    await results_stand_once(open_backplane, make_agent(agent), between)


@pytest.mark.parametrize("result", ["text", {"a": 1}, ToolReturn("r", content="c"), ModelRetry("no"), ToolFailed("no")])
async def test_a_result_is_told_alike_with_every_policy(result: Any) -> None:
    """With `resume` it is told inside of its step, with `retry` behind it."""
    told = []
    for policy in ("retry", "resume"):
        agent = Agent(Script([call("work", "{}")], ["ok"]).model, retries=2)

        @agent.tool_plain
        def work() -> Any:
            if isinstance(result, Exception):
                raise result
            return result

        told.append(one(await Attempts(make_agent(agent), policy=policy).run(), ToolResult))
    assert told[0] == told[1]


@pytest.mark.parametrize("where", ["model", "tool"])
async def test_a_cancelled_turn_stops_the_model_and_the_tools(open_backplane: Any, where: str) -> None:
    stuck = Work()

    async def answer(told: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        yield "Well, "
        if where == "model":
            await stuck()
        yield call("work", "{}")

    agent = Agent(FunctionModel(stream_function=answer))

    @agent.tool_plain
    async def work() -> str:
        await stuck()
        return ""

    await stopped_at(stuck, open_backplane, make_agent(agent))
