"""The libraries that an extra brings: whoever lacks one is told which."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("openai", "openai", "openai"),
        ("pydantic_ai", "pydantic_ai", "pydantic-ai"),
        ("langgraph", "langgraph", "langgraph"),
        ("openai_agents", "agents", "openai-agents"),
    ],
)
def test_without_the_library_the_import_says_what_to_install(module: str, library: str, extra: str) -> None:
    code = f"import sys; sys.modules['{library}'] = None; import worker.agents.{module}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"pip install 'threadline[{extra}]'" in done.stderr.splitlines()[-1]
