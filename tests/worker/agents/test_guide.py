"""docs/agents.md is true: its first agent runs, and it names everything that an agent may hold or raise."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from agents.testing import ScriptedModel, assistant_message, function_call
from pydantic_ai.models.test import TestModel

from backplane.traces import received, within
from tests.support.spans import CALLER
from worker import turn as contract
from worker.agents.provider_errors import WORDS
from worker.turn import Agent, AgentEvent, Message, ToolCall, ToolResult, Turn

GUIDE = (Path(__file__).parents[3] / "docs" / "agents.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
CLASSES = [name for name, one in vars(contract).items() if inspect.isclass(one) and one.__module__ == "worker.turn"]


def run_block(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "docs/agents.md", "exec"), names)
    return names


def block(holding: str) -> str:
    """Return the one block of Python that holds these words."""
    found: list[str] = [code for code in PYTHON if holding in code]
    assert len(found) == 1
    return found[0]


async def test_the_agent_of_ten_lines_runs() -> None:
    agent = cast("Agent", run_block(PYTHON[0])["agent"])
    history = [Message("user", "hi"), Message("assistant", "hello")]
    said = [event async for event in agent(Turn("t1", "r1", "default", "ada", "four", history))]
    assert all(isinstance(event, (str, *get_args(AgentEvent))) for event in said)
    calls = [event.tool_call_id for event in said if isinstance(event, ToolCall)]
    assert calls == [event.tool_call_id for event in said if isinstance(event, ToolResult)]
    text = "".join(event for event in said if isinstance(event, str))
    assert text == "Let me count. Your message has 4 characters, and 2 messages came before it."


def test_the_agent_of_ten_lines_has_about_ten_lines() -> None:
    assert len([line for line in PYTHON[0].splitlines() if line.strip()]) <= 10


def test_the_error_of_the_guide_can_be_raised() -> None:
    with pytest.raises(contract.AgentError) as caught:
        run_block(f"from worker.turn import AgentError\n{block('weather_unavailable')}")
    assert caught.value.retry_after_ms == 60_000


def test_the_headers_of_a_trace_are_those_of_the_turn() -> None:
    with within(received(CALLER)):
        assert run_block(block("propagate.inject"))["headers"] == {"traceparent": CALLER}


def test_the_agent_with_its_own_tools_can_be_made() -> None:
    assert inspect.isasyncgenfunction(run_block(block("LOOK_UP = Tool("))["agent"])


IMPORTS = "from collections.abc import AsyncIterator\nfrom worker.turn import *\n"


async def test_the_agent_that_can_be_steered_runs_without_a_worker() -> None:
    agent = cast("Agent", run_block(IMPORTS + block("turn.steers()"))["agent"])
    said = [event async for event in agent(Turn("t1", "r1", "default", "ada", "go", []))]
    assert said == ["Chapter one. ", "Chapter two. ", "Chapter three. "]


async def test_the_agent_that_asks_runs_without_a_worker() -> None:
    agent = cast("Agent", run_block(IMPORTS + block("turn.approve("))["agent"])
    for link, answer in (
        (contract.Unlinked("approved", "red"), "Deleted; the rest is red."),
        (contract.Unlinked(), "Then I leave it."),
    ):
        turn = Turn("t1", "r1", "default", "ada", "/tmp", [], link=link)
        assert [event async for event in agent(turn)] == [answer]


async def test_the_agent_that_computes_in_a_thread_runs_without_a_worker() -> None:
    agent = cast("Agent", run_block(IMPORTS + block("asyncio.to_thread("))["agent"])
    said = [event async for event in agent(Turn("t1", "r1", "default", "ada", "hello", []))]
    assert said == ["2 vowels. ", "2 vowels."]


async def test_the_agent_with_a_step_runs_without_a_worker() -> None:
    agent = cast("Agent", run_block(IMPORTS + block("buy"))["agent"])
    said = [event async for event in agent(Turn("t1", "r1", "default", "ada", "tea", []))]
    assert said == ["I am ordering. ", "Done: tea is on its way. "]


async def test_the_agent_of_pydantic_ai_runs() -> None:
    names = run_block(block("from pydantic_ai import"))
    link = contract.Unlinked("approved")
    with names["assistant"].override(model=TestModel()):
        said = [event async for event in names["agent"](Turn("t1", "r1", "default", "ada", "tidy", [], link=link))]
    assert ToolResult("delete", "a is deleted", "pyd_ai_tool_call_id__delete") in said


@pytest.mark.parametrize(
    ("decisions", "answer"), [(["approved"], "tea is on its way."), ([], "Then I do not order it.")]
)
async def test_the_graph_of_langgraph_runs(decisions: list[str], answer: str) -> None:
    link = contract.Unlinked(*decisions)
    agent = run_block(block("from langgraph.graph import"))["agent"]
    said = [event async for event in agent(Turn("t1", "r1", "default", "ada", "tea", [], link=link))]
    assert [event.delta for event in link.said if isinstance(event, contract.Text)] == [answer]
    assert said == [contract.Usage()]


async def test_the_agent_of_the_openai_agents_sdk_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_AGENTS_DISABLE_TRACING", "1")
    names = run_block(block("from agents import"))
    call = function_call("delete", {"path": "a"}, call_id="c1")
    names["assistant"].model = ScriptedModel([[call], [assistant_message("Done.")]])
    link = contract.Unlinked("approved")
    assert [event async for event in names["agent"](Turn("t1", "r1", "default", "ada", "tidy", [], link=link))]
    assert ToolResult("delete", "a is deleted", "c1") in link.said
    assert contract.Text("Done.", 2) in link.said


@pytest.mark.parametrize("name", CLASSES)
def test_the_guide_names_each_class_of_the_contract(name: str) -> None:
    assert re.search(rf"`{name}\b", GUIDE)


@pytest.mark.parametrize("event", get_args(AgentEvent))
def test_the_guide_names_the_fields_of_each_event(event: type) -> None:
    assert f"`{event.__name__}({', '.join(inspect.signature(event).parameters)})`" in GUIDE


@pytest.mark.parametrize("field", inspect.signature(Turn).parameters)
def test_the_guide_names_each_field_of_a_turn(field: str) -> None:
    assert f"`{field}`" in GUIDE


@pytest.mark.parametrize("error_type", WORDS)
def test_the_guide_names_each_error_of_a_provider_and_whether_to_retry(error_type: str) -> None:
    row = next(line for line in GUIDE.splitlines() if line.startswith(f"| `{error_type}` |"))
    assert row.endswith("| yes |" if WORDS[error_type][1] else "| no |")
