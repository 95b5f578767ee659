"""docs/dialects.md is true: it names every event that a dialect tells, what it becomes there, and every route."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gateway.dialects.agui import AgUi
from gateway.dialects.aisdk import AiSdk

ROOT = Path(__file__).parents[2]
PAGE = "dialects.md"


def test_every_event_that_is_told_has_a_row(table: Any) -> None:
    told = set(AgUi("t", "r", "q")._feeds) | set(AiSdk("q")._feeds)
    rows = table(PAGE, "event", "AG-UI", "AI SDK")
    assert {row["event"].strip("`") for row in rows} - {"(begin)", "degraded", "thread_deleted"} == told


def test_every_frame_that_a_dialect_has_is_named(table: Any) -> None:
    rows = table(PAGE, "event", "AG-UI", "AI SDK")
    for column, name in (("AG-UI", "agui"), ("AI SDK", "aisdk")):
        code = (ROOT / "gateway" / "dialects" / f"{name}.py").read_text(encoding="utf-8")
        made = set(re.findall(r'"type": "([A-Z_]+|[a-z-]+)"', code)) - {
            "assistant", "function", "object", "boolean", "string", "success", "cancelled", "interrupt",
        }  # fmt: skip
        named = set(re.findall(r"`([A-Z_]+|[a-z]+(?:-[a-z]+)*)`", " ".join(row[column] for row in rows)))
        assert made <= named, made - named


def test_every_route_is_named(table: Any) -> None:
    code = (ROOT / "gateway" / "dialects" / "routes.py").read_text(encoding="utf-8")
    routes = set(re.findall(r'Route\("([^"]+)"', code))
    assert {row["route"].strip("`") for row in table(PAGE, "method", "route", "what it does")} == routes
