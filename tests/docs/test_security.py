"""docs/security.md names a test for each threat, and the test is there."""

from __future__ import annotations

import ast
from typing import Any

from tests.docs.conftest import ROOT

PAGE = "security.md"


def test_each_test_that_is_named_exists(table: Any) -> None:
    for row in table(PAGE, "threat", "what happens"):
        file, _, name = row["test"].strip("`").partition("::")
        tree = ast.parse((ROOT / file).read_text())
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert name in names, f"{file} has no {name}"


def test_each_threat_is_named(table: Any) -> None:
    rows = {int(row["threat"].partition(":")[0]) for row in table(PAGE, "threat", "what happens")}
    assert rows == set(range(1, 27))
