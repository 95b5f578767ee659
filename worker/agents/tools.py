"""The tools that the built-in agents share: a calculator and a clock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from worker.agents.calculator import CalculationError, calculate


class ToolFailure(Exception):
    """A tool could not do what it was asked. The message is shown to the person and to the model."""


@dataclass(frozen=True, slots=True)
class Tool:
    """Something a model may call: what it is named, what it takes, and what runs."""

    name: str
    description: str
    """For the model: what the tool does and when to use it."""
    parameters: dict[str, Any]
    """JSON Schema of the arguments, an object."""
    run: Callable[[dict[str, Any]], Awaitable[str]]
    """Takes the arguments, returns the output. Raises ToolFailure with words that may be shown."""


def read_clock(timezone: str = "UTC", now: datetime | None = None) -> str:
    """Return the time in a time zone, such as `2026-03-01 09:30:00 CET (Sunday)`.

    Args:
        timezone: an IANA name such as `Europe/Berlin`.
        now: the moment to show, with its zone; None reads this machine's clock.

    Raises:
        ToolFailure: when the zone is not known on this machine.
    """
    try:
        zone = UTC if timezone.upper() == "UTC" else ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):  # not found; a path; a folder of zones such as "Europe"
        raise ToolFailure(f"timezone: expected an IANA name such as Europe/Berlin, got {timezone[:60]!r}") from None
    moment = (now or datetime.now(UTC)).astimezone(zone)
    return f"{moment:%Y-%m-%d %H:%M:%S %Z (%A)}"


async def _run_calculator(args: dict[str, Any]) -> str:
    try:
        return calculate(_text(args, "expression"))
    except CalculationError as error:
        raise ToolFailure(str(error)) from None


async def _run_clock(args: dict[str, Any]) -> str:
    return read_clock(_text(args, "timezone") if "timezone" in args else "UTC")


def _text(args: dict[str, Any], name: str) -> str:
    value = args.get(name)
    if not isinstance(value, str):
        raise ToolFailure(f"{name}: expected text, got {type(value).__name__}; call again with a string")
    return value


CALCULATOR = Tool(
    name="calculator",
    description="Evaluate an arithmetic expression exactly, for example 2 * (3 + 4) ** 2 or sqrt(2).",
    parameters={
        "type": "object",
        "properties": {"expression": {"type": "string", "description": "The expression."}},
        "required": ["expression"],
        "additionalProperties": False,
    },
    run=_run_calculator,
)
CLOCK = Tool(
    name="clock",
    description="Read the current date and time.",
    parameters={
        "type": "object",
        "properties": {
            "timezone": {"type": "string", "description": "IANA name such as Europe/Berlin; UTC if left out."}
        },
        "additionalProperties": False,
    },
    run=_run_clock,
)
TOOLS: tuple[Tool, ...] = (CALCULATOR, CLOCK)
