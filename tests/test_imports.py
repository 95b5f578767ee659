"""Imports point down: gateway -> backplane <- worker, and each library stays in its house."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODEL_SDKS = {"openai", "pydantic_ai", "langgraph", "langchain_core", "agents"}
HOUSES = {
    "backplane": {"gateway", "worker", "cli", "threadline_client", "socketio", "engineio", "starlette", "uvicorn"},
    "gateway": {"worker", "cli", "threadline_client", "redis", "hiredis", *MODEL_SDKS},
    "worker": {
        "gateway",
        "cli",
        "threadline_client",
        "redis",
        "hiredis",
        "socketio",
        "engineio",
        "starlette",
        "uvicorn",
    },
    "clients/python/threadline_client": {"backplane", "gateway", "worker", "cli", "redis", "starlette", "uvicorn"},
    "cli": {"redis", "hiredis", "socketio", "engineio", "starlette", "uvicorn", *MODEL_SDKS},
}
"""What each house must not import."""
EXCEPTIONS = {
    # the claimer meets the errors of its blocking connection, before the backplane makes them ours
    ("worker/claimer.py", "redis"),
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("house", HOUSES)
def test_a_house_imports_only_what_stands_below_it(house: str) -> None:
    for path in (ROOT / house).rglob("*.py"):
        name = str(path.relative_to(ROOT))
        wrong = {module for module in imports(path) & HOUSES[house] if (name, module) not in EXCEPTIONS}
        assert wrong == set(), f"{name} must not import {wrong}"


def test_the_sdk_of_opentelemetry_stays_in_one_file() -> None:
    """Everybody else speaks to its API, which does nothing by itself: the extra need not be installed."""
    sdk = re.compile(r"^\s*(?:import|from) opentelemetry\.(?:sdk|exporter)", re.MULTILINE)
    paths = [path for house in HOUSES for path in (ROOT / house).rglob("*.py") if sdk.search(path.read_text())]
    assert paths == [ROOT / "backplane" / "traces.py"]


def test_model_sdks_stay_under_the_agents() -> None:
    for path in (ROOT / "worker").glob("*.py"):
        assert not MODEL_SDKS & imports(path)
