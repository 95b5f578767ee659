"""The words that agents of every framework share."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from worker.agents.words import as_text, refusal
from worker.turn import Decision


class City(BaseModel):
    name: str


@pytest.mark.parametrize(
    ("output", "text"),
    [("Oslo", "Oslo"), ({"a": [1, None]}, '{"a":[1,null]}'), (City(name="Oslo"), '{"name":"Oslo"}'), (None, "null")],
)
def test_an_output_is_said_as_it_is_when_it_is_text_and_as_json_else(output: Any, text: str) -> None:
    assert as_text(output) == text


def test_what_json_has_no_form_for_is_said_as_python_says_it() -> None:
    assert as_text({"at": type("Here", (), {"__str__": lambda self: "here"})()}) == '{"at":"here"}'


def test_a_refusal_tells_a_no_from_silence() -> None:
    assert refusal(Decision("denied", "ann")) == "The person said no."
    assert refusal(Decision(None, None)) == "Nobody decided in time, so it was not done."
