"""The image and the fleet in containers: judged by their schema and against the product."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from backplane.errors import Misconfigured
from backplane.settings import load
from gateway import auth
from tests.deploy.files import DEPLOY, PINNED, ROOT, env_file, parsed, program, read

COMPOSE = read(DEPLOY / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if name.startswith(("gateway-", "worker-"))}
DOCKERFILE = (DEPLOY / "docker" / "Dockerfile").read_text()


EXAMPLE = DEPLOY / "compose.env.example"


def environment(service: dict[str, Any], given: dict[str, str]) -> dict[str, str]:
    """Return what Compose gives a container: a variable without a value is the file's, or absent as it is there.

    Raises:
        ValueError: when one that must be given is not.
    """
    found: dict[str, str] = {}
    for name, value in service["environment"].items():
        if value is None:
            found |= {name: given[name]} if name in given else {}
            continue
        asked = re.fullmatch(r"\$\{(\w+)(:[-?])(.*)\}", value)
        if asked and asked[2] == ":?" and not given.get(asked[1]):
            raise ValueError(f"{asked[1]}: {asked[3]}")
        found[name] = (given.get(asked[1]) or asked[3]) if asked else value
    return found


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_the_compose_file_is_what_the_specification_says() -> None:
    done = subprocess.run(
        [program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml")],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_locked_down_pinned_and_watched(name: str) -> None:
    service = SERVICES[name]
    assert PINNED.match(service["image"])
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "healthcheck" in service or name in OURS, "the image of ours brings one"


@pytest.mark.parametrize("name", OURS)
def test_a_container_of_ours_has_real_settings_and_time_to_drain(name: str) -> None:
    service = OURS[name]
    settings = parsed(environment(service, env_file(EXAMPLE)))
    assert seconds(service["stop_grace_period"]) > settings.drain_grace + settings.cancel_grace
    assert service["command"] in (["gateway"], ["worker"])


def test_what_is_mounted_exists_and_what_is_named_is_declared() -> None:
    for service in SERVICES.values():
        for mount in service.get("volumes", ()):
            source = mount.partition(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
        assert set(service["networks"]) <= set(COMPOSE["networks"])
    dockerfile = OURS["gateway-1"]["build"]["dockerfile"]
    assert (ROOT / dockerfile).is_file()


def test_the_balancer_and_prometheus_ask_every_member_where_it_is() -> None:
    gateways = [service for name, service in OURS.items() if name.startswith("gateway-")]
    told = SERVICES["haproxy"]["environment"]
    addresses = {f"{service['networks']['edge']['ipv4_address']}:8080" for service in gateways}
    assert {value for name, value in told.items() if name != "THREADLINE_BIND"} == addresses
    config = (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
    assert set(told) == set(re.findall(r"\$\{(THREADLINE_\w+)\}", config))
    (job,) = read(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
    ports = {
        f"{name}:{service['environment'].get('THREADLINE_METRICS_PORT', '8080')}" for name, service in OURS.items()
    }
    assert set(job["static_configs"][0]["targets"]) == ports


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    (source,) = read(DEPLOY / "grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = read(DEPLOY / "grafana/provisioning/dashboards/threadline.yaml")["providers"]
    mounts = dict(mount.split(":")[:2] for mount in SERVICES["grafana"]["volumes"])
    assert mounts["./grafana"] == provider["options"]["path"]


def test_every_variable_that_compose_asks_for_is_in_the_example() -> None:
    asked = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    asked |= {name for service in OURS.values() for name, value in service["environment"].items() if value is None}
    assert asked == set(re.findall(r"^(?:# )?([A-Z_]+)=", EXAMPLE.read_text(), re.MULTILINE))


WITH_SECRET = "THREADLINE_JWT_SECRET=a secret of this test, with more than 32 bytes\n"
WITH_KEYS = re.sub(r"^THREADLINE_JWT_SECRET=\n|^# (?=THREADLINE_)", "", EXAMPLE.read_text(), flags=re.MULTILINE)
"""What the example says to do: the line of the secret is gone, and those of the key set have no sign before them."""


@pytest.mark.parametrize(
    ("lines", "refused"),
    [
        (WITH_SECRET, None),
        (WITH_KEYS, None),
        (EXAMPLE.read_text(), "THREADLINE_JWT_SECRET"),
        (f"{WITH_SECRET}THREADLINE_JWKS_URL=https://login.example.com/keys\n", "got both"),
        ("", "while no key is configured"),
    ],
    ids=["secret", "key set", "as it is copied", "both", "neither"],
)
def test_a_gateway_takes_a_secret_or_a_key_set_by_variables_alone(
    lines: str, refused: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "compose.env"
    file.write_text(lines)
    monkeypatch.setenv("THREADLINE_HOST", "0.0.0.0")  # as the image says
    for name, value in environment(OURS["gateway-1"], env_file(file)).items():
        monkeypatch.setenv(name, value)
    settings = load()
    if refused is None:
        auth.check(settings)
        if lines == WITH_KEYS:
            assert settings.jwks_url == "https://login.example.com/.well-known/jwks.json"
            assert (settings.jwt_issuer, settings.jwt_audience) == ("https://login.example.com/", "threadline")
    else:
        with pytest.raises(Misconfigured, match=refused):
            auth.check(settings)


def test_the_image_runs_as_a_user_without_rights_and_is_pinned() -> None:
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    user = re.search(r"^USER (\d+):\d+$", final, re.MULTILINE)
    assert user is not None
    assert int(user[1]) > 0
    assert "HEALTHCHECK" in final
    assert not re.search(r"^ADD ", DOCKERFILE, re.MULTILINE)
    assert all(PINNED.match(image) for image in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))
    assert "--require-hashes -r requirements.lock" in DOCKERFILE
    parsed(dict(re.findall(r"(THREADLINE_(?:HOST|PORT|LOG_FORMAT))=(\S+)", final)))


def test_what_the_image_copies_exists_and_is_let_through() -> None:
    let = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    for source in " ".join(copies).split():
        assert (ROOT / source).exists()
        assert source in let


class Answering(BaseHTTPRequestHandler):
    """Has what a gateway has, and nothing else."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path in {"/healthz", "/metrics"} else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
        """Say nothing."""


@pytest.mark.parametrize("variable", ["THREADLINE_PORT", "THREADLINE_METRICS_PORT"])
def test_the_health_check_tells_a_container_that_answers_from_one_that_does_not(variable: str) -> None:
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        check = [sys.executable, str(DEPLOY / "docker" / "healthcheck.py")]
        environ = {variable: str(server.server_port)}
        assert subprocess.run(check, env=environ, check=False, timeout=10).returncode == 0
        server.shutdown()
        thread.join()
    done = subprocess.run(check, env=environ, check=False, timeout=10, capture_output=True, text=True)
    assert done.returncode == 1
    assert environ[variable] in done.stderr
