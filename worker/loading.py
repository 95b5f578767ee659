"""Finds the agent that a worker is told to run."""

from __future__ import annotations

import importlib
import os
import sys

from backplane.errors import Misconfigured
from worker.turn import Agent


def load_agent(path: str) -> Agent:
    """Return the agent at `module:attribute`; modules of the working directory are found too.

    Raises:
        Misconfigured: when the module cannot be imported, or the attribute is not a callable in it.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise Misconfigured(f"agent: expected module:attribute, got {path!r}; for instance worker.agents.demo:agent")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: object = importlib.import_module(module_name)
        for name in attribute.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise Misconfigured(
            f"agent: expected {path!r} to name an agent, got {error}; check the spelling, and that it can be imported"
        ) from error
    if not callable(found):
        raise Misconfigured(
            f"agent: expected {path!r} to be an async generator function, got {type(found).__name__}; "
            "docs/agents.md shows one in ten lines"
        )
    return found
