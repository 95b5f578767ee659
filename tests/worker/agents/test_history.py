"""How a model reads the history of a thread, in the form of each framework."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from worker.agents import langgraph, openai_agents, pydantic_ai
from worker.agents.history import from_a_question
from worker.turn import Message

CUT = [
    Message("assistant", "cut off"),
    Message("assistant", "too"),
    Message("user", "one"),
    Message("assistant", "two"),
]


def test_a_history_begins_with_the_person() -> None:
    assert [message.content for message in from_a_question(CUT)] == ["one", "two"]
    assert from_a_question(CUT[:2]) == []
    assert from_a_question(CUT[2:]) == CUT[2:]


@pytest.mark.parametrize(
    "as_messages",
    [langgraph.as_messages, pydantic_ai.as_messages, lambda history: openai_agents.as_input(history, "now")[:-1]],
)
def test_no_framework_is_given_an_answer_whose_question_was_cut_off(
    as_messages: Callable[[Sequence[Message]], Sequence[Any]],
) -> None:
    assert len(as_messages(CUT)) == 2
