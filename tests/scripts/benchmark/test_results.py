"""What is made of the benchmark's values: medians, ratios, goals, the JSON, the page and the plot."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from scripts.benchmark import page
from scripts.benchmark.plot import svg
from scripts.benchmark.results import Results, facts
from scripts.benchmark.rows import ROWS, Measure
from scripts.benchmark.table import lines
from scripts.benchmark.tally import Tally


@pytest.fixture
def results() -> Results:
    """Return three rounds of two rows."""
    found = Results(facts=facts(3, 1.0) | {"client_events_per_second": 3e5, "client_joins_per_second": 5e3})
    for ours, theirs in ((4.0, 90.0), (5.0, 100.0), (9.0, 300.0)):
        found.add("growth", "threadline", {"nodes_1": ours, "nodes_8": ours, "growth": 1.0})
        found.add("growth", "stock", {"nodes_1": theirs, "nodes_8": theirs, "growth": 6.0})
    found.add("joins", "threadline", {"joins": 1500.0})
    found.add("joins", "stock", {"joins": 1000.0})
    found.add("joins", "node", {"joins": 3000.0})
    found.add("joins", "node-sharded", {"joins": 2000.0})
    return found


def measure(row: str, key: str) -> Measure:
    return next(found for known in ROWS if known.name == row for found in known.measures if found.key == key)


def test_a_ratio_above_one_means_that_threadline_leads(results: Results) -> None:
    assert results.ratio("growth", measure("growth", "nodes_8"), "stock") == 20
    assert results.ratio("joins", measure("joins", "joins"), "stock") == 1.5


def test_of_nodes_adapters_the_better_one_counts(results: Results) -> None:
    assert results.ratio_to_node("joins", measure("joins", "joins")) == 0.5


def test_a_goal_is_met_or_missed_and_without_values_neither(results: Results) -> None:
    assert results.met("growth", measure("growth", "nodes_8")) is True
    assert results.met("growth", measure("growth", "growth")) is True
    assert results.met("saturated", measure("saturated", "deltas")) is None
    results.add("saturated", "threadline", {"deltas": 79_999.0})
    assert results.met("saturated", measure("saturated", "deltas")) is False


def test_json_keeps_every_value_and_no_word_that_json_lacks(results: Results, tmp_path: Path) -> None:
    kept = tmp_path / "bench.json"
    results.write(kept)
    assert "NaN" not in kept.read_text()
    assert json.loads(kept.read_text())["summary"]["growth"]["nodes_8"]["times_better_than_stock"] == 20
    assert Results.read(kept).values == results.values


def test_the_page_gets_its_figures_between_its_marks_alone(results: Results, tmp_path: Path) -> None:
    copy = tmp_path / "performance.md"
    copy.write_text(page.PAGE.read_text())
    page.write(results, copy, tmp_path / "performance.svg")
    page.write(results, copy, tmp_path / "performance.svg")
    text = copy.read_text()
    assert text.count("| joins | new connections joined per second (/s) | 1,500 | 1,000 |") == 1
    for mark in ("machine", "table"):
        text = page.put(text, mark, "")
    blank = page.put(page.put(page.PAGE.read_text(), "machine", ""), "table", "")
    assert text == blank


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(page.NoMarks, match="<!-- table -->"):
        page.put("no marks", "table", "figures")


def test_the_plot_is_well_formed_and_names_what_it_compares(results: Results) -> None:
    drawn = svg(results)
    ElementTree.fromstring(drawn)
    assert "stock python-socketio" in drawn
    assert "joins, joins: to Node" in drawn
    assert "nan" not in drawn


def test_the_page_explains_every_row() -> None:
    text = page.PAGE.read_text()
    missing = [row.name for row in ROWS if f"| `{row.name}` |" not in text]
    assert missing == []


def test_the_table_has_a_line_for_each_measure(results: Results) -> None:
    assert len(lines(results)) == sum(len(row.measures) for row in results.rows)


def test_percentiles_are_those_of_all_processes_together() -> None:
    whole = Tally(latencies={10: 50})
    whole.add(Tally.of(json.loads(json.dumps(Tally(frames=3, latencies={10: 49, 900: 1}).as_dict()))))
    assert whole.frames == 3
    assert whole.percentile(0.99) == pytest.approx(1.0)
    assert whole.percentile(1.0) == pytest.approx(90.0)
    assert math.isnan(Tally().percentile(0.5))
