"""Agents of the OpenAI Agents SDK as agents of Threadline, with that library's own scripted model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
import openai
import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    ModelRetryBackoffSettings,
    ModelRetrySettings,
    ModelSettings,
    RunConfig,
    RunContextWrapper,
    Usage,
    exceptions,
    function_tool,
    handoff,
    input_guardrail,
    retry_policies,
)
from agents.models.interface import Model, ModelProvider
from agents.run import CallModelData, ModelInputData
from agents.testing import ModelCall, ModelStep, ScriptedModel, assistant_message, function_call
from openai.types.responses import (
    Response,
    ResponseError,
    ResponseErrorEvent,
    ResponseFailedEvent,
    ResponseIncompleteEvent,
    ResponseReasoningItem,
    ResponseTextDeltaEvent,
)
from openai.types.responses.response import IncompleteDetails
from openai.types.responses.response_reasoning_item import Summary
from pydantic import BaseModel

from tests.support.attempts import Attempts, all_of, words
from tests.worker.agents.contract import (
    Between,
    Work,
    failure,
    parked_and_finished_elsewhere,
    results_stand_once,
    stopped_at,
    stopped_by_a_word,
)
from worker.agents.openai_agents import make_agent
from worker.turn import (
    AgentError,
    Iteration,
    Message,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
    ToolResult,
    Turn,
)
from worker.turn import Usage as Spent

QUIET = RunConfig(tracing_disabled=True)


def quiet(turn: Turn) -> dict[str, Any]:
    return {"run_config": QUIET}


def configured(config: RunConfig, turn: Turn) -> dict[str, Any]:
    return {"run_config": config}


def adapted(agent: Agent[Any]) -> Any:
    return make_agent(agent, quiet)


def model(*answers: Any) -> ScriptedModel:
    return ScriptedModel(answers, default_usage=Usage(1, 10, output_tokens=2, total_tokens=12))


@function_tool
def add(x: int, y: int) -> int:
    """Add."""
    return x + y


async def test_text_thinking_tools_and_usage_become_events() -> None:
    thought = ResponseReasoningItem(id="r", type="reasoning", summary=[Summary(text="Hm.", type="summary_text")])
    script = model([thought, function_call("add", {"x": 1, "y": 2}, call_id="c1")], [assistant_message("Three.")])
    said = await Attempts(adapted(Agent("a", model=script, tools=[add]))).run()
    assert said == [
        Iteration(1),
        Thinking("Hm."),
        ToolArgs('{"x":1,"y":2}', "c1", "add"),
        ToolCall("add", {"x": 1, "y": 2}, "c1"),
        ToolResult("add", "3", "c1"),
        Iteration(2),
        Text("Three.", 2),
        Spent(20, 4),
    ]


async def test_the_history_and_the_message_reach_the_model() -> None:
    script = model([assistant_message("ok")])
    history = [Message("user", "one"), Message("assistant", "tw", interrupted=True)]
    await Attempts(adapted(Agent("a", model=script)), history=history, message="three").run()
    assert script.calls[0].input == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "tw\n[This answer was interrupted.]"},
        {"role": "user", "content": "three"},
    ]


async def test_what_the_person_adds_reaches_the_model_and_keeps_its_place() -> None:
    script = model(
        [function_call("add", {"x": 1, "y": 2}, call_id="c1")],
        [function_call("add", {"x": 3, "y": 4}, call_id="c2")],
        [assistant_message("ok")],
    )
    attempts = Attempts(adapted(Agent("a", model=script, tools=[add])))
    attempts.wishes = ["in French", "and short"]
    await attempts.run()
    added: list[Any] = [{"role": "user", "content": "in French"}, {"role": "user", "content": "and short"}]
    first, second, third = [list(asked.input) for asked in script.calls]
    assert len(first) == 1
    assert second[-2:] == added
    assert third[: len(second)] == second
    assert third.count(added[0]) == 1


async def test_a_filter_of_the_configuration_is_asked_before() -> None:
    def shortened(data: CallModelData[Any]) -> ModelInputData:
        return ModelInputData(data.model_data.input[-1:], "Be brief.")

    script = model([assistant_message("ok")])
    config = RunConfig(tracing_disabled=True, call_model_input_filter=shortened)
    attempts = Attempts(
        make_agent(Agent("a", model=script), partial(configured, config)), history=[Message("user", "one")]
    )
    await attempts.run()
    assert script.calls[0].input == [{"role": "user", "content": "go"}]
    assert script.calls[0].system_instructions == "Be brief."


async def test_the_model_may_come_from_a_provider_or_from_the_configuration() -> None:
    class Provider(ModelProvider):
        def get_model(self, model_name: str | None) -> Model:
            assert model_name == "tiny"
            return model([assistant_message("from the provider")])

    chosen = model([assistant_message("from the configuration")])
    for agent, config in (
        (Agent("a", model="tiny"), RunConfig(model_provider=Provider(), tracing_disabled=True)),
        (Agent("a"), RunConfig(model=chosen, tracing_disabled=True)),
    ):
        attempts = Attempts(make_agent(agent, partial(configured, config)))
        assert words(await attempts.run()).startswith("from the ")
        assert list(attempts.records) == ["model:1#1"]


async def test_options_are_given_to_the_run() -> None:
    @function_tool
    def who(context: RunContextWrapper[str]) -> str:
        """Who asks."""
        return context.context

    script = model([function_call("who", {}, call_id="c1")], [assistant_message("ok")])
    agent: Agent[str] = Agent("a", model=script, tools=[who])
    said = await Attempts(make_agent(agent, lambda turn: {"context": turn.subject, **quiet(turn)})).run()
    assert all_of(said, ToolResult)[0].output == "ada"


async def test_a_structured_output_is_the_answer_as_json() -> None:
    class City(BaseModel):
        name: str

    script = model([assistant_message('{"name":"Oslo"}')])
    said = await Attempts(adapted(Agent("a", model=script, output_type=City))).run()
    assert words(said) == '{"name":"Oslo"}'


async def test_an_answer_that_is_a_tool_s_result_is_said() -> None:
    script = model([function_call("add", {"x": 1, "y": 2}, call_id="c1")])
    agent = Agent("a", model=script, tools=[add], tool_use_behavior="stop_on_first_tool")
    assert words(await Attempts(adapted(agent)).run()) == "3"


@pytest.mark.parametrize("explicit", [True, False])
async def test_another_agent_takes_over(explicit: bool) -> None:
    """The handoff is shown as a tool, and what the other agent does is recorded too."""
    second = Agent("B", model=model([function_call("add", {"x": 2, "y": 2}, call_id="c2")], [assistant_message("4")]))
    second.tools = [add]
    second.handoffs = []
    first = Agent("A", model=model([function_call("transfer_to_b", {}, call_id="c1")]))
    first.handoffs = [handoff(second) if explicit else second]
    second.handoffs.append(first)  # they know each other
    attempts = Attempts(adapted(first))
    for _ in range(2):
        said = await attempts.run()
        assert [(call.tool_name, call.tool_call_id) for call in all_of(said, ToolCall)] == [
            ("transfer_to_b", "c1"),
            ("add", "c2"),
        ]
        assert [result.output for result in all_of(said, ToolResult)] == ["B goes on.", "4"]
        assert words(said) == "4"


async def test_another_attempt_asks_no_model_and_runs_no_tool_again() -> None:
    """What was recorded stands; with `retry` its words are said again, with `resume` they were kept."""
    for policy, said_again in (("retry", "Look. Done."), ("resume", "")):
        ran: list[int] = []

        @function_tool
        def count() -> int:
            """Count."""
            ran.append(1)  # noqa: B023  # called in this round of the loop alone
            return len(ran)  # noqa: B023

        first_answer = [assistant_message("Look. "), function_call("count", {}, call_id="c1")]
        script = model(first_answer, [assistant_message("Done.")])
        attempts = Attempts(adapted(Agent("a", model=script, tools=[count])), policy=policy)
        first, second = await attempts.run(), await attempts.run()
        assert words(first) == "Look. Done."
        assert words(second) == said_again
        assert all_of(second, ToolResult) == (all_of(first, ToolResult) if policy == "retry" else [])
        assert all_of(first, Spent) == all_of(second, Spent)
        assert (len(script.calls), ran) == (2, [1])


async def test_what_the_sdk_tried_twice_is_not_asked_again_in_another_attempt() -> None:
    """The failure stands in the record too: no later answer takes the place of an earlier one."""
    again = ModelRetrySettings(
        max_retries=1, policy=retry_policies.network_error(), backoff=ModelRetryBackoffSettings(initial_delay=0)
    )
    lost = openai.APIConnectionError(request=REQUEST)
    script = model(lost, [function_call("add", {"x": 1, "y": 2}, call_id="c1")], [assistant_message("Three.")])
    agent = Agent("a", model=script, tools=[add], model_settings=ModelSettings(retry=again))
    attempts = Attempts(adapted(agent))
    first, second = await attempts.run(), await attempts.run()
    assert all_of(first, Iteration) == [Iteration(1), Iteration(2)]
    assert first == second
    assert len(script.calls) == 3


async def test_an_agent_as_a_tool_says_nothing_of_the_answer() -> None:
    inner = Agent("inner", model=model([assistant_message("secretly")]))
    script = model([function_call("ask", {"input": "x"}, call_id="c1")], [assistant_message("Done.")])
    attempts = Attempts(adapted(Agent("a", model=script, tools=[inner.as_tool("ask", "Asks.")])))
    said = await attempts.run()
    assert words(said) == "Done."
    assert all_of(said, ToolResult)[0].output == "secretly"
    assert list(attempts.records) == ["model:1#1", "model:2#1"]


@pytest.mark.parametrize(
    ("decision", "output", "success"),
    [(("approved",), "gone", True), (("denied",), "The person said no.", False), ((), "Nobody decided", False)],
)
async def test_a_tool_that_needs_approval_asks_the_person(decision: tuple[str], output: str, success: bool) -> None:
    @function_tool(needs_approval=True)
    def delete(path: str) -> str:
        """Delete."""
        return "gone"

    script = model([function_call("delete", {"path": "/"}, call_id="c1")], [assistant_message("ok")])
    attempts = Attempts(adapted(Agent("a", model=script, tools=[delete])))
    said = await attempts.run(*decision)
    [result] = all_of(said, ToolResult)
    assert result.success is success
    assert output in result.output
    assert output in str(script.calls[1].input)
    [question] = attempts.asked
    assert (question["kind"], question["tool_name"], question["args"]) == ("approval", "delete", {"path": "/"})
    assert all_of(said, Spent)[-1] == Spent(20, 4)


REQUEST: Any = httpx.Request("POST", "http://127.0.0.1/secret")


def refused(status: int) -> openai.APIStatusError:
    response: Any = httpx.Response(status, request=REQUEST, headers={"retry-after": "2"})
    kind = openai.RateLimitError if status == 429 else openai.AuthenticationError
    return kind("sk-secret", response=response, body=None)


@pytest.mark.parametrize(
    ("error", "error_type", "retry_after_ms"),
    [
        (refused(429), "rate_limited", 2000),
        (refused(401), "auth", None),
        (openai.APIConnectionError(message="sk-secret", request=REQUEST), "provider_unavailable", None),
        (exceptions.ModelBehaviorError("sk-secret"), "invalid_response", None),
        (exceptions.ModelRefusalError("sk-secret"), "content_filter", None),
        (exceptions.ModelTimeoutError(3), "provider_timeout", None),
    ],
)
async def test_each_failure_of_a_model_has_its_type_and_none_of_its_text(
    error: Exception, error_type: str, retry_after_ms: int | None
) -> None:
    assert await failure(adapted(Agent("a", model=model(error)))) == (error_type, retry_after_ms)


async def test_a_stream_that_breaks_off_is_unavailable() -> None:
    async def nothing(call: ModelCall) -> AsyncIterator[Any]:
        for event in list[Any]():
            yield event

    with pytest.raises(AgentError) as caught:
        await Attempts(adapted(Agent("a", model=model(ModelStep.stream(nothing))))).run()
    assert caught.value.error_type == "provider_unavailable"


def ends(kind: type, reason: str | None = None, code: str | None = None) -> Any:
    """Return an event that ends a stream of the Responses API without an answer."""
    cause = IncompleteDetails.model_construct(reason=reason) if reason else None
    error = ResponseError.model_construct(code=code, message="sk-secret") if code else None
    response = Response.model_construct(id="r", output=[], usage=None, incomplete_details=cause, error=error)
    return kind.model_construct(response=response, code=code, message="sk-secret")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("end", "error_type"),
    [
        (ends(ResponseIncompleteEvent, reason="content_filter"), "content_filter"),
        (ends(ResponseFailedEvent, code="rate_limit_exceeded"), "rate_limited"),
        (ends(ResponseFailedEvent, code="image_content_policy_violation"), "content_filter"),
        (ends(ResponseFailedEvent, code="server_error"), "provider_unavailable"),
        (ends(ResponseFailedEvent), "provider_unavailable"),
        (ends(ResponseErrorEvent, code="insufficient_quota"), "quota_exceeded"),
        (ends(ResponseErrorEvent), "provider_unavailable"),
    ],
)
async def test_a_stream_that_ends_without_an_answer_says_why(end: Any, error_type: str) -> None:
    async def stream(call: ModelCall) -> AsyncIterator[Any]:
        yield end

    assert await failure(adapted(Agent("a", model=model(ModelStep.stream(stream))))) == (error_type, None)


async def test_a_limit_of_rounds_and_a_guardrail_end_the_turn() -> None:
    @input_guardrail
    def never(context: Any, agent: Any, told: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    calls = [[function_call("add", {"x": 1, "y": 2}, call_id=f"c{number}")] for number in range(3)]
    eager = Agent("a", model=model(*calls), tools=[add])
    looping = make_agent(eager, lambda turn: {"max_turns": 2, **quiet(turn)})
    guarded = adapted(Agent("a", model=model([assistant_message("no")]), input_guardrails=[never]))
    for agent, error_type in ((looping, "max_iterations"), (guarded, "guardrail")):
        with pytest.raises(AgentError) as caught:
            await Attempts(agent).run()
        assert caught.value.error_type == error_type


async def test_a_turn_that_fails_at_a_word_closes_the_model_s_stream() -> None:
    stuck = Work()

    async def stream() -> AsyncIterator[Any]:
        try:
            yield ResponseTextDeltaEvent.model_construct(type="response.output_text.delta", delta="Well, ")
            await stuck()
        finally:
            stuck.stopped.set()

    class Streams(ScriptedModel):
        def stream_response(self, *asked: Any, **further: Any) -> AsyncIterator[Any]:
            self.streaming = stream()  # kept, so that no collector closes it
            return self.streaming

    await stopped_by_a_word(stuck, adapted(Agent("a", model=Streams())))


# --- on a real worker ----------------------------------------------------------------------------------


async def test_a_turn_that_waits_for_approval_is_parked_and_goes_on_at_another_worker(open_backplane: Any) -> None:
    """No slot waits, no word comes twice, no model is asked twice, and the tool runs once."""
    ran: list[str] = []

    @function_tool(needs_approval=True)
    def delete(path: str) -> str:
        """Delete."""
        ran.append(path)
        return "gone"

    first_answer = [assistant_message("I shall. "), function_call("delete", {"path": "/"}, call_id="c1")]
    script = model(first_answer, [assistant_message("It is gone.")])
    agent = adapted(Agent("a", model=script, tools=[delete]))
    end = await parked_and_finished_elsewhere(open_backplane, agent)
    assert end["usage"]["input_tokens"] == 20
    assert (len(script.calls), ran) == (2, ["/"])


async def test_results_of_parallel_tools_are_told_once_over_a_lost_worker(open_backplane: Any) -> None:
    between = Between()

    @function_tool
    def quick() -> str:
        """Be quick."""
        return "quick"

    @function_tool
    async def slow() -> str:
        """Be slow."""
        await between.slow.wait()
        return "slow"

    async def answer(call: ModelCall) -> Any:
        await between.answering()
        return [assistant_message("Done.")]

    calls = [function_call("quick", {}, call_id="a"), function_call("slow", {}, call_id="b")]
    script = model(calls, ModelStep.respond(answer), ModelStep.respond(answer))
    await results_stand_once(open_backplane, adapted(Agent("a", model=script, tools=[quick, slow])), between)


@pytest.mark.parametrize("where", ["model", "tool"])
async def test_a_cancelled_turn_stops_the_model_and_the_tools(open_backplane: Any, where: str) -> None:
    stuck = Work()

    @function_tool
    async def work() -> str:
        """Work."""
        await stuck()
        return ""

    async def answer(call: ModelCall) -> Any:
        if where == "model":
            await stuck()
        return [function_call("work", {}, call_id="c1")]

    agent = Agent("a", model=model(ModelStep.respond(answer)), tools=[work])
    await stopped_at(stuck, open_backplane, adapted(agent))
