"""Finding the agent that is named on the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from backplane.errors import Misconfigured
from worker.agents import demo
from worker.loading import load_agent


def test_an_agent_is_found_by_its_module_and_name() -> None:
    assert load_agent("worker.agents.demo:agent") is demo.agent


def test_a_module_of_the_working_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_agent.py").write_text("async def agent(turn):\n    yield 'hi'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    assert callable(load_agent("my_own_agent:agent"))


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("no_colon", "expected module:attribute"),
        (":agent", "expected module:attribute"),
        ("no_such_module:agent", "No module named"),
        ("worker.agents.demo:no_such", "no attribute"),
        ("backplane.ids:MAX_THREAD_ID", "async generator function"),
    ],
)
def test_what_cannot_be_an_agent_is_refused_with_the_reason(path: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says):
        load_agent(path)
