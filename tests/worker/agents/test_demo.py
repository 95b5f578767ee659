"""The demo agent: a phrase for every path of a turn, and the same words for the same thread."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from worker.agents import demo
from worker.agents.demo import agent
from worker.turn import (
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

Events = list[str | AgentEvent]


def turn(message: str, history: Sequence[Message] = (), **metadata: Any) -> Turn:
    return Turn("t1", "r1", "default", "ada", message, list(history), metadata={"delay_ms": 0, **metadata})


async def events(message: str, history: Sequence[Message] = (), **metadata: Any) -> Events:
    return [event async for event in agent(turn(message, history, **metadata))]


async def answer(message: str, history: Sequence[Message] = ()) -> str:
    return "".join(event.delta for event in await events(message, history) if isinstance(event, Text))


async def talk(*messages: str) -> list[Message]:
    """Return the history after the messages were said and answered, one after the other."""
    history: list[Message] = []
    for message in messages:
        reply = await answer(message, history)
        history += [Message("user", message), Message("assistant", reply)]
    return history


async def test_an_answer_comes_in_pieces_of_one_word() -> None:
    pieces = [event.delta for event in await events("say 3 words") if isinstance(event, Text)]
    assert pieces == ["river-1 ", "stone-2 ", "cloud-3"]


@pytest.mark.parametrize("message", ["say 200 words", "200 words", "please write 200 words, slowly!"])
async def test_as_many_numbered_words_come_as_were_asked_for(message: str) -> None:
    words = (await answer(message)).split()
    assert [int(word.rpartition("-")[2]) for word in words] == list(range(1, 201))


async def test_it_counts() -> None:
    assert await answer("Slowly count to 30, please.") == ", ".join(map(str, range(1, 31))) + "."


@pytest.mark.parametrize("message", ["count to 0", "count to 99999999999999999999", "count to " + "9" * 400])
async def test_a_count_beyond_its_bounds_says_the_bounds(message: str) -> None:
    assert await answer(message) == "I count from 1 to at most 10000."


async def test_too_many_words_says_the_bound() -> None:
    assert await answer("say 20001 words") == "I say from 1 to at most 20000 words."


async def test_a_long_story_is_long_and_a_story_is_short() -> None:
    short, long = await answer("tell me a story"), await answer("Tell me a long story slowly.")
    assert 50 < len(short.split()) < 200
    assert len(long.split()) > 500
    assert long.endswith("The end.")


@pytest.mark.parametrize(
    "message",
    ["help", "What can you do?", "count to 3", "what is 2+2", "think about rivers", "anything else", ""],
)
async def test_the_same_thread_gives_the_same_events(message: str) -> None:
    history = await talk("my name is Ada", "count to 3")
    assert await events(message, history) == await events(message, history)


async def test_the_pace_changes_no_word() -> None:
    assert await answer("count to 3 fast") == await answer("count to 3 slowly") == "1, 2, 3."


@pytest.mark.parametrize(
    ("message", "metadata", "delay"),
    [
        ("count to 3", {}, demo.DELAY_MS),
        ("count to 3 slowly", {}, demo.SLOW_DELAY_MS),
        ("Slowly, count to 3", {}, demo.SLOW_DELAY_MS),
        ("count to 3 FAST", {}, 0),
        ("count to 3 slowly", {"delay_ms": 7.5}, 7.5),
        ("count to 3", {"delay_ms": 0}, 0),
    ],
)
async def test_the_pace_is_what_was_asked_for(
    message: str, metadata: dict[str, Any], delay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("worker.agents.demo.asyncio.sleep", sleep)
    async for _ in agent(Turn("t1", "r1", "default", "ada", message, [], metadata=metadata)):
        pass
    assert slept == [delay / 1000] * 3


@pytest.mark.parametrize("delay", [-1, 10_001, "5", None, True, float("nan"), float("inf"), [], {}])
async def test_a_delay_that_is_no_pace_is_an_error_that_says_what_is(delay: object) -> None:
    with pytest.raises(AgentError, match="expected a number from 0 to 10000") as caught:
        await events("hello", delay_ms=delay)
    assert (caught.value.error_type, caught.value.retryable) == ("invalid_metadata", False)


@pytest.mark.parametrize(
    ("message", "expression", "output"),
    [
        ("what is 12 * (3 + 4)?", "12 * (3 + 4)", "84"),
        ("What's 2^10", "2^10", "1024"),
        ("12*7", "12*7", "84"),
        (".5 + 1", ".5 + 1", "1.5"),
        ("12 \u00d7 7 =", "12 \u00d7 7", "84"),
        ("calculate sqrt(16) please", "sqrt(16)", "4"),
        ("how much is 1e3 + 1?", "1e3 + 1", "1001"),
    ],
)
async def test_arithmetic_goes_through_the_calculator(message: str, expression: str, output: str) -> None:
    call, result = (
        ToolCall("calculator", {"expression": expression}, "r1-calculator"),
        ToolResult("calculator", output, "r1-calculator"),
    )
    kinds = [e for e in await events(message) if not isinstance(e, Text | Usage | ToolArgs)]
    assert kinds == [Iteration(1), call, result, Iteration(2)]
    assert await answer(message) == f"{expression} = {output}"


async def test_words_after_a_tool_belong_to_the_second_round() -> None:
    assert {event.round for event in await events("2+2") if isinstance(event, Text)} == {2}


async def test_a_power_that_would_never_end_is_refused_at_once() -> None:
    result = next(event for event in await events("what is 9**9**9?") if isinstance(event, ToolResult))
    assert not result.success
    assert "too large" in result.output
    assert "too large" in await answer("what is 9**9**9?")


async def test_the_clock_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "read_clock", lambda zone: f"noon in {zone}")
    assert await answer("What time is it?") == "It is noon in UTC."
    assert await answer("what time is it in Europe/Berlin?") == "It is noon in Europe/Berlin."


async def test_a_place_without_a_clock_is_a_failed_tool_and_words() -> None:
    result = next(e for e in await events("what time is it in Atlantis?") if isinstance(e, ToolResult))
    assert not result.success
    assert "Europe/Berlin" in await answer("what time is it in Atlantis?")


async def test_it_remembers_a_name_and_takes_the_latest() -> None:
    history = await talk("Hi, my name is Ada.", "count to 3", "call me Grace", "tell me a story")
    assert await answer("What is my name?", history) == "Your name is Grace."
    assert (await answer("hello", history)).startswith("Hello, Grace! Good to see you again.")
    assert await answer("who am I?") == "You have not told me yet. Say `my name is …`."


async def test_it_remembers_what_was_said_first_and_last() -> None:
    history = await talk("the sea is green", "count to 2")
    assert await answer("what did I say first?", history) == 'You said first: "the sea is green".'
    assert await answer("What did I just say?", history) == 'You said last: "count to 2".'
    assert await answer("what did you say last?", history) == 'I said last: "1, 2.".'
    assert await answer("what did I say first?") == "You said nothing before this message."


async def test_it_counts_the_messages_of_the_thread() -> None:
    history = await talk("one", "two")
    words = await answer("how many messages are there?", history)
    assert words == "This is your message number 3. I have answered 2 so far."


async def test_an_unknown_message_is_echoed_with_its_place_in_the_thread() -> None:
    history = await talk("one", "two")
    assert await answer("three\nand  four", history) == (
        'This is message 3 of our conversation. You said: "three and four". '
        'Before that you said: "two". Say `help` to see what I can do.'
    )


@pytest.mark.parametrize(
    "message",
    ["", " ", "?", "\n" * 300, "(" * 400, "pi" * 240, "a" * 262_144, "9" * 490 + " words", "💡" * 90, "count to x"],
)
async def test_any_text_gets_an_answer(message: str) -> None:
    assert await answer(message)


async def test_thinking_comes_before_the_answer() -> None:
    kinds = [type(event) for event in await events("think hard about rivers")]
    assert kinds.index(Text) > kinds.index(Thinking)
    assert Thinking not in kinds[kinds.index(Text) :]
    assert "about rivers" in await answer("think about rivers")


async def test_a_sleeping_tool_says_nothing_until_it_wakes() -> None:
    kinds = [type(event) for event in await events("sleep 0 seconds")]
    assert kinds[:4] == [Iteration, ToolCall, ToolResult, Iteration]
    assert await answer("sleep 601") == "I sleep at most 600 seconds."


async def test_a_sleeping_tool_is_cancelled_in_its_sleep() -> None:
    async with aclosing(agent(turn("sleep 600"))) as stream:  # type: ignore[type-var]
        assert [type(await anext(stream)), type(await anext(stream))] == [Iteration, ToolCall]
        silent = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        assert not silent.done()
        silent.cancel()
        with pytest.raises(asyncio.CancelledError):
            await silent


async def test_it_fails_when_asked_to() -> None:
    with pytest.raises(AgentError, match="as you asked") as caught:
        await events("Fail, please!")
    assert (caught.value.error_type, caught.value.source) == ("demo_failure", "agent")


async def test_it_fails_in_the_middle_when_asked_to() -> None:
    stream = agent(turn("fail after 2 words"))
    assert [await anext(stream), await anext(stream)] == [Text("river-1 "), Text("stone-2")]
    with pytest.raises(AgentError):
        await anext(stream)


async def test_usage_counts_words_and_comes_last() -> None:
    history = [Message("user", "one two"), Message("assistant", "three")]
    assert (await events("count to 4", history))[-1] == Usage(6, 4, "demo")


async def test_every_phrase_that_help_names_is_understood() -> None:
    phrases = re.findall(r"`([^`]+)`", demo.HELP.partition("Put ")[0])
    assert len(phrases) > 10
    for phrase in phrases:
        if not phrase.startswith("fail"):
            got = [event async for event in agent(turn(phrase.replace("sleep 10", "sleep 0")))]
            text = "".join(event.delta for event in got if isinstance(event, Text))
            assert "Say `help`" not in text, phrase


def test_the_guide_names_every_phrase_that_help_names() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "agents.md").read_text(encoding="utf-8")
    for phrase in re.findall(r"`([^`]+)`", demo.HELP):
        assert f"`{phrase}`" in guide
