"""What agents of every framework say in the same words: an output that is no text, a tool that may not run."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_jsonable_python

from backplane.events import dumps
from worker.turn import Decision


def as_text(output: Any) -> str:
    """Return an output as the text of an answer: text as it is, all else as JSON."""
    return output if isinstance(output, str) else dumps(to_jsonable_python(output, fallback=str))


def refusal(decision: Decision) -> str:
    """Return what a model is told of a tool that was not approved."""
    return "The person said no." if decision.decision else "Nobody decided in time, so it was not done."
