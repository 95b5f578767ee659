"""The manifests for Kubernetes: built as kubectl builds them, judged by the schema and against the product."""

from __future__ import annotations

import math
import os
import re
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.metrics import Metrics as OfGateway
from tests.deploy.files import KUBERNETES, PINNED, built, env_file, needs_kubectl, parsed, program, read, read_all
from worker.metrics import Metrics as OfWorker

pytestmark = pytest.mark.skipif(needs_kubectl[0], reason=needs_kubectl[1])
_DELAY = 5
"""Seconds of `sleep` before a gateway is told to stop."""
_OF_OPERATORS = {"HorizontalPodAutoscaler", "ScaledObject", "PodMonitor"}


@pytest.fixture(params=["base", "overlays/example"])
def manifests(request: pytest.FixtureRequest) -> str:
    return built(cast("str", request.param))


def deployments(text: str) -> list[dict[str, Any]]:
    return [found for found in read_all(text) if found["kind"] == "Deployment"]


def test_what_is_built_is_what_the_api_takes(manifests: str, tmp_path: Path) -> None:
    own = [one for one in re.split(r"(?m)^---$", manifests) if not re.search(r"apiVersion: (keda|monitoring)", one)]
    (tmp_path / "built.yaml").write_text("---".join(own))
    done = subprocess.run(
        [program("kubernetes-validate"), "--strict", str(tmp_path / "built.yaml")],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_pod_is_locked_down_pinned_and_has_time_to_drain(manifests: str) -> None:
    (settings_map,) = (found for found in read_all(manifests) if found["kind"] == "ConfigMap")
    settings = parsed(settings_map["data"])
    for deployment in deployments(manifests):
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["enableServiceLinks"] is False, "a Service called threadline would set THREADLINE_PORT"
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
        }  # fmt: skip
        assert pod["terminationGracePeriodSeconds"] > _DELAY + settings.drain_grace + settings.cancel_grace
        assert PINNED.match(container["image"])
        assert {"requests", "limits"} <= set(container["resources"])
        assert pod["topologySpreadConstraints"]
        assert container["livenessProbe"]
        assert container["startupProbe"]


def test_every_variable_of_a_pod_is_a_setting(manifests: str) -> None:
    for deployment in deployments(manifests):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        parsed({found["name"]: found.get("value", "") for found in container["env"]})
        (from_map,) = container["envFrom"]
        names = {found["metadata"]["name"] for found in read_all(manifests) if found["kind"] == "ConfigMap"}
        assert from_map["configMapRef"]["name"] in names


def test_a_gateway_takes_the_keys_of_an_identity_provider_in_place_of_a_secret(manifests: str) -> None:
    """With both it refuses to start, so the secret must not be asked for."""
    (gateway,) = (found for found in deployments(manifests) if found["metadata"]["name"] == "gateway")
    (container,) = gateway["spec"]["template"]["spec"]["containers"]
    asked = {found["name"]: found["valueFrom"].get("secretKeyRef", {}) for found in container["env"]}
    assert asked["THREADLINE_JWT_SECRET"].get("optional") is True
    assert "optional" not in asked["THREADLINE_REDIS_URL"]


def test_a_gateway_gets_clients_by_its_readiness_and_is_restarted_by_its_life(manifests: str) -> None:
    (gateway,) = (found for found in deployments(manifests) if found["metadata"]["name"] == "gateway")
    (container,) = gateway["spec"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", str(_DELAY)]


def test_every_selector_selects_pods_that_there_are(manifests: str) -> None:
    labels = [found["spec"]["template"]["metadata"]["labels"] for found in deployments(manifests)]
    for found in read_all(manifests):
        spec = found.get("spec", {})
        selector = spec.get("podSelector", spec.get("selector"))
        if selector:
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= each.items() for each in labels), found["metadata"]["name"]


def test_who_is_scaled_says_no_number_of_its_own() -> None:
    found = read_all(built("overlays/example"))
    assert {each["kind"] for each in found} >= _OF_OPERATORS
    assert not any("replicas" in each["spec"] for each in deployments(built("overlays/example")))


def test_scaling_asks_for_metrics_that_a_gateway_has() -> None:
    known = OfGateway().text().decode() + OfWorker().text().decode()
    texts = [
        path.read_text() for name in ("connections", "keda") for path in (KUBERNETES / "components" / name).iterdir()
    ]
    asked = set(re.findall(r"threadline_\w+", "".join(texts)))
    of_workers = {"threadline_turns_waiting", "threadline_oldest_waiting_seconds", "threadline_turns_running"}
    assert asked == {"threadline_sockets", *of_workers}
    assert all(f"\n{name} " in known for name in asked)


def wanted(workers: int, **now: float) -> int:
    """Return how many workers the autoscaler asks for, by its own rule for external metrics.

    https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details
    """
    spec = read(KUBERNETES / "components" / "keda" / "scaledobject.yaml")["spec"]
    asked: list[int] = [spec["minReplicaCount"]]
    for trigger in spec["triggers"]:
        (metric,) = re.findall(r"threadline_\w+", trigger["metadata"]["query"])
        ratio = now[metric.removeprefix("threadline_")] / float(trigger["metadata"]["threshold"])
        asked.append(math.ceil(ratio * workers if trigger["metricType"] == "Value" else ratio))
    return max(asked)


def test_workers_that_are_full_are_not_taken_away_because_nobody_waits() -> None:
    slots = parsed(env_file(KUBERNETES / "base" / "settings.env")).slots
    for running in (100, 1_000, 8_000):
        left = wanted(1_000, turns_running=running, turns_waiting=0, oldest_waiting_seconds=0)
        assert 0.5 < running / (left * slots) < 0.8, "room for who comes, and not much more"
    assert wanted(10, turns_running=160, turns_waiting=160, oldest_waiting_seconds=8) > 20, "and more where they wait"


def test_a_prometheus_that_is_away_takes_no_worker_away() -> None:
    """KEDA sets exactly the number of its `fallback`, whatever runs (kedacore/keda#6659)."""
    assert "fallback" not in read(KUBERNETES / "components" / "keda" / "scaledobject.yaml")["spec"]


def test_the_ingress_shows_nothing_that_is_for_operators() -> None:
    (rule,) = read(KUBERNETES / "overlays/example/ingress.yaml")["spec"]["rules"]
    paths = tuple(found["path"] for found in rule["http"]["paths"])
    assert not any(inner.startswith(paths) for inner in ("/metrics", "/v1/operations", "/v1/plugs", "/v1/revocations"))


def test_the_settings_of_the_base_are_settings() -> None:
    parsed(env_file(KUBERNETES / "base" / "settings.env"))


def test_the_certificates_for_redis_are_where_the_url_names_them(tmp_path: Path) -> None:
    overlay = KUBERNETES / "overlays" / "example"
    component = KUBERNETES / "components" / "redis-tls"
    (tmp_path / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        f"resources: [{os.path.relpath(overlay, tmp_path.resolve())}]\n"
        f"components: [{os.path.relpath(component, tmp_path.resolve())}]\n"
    )
    found = deployments(built(os.path.relpath(tmp_path.resolve(), KUBERNETES)))
    assert len(found) == 2
    for deployment in found:
        pod = deployment["spec"]["template"]["spec"]
        (mount,) = pod["containers"][0]["volumeMounts"]
        assert mount["readOnly"]
        assert f"ssl_ca_certs={mount['mountPath']}/ca.pem" in (component / "kustomization.yaml").read_text()
        assert pod["volumes"][0]["secret"]["defaultMode"] == 0o440
        assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]


def policies(text: str) -> list[dict[str, Any]]:
    return [found for found in read_all(text) if found["kind"] == "NetworkPolicy"]


def test_every_pod_is_shut_but_for_what_it_needs(manifests: str) -> None:
    for deployment in deployments(manifests):
        template = deployment["spec"]["template"]
        labels, (container,) = template["metadata"]["labels"].items(), template["spec"]["containers"]
        (policy,) = (one for one in policies(manifests) if one["spec"]["podSelector"]["matchLabels"].items() <= labels)
        assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
        let_in = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        assert let_in == {port["name"] for port in container["ports"]}, "its own ports, by their names"
        out = {(port["port"], port["protocol"]) for rule in policy["spec"]["egress"] for port in rule["ports"]}
        assert {(53, "UDP"), (53, "TCP"), (6379, "TCP"), (26379, "TCP"), (443, "TCP")} <= out


def test_probes_answer_in_time_and_kill_nobody_in_a_hurry(manifests: str) -> None:
    for deployment in deployments(manifests):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        probes = {name: container[name] for name in container if name.endswith("Probe")}
        ports = {port["name"] for port in container["ports"]}
        for name, probe in probes.items():
            assert probe["httpGet"]["port"] in ports
            assert probe["timeoutSeconds"] <= max(probe["periodSeconds"], 2), name
        patience = probes["livenessProbe"]["periodSeconds"] * probes["livenessProbe"]["failureThreshold"]
        assert patience >= 30, "a pause of some seconds must not become a restart of everything"
        if "readinessProbe" in probes:
            ready = probes["readinessProbe"]
            assert ready["periodSeconds"] * ready["failureThreshold"] <= 2, "nobody is sent to a gateway that says no"


def test_a_rollout_takes_nobody_away_before_another_is_there(manifests: str) -> None:
    budgets = {found["metadata"]["name"] for found in read_all(manifests) if found["kind"] == "PodDisruptionBudget"}
    for deployment in deployments(manifests):
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        assert deployment["metadata"]["name"] in budgets
        assert deployment["spec"].get("replicas", 2) >= 2


def test_what_is_routed_and_scaled_is_there(manifests: str) -> None:
    found = {(each["kind"], each["metadata"]["name"]): each for each in read_all(manifests)}
    for (kind, _), each in found.items():
        if kind in {"HorizontalPodAutoscaler", "ScaledObject"}:
            target = each["spec"]["scaleTargetRef"]
            assert (target.get("kind", "Deployment"), target["name"]) in found
        if kind == "Ingress":
            for path in each["spec"]["rules"][0]["http"]["paths"]:
                service = path["backend"]["service"]
                ports = found["Service", service["name"]]["spec"]["ports"]
                assert service["port"]["name"] in {port["name"] for port in ports}
        if kind == "PodMonitor":
            scraped = {point["port"] for point in each["spec"]["podMetricsEndpoints"]}
            pods = [one["spec"]["template"]["spec"]["containers"][0] for one in deployments(manifests)]
            assert scraped == {port["name"] for pod in pods for port in pod["ports"]}
