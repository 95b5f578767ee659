"""The model of sizes: it agrees with what was measured, grows with the load, and its page is what it prints."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.sizing.costs import PAGE, measured, read
from scripts.sizing.model import Load, size

ROOT = Path(__file__).parents[3]
COSTS = read()


def test_the_costs_add_up_to_what_the_whole_system_was_measured_to_use() -> None:
    costs = COSTS.append + COSTS.speak + COSTS.hear
    found = measured(PAGE.read_text(), "whole-system", "CPU of all per 100,000 frames, 1 node")
    assert costs * 100_000 == pytest.approx(found, rel=0.2)


def test_one_gateway_delivers_what_one_was_measured_to_deliver() -> None:
    most = measured(PAGE.read_text(), "saturated", "the same for a whole core")
    half = Load(connections=4_000, turns=1, tokens=20, watchers=most / 20 / 2, back_within=600)
    fleet = size(half, COSTS)
    assert fleet.nodes == 1
    assert fleet.node == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("field", ["connections", "turns", "tokens", "watchers"])
def test_more_to_carry_never_needs_less(field: str) -> None:
    small = Load(connections=20_000, turns=2_000, tokens=5, watchers=1.0)
    large = replace(small, **{field: getattr(small, field) * 40})
    one, other = size(small, COSTS), size(large, COSTS)
    assert (other.nodes, other.workers, other.shards) >= (one.nodes, one.workers, one.shards)
    assert other.line >= one.line
    assert (other.nodes, other.workers, other.shards) != (one.nodes, one.workers, one.shards)


def test_more_slots_make_fewer_processes_and_quieter_shards() -> None:
    few, many = size(Load(slots=16), COSTS), size(Load(slots=64), COSTS)
    assert many.workers < few.workers
    assert many.canaries < few.canaries
    assert many.shards < few.shards


def test_more_shards_than_partitions_are_said_to_break() -> None:
    assert "shards over partitions" in size(Load(partitions=64), COSTS).broken()
    assert size(Load(partitions=1024, slots=64), COSTS).broken() == []


def test_a_line_that_the_table_lacks_is_named() -> None:
    with pytest.raises(LookupError, match="no such thing"):
        measured(PAGE.read_text(), "growth", "no such thing")


def test_the_tables_of_the_page_are_what_its_commands_print() -> None:
    page = (ROOT / "docs" / "sizing.md").read_text()
    found = re.findall(r"<!-- scripts/simulate ?([^\n>]*?) ?-->\n(.*?)\n<!-- / -->", page, re.DOTALL)
    assert found
    for arguments, table in found:
        done = subprocess.run(
            [sys.executable, "-m", "scripts.sizing", *shlex.split(arguments)],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
        assert done.stdout.strip() == table, f"run scripts/simulate {arguments}, and put what it prints there"
