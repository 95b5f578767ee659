"""The tools take a model's arguments as they come."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from worker.agents.tools import CALCULATOR, CLOCK, Tool, ToolFailure, read_clock

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def test_the_clock_names_the_zone_and_the_day() -> None:
    assert read_clock("utc", NOON) == "2026-03-01 12:00:00 UTC (Sunday)"


@pytest.mark.parametrize("zone", ["Mars/Base", "../etc/passwd", "/etc/passwd", "", "\0", "x" * 5000])
def test_an_unknown_zone_is_a_failure_with_words(zone: str) -> None:
    with pytest.raises(ToolFailure, match="expected an IANA name"):
        read_clock(zone, NOON)


async def test_the_calculator_tool_calculates() -> None:
    assert await CALCULATOR.run({"expression": "6 * 7"}) == "42"


async def test_the_clock_tool_reads_utc_unless_told_otherwise() -> None:
    assert " UTC (" in await CLOCK.run({})


@pytest.mark.parametrize(
    ("tool", "args", "words"),
    [
        (CALCULATOR, {}, "expression: expected text, got NoneType"),
        (CALCULATOR, {"expression": 5}, "expression: expected text, got int"),
        (CALCULATOR, {"expression": "1/0"}, "division by zero"),
        (CLOCK, {"timezone": 1}, "timezone: expected text, got int"),
    ],
)
async def test_wrong_arguments_are_a_failure_that_says_what_was_expected(
    tool: Tool, args: dict[str, Any], words: str
) -> None:
    with pytest.raises(ToolFailure, match=words):
        await tool.run(args)
