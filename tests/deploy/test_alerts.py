"""The alerts fire when they must and not before, and ask for metrics that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY, KUBERNETES, ROOT, read
from tests.deploy.test_grafana import METRIC, known_metrics
from tests.support.skipping import unable

RULES = DEPLOY / "prometheus" / "alerts.yml"
ALERTS = [rule for group in read(RULES)["groups"] for rule in group["rules"]]
Promtool = Callable[..., str]


@pytest.fixture
def promtool() -> Promtool:
    """Return a way to call the real one; it must be content."""
    program = shutil.which("promtool")
    if program is None:
        unable("expected promtool on the PATH, found none; install it (apt-get install prometheus) to run these tests")

    def called(*words: str) -> str:
        done = subprocess.run([program, *words], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return called


def test_prometheus_takes_its_configuration_and_the_rules_in_it(promtool: Promtool) -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "config", "deploy/prometheus/prometheus.yml")


def test_each_alert_fires_when_it_must_and_not_before(promtool: Promtool) -> None:
    assert "SUCCESS" in promtool("test", "rules", "tests/deploy/alerts.yml")


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_asks_for_metrics_that_exist_and_says_what_to_do(alert: dict[str, dict[str, str]]) -> None:
    assert set(METRIC.findall(str(alert["expr"]))) <= known_metrics()
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert {"summary", "description"} == set(alert["annotations"])
    page = (ROOT / "docs" / "operations.md").read_text()
    assert f"`{alert['alert']}`" in page, "what to look at first, for whoever is woken"
    assert str(alert["alert"]) in (Path(__file__).parent / "alerts.yml").read_text(), "a case of `promtool test rules`"


def test_the_operator_gets_the_same_rules() -> None:
    rules = read(KUBERNETES / "components" / "prometheus-operator" / "rules.yaml")
    assert rules["spec"]["groups"] == read(RULES)["groups"]


def test_the_page_names_no_alert_that_there_is_not() -> None:
    named = set(re.findall(r"`(Threadline[A-Z]\w+)`", (ROOT / "docs" / "operations.md").read_text()))
    assert named == {alert["alert"] for alert in ALERTS}
