"""A real Prometheus scrapes a fleet: each query of the dashboard has data, and no rule of the alerts has an error."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml

from backplane.embedded import free_port, start_child
from backplane.ids import new_id
from tests.deploy.files import DEPLOY, read
from tests.deploy.test_grafana import PANELS
from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet
from tests.support.skipping import unable
from tests.support.waiting import wait_until

PROGRAM = shutil.which("prometheus")
pytestmark = [
    pytest.mark.processes,
    pytest.mark.asyncio(loop_scope="module"),
]
QUERIES = {
    f"{panel['id']} {panel['title']} {target['refId']}": target["expr"].replace("$__rate_interval", "1m")
    for panel in PANELS
    for target in panel["targets"]
}


class Prometheus:
    """What it answers."""

    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self.url, self._http = url, http

    async def ask(self, path: str, **words: str) -> Any:
        """Return the data of an answer; an empty object while there is none."""
        with suppress(httpx.TransportError):
            answer = await self._http.get(f"{self.url}/api/v1/{path}", params=words)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:  # it is still starting
                told = answer.json()
                assert told["status"] == "success", told
                return told["data"]
        return {}


@asynccontextmanager
async def scraping(targets: list[str], folder: Path) -> AsyncIterator[Prometheus]:
    """Run Prometheus with our configuration, which asks these targets more often."""
    config = read(DEPLOY / "prometheus" / "prometheus.yml")
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = targets
    config["scrape_configs"][0]["scrape_timeout"] = "1s"
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = (
        str(PROGRAM), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    )  # fmt: skip
    with (folder / "prometheus.log").open("wb") as output:
        process = await start_child(command, env=dict(os.environ), cwd=folder, output=output)
    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            yield Prometheus(f"http://{address}", http)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prometheus(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prometheus]:
    """Return a Prometheus that has seen a fleet answer, refuse, and hand over a turn."""
    if PROGRAM is None:
        unable("expected prometheus on the PATH, found none; install it (apt-get install prometheus)")
    folder = tmp_path_factory.mktemp("fleet")
    fleet = Fleet(folder, gateways=2, workers=2)
    ports = [free_port() for _ in fleet.workers]
    for worker, port in zip(fleet.workers, ports, strict=True):
        worker.environment["THREADLINE_METRICS_PORT"] = str(port)
    targets = [url.partition("//")[2] for url in fleet.urls] + [f"127.0.0.1:{port}" for port in ports]
    async with fleet, scraping(targets, folder) as running:
        await _all_up(running, len(targets))
        talking = asyncio.create_task(_talk(fleet))
        try:
            yield running
        finally:
            talking.cancel()
            with suppress(asyncio.CancelledError):
                await talking


async def _all_up(running: Prometheus, count: int) -> None:
    async def up() -> bool:
        found: list[dict[str, Any]] = (await running.ask("targets")).get("activeTargets", [])
        return [target["health"] for target in found] == ["up"] * count

    await wait_until(up, "every gateway and worker is scraped", seconds=30)


async def _talk(fleet: Fleet) -> None:
    """Give it something to count until it is stopped, and something to refuse."""
    while True:
        async with Conversation(fleet, f"t-{new_id()}") as thread:
            turn = await thread.say("say 20 words")
            await thread.ended(turn)
        await fleet.http.post(f"{fleet.urls[0]}/v1/threads/no thread/turns", json={"message": "x"})


@pytest.mark.parametrize("name", QUERIES)
async def test_each_query_of_the_dashboard_has_data(name: str, prometheus: Prometheus) -> None:
    found: list[Any] = []

    async def data() -> bool:
        found[:] = (await prometheus.ask("query", query=QUERIES[name])).get("result", [])
        return any(sample["value"][1] != "NaN" for sample in found)

    await wait_until(data, f"data for {QUERIES[name]}", seconds=30)


async def test_no_alert_has_an_error_and_none_fires_while_all_is_well(prometheus: Prometheus) -> None:
    rules: list[dict[str, Any]] = []

    async def judged() -> bool:
        groups = (await prometheus.ask("rules")).get("groups", [])
        rules[:] = [rule for group in groups for rule in group["rules"]]
        return bool(rules) and all(rule["health"] != "unknown" for rule in rules)

    await wait_until(judged, "every rule was evaluated", seconds=30)
    assert {rule["health"] for rule in rules} == {"ok"}, json.dumps(rules)
    assert not [rule["name"] for rule in rules if rule["state"] == "firing"]
