"""The dashboard shows metrics that exist, and asks for nothing but a Prometheus."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.metrics import Metrics as GatewayMetrics
from worker.metrics import Metrics as WorkerMetrics

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "threadline.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
METRIC = re.compile(r"\bthreadline_\w+")


def known_metrics() -> set[str]:
    """Return every name that a gateway or a worker may give a sample."""
    families = [*GatewayMetrics().registry.collect(), *WorkerMetrics().registry.collect()]
    names = set()
    for family in families:
        kinds = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {family.name + kind for kind in kinds}
    return names


@pytest.fixture(scope="module")
def metrics() -> set[str]:
    return known_metrics()


def test_every_panel_asks_for_metrics_that_exist(metrics: set[str]) -> None:
    asked = {name for panel in PANELS for target in panel["targets"] for name in METRIC.findall(target["expr"])}
    assert asked
    assert asked <= metrics


def test_every_metric_is_on_the_page_for_operators_and_those_there_exist(metrics: set[str]) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    table = page[page.index("**Metrics.**") : page.index("**Plugs.**")]
    told = set(re.findall(r"`(threadline_\w+)`", table))
    known = {name.removesuffix("_bucket") for name in metrics if not name.endswith(("_sum", "_count"))}
    assert told == known


def test_panels_do_not_overlap_and_have_a_title_and_a_reason() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["title"]
        assert panel["description"]
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_it_loads_with_whatever_data_source_there_is() -> None:
    (variable,) = DASHBOARD["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
    sources = {
        source["uid"]
        for panel in PANELS
        for source in (panel["datasource"], *(t["datasource"] for t in panel["targets"]))
    }
    assert sources == {"${datasource}"}
