"""JavaScript clients against real gateways, run by node itself.

clients.test.js: the official ones, versions 4 and 3. original.test.js: what the first web client does, as it does it.
dialects.test.js: the clients of AG-UI and of the AI SDK.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from backplane.settings import Settings
from gateway.auth import mint
from tests.fleet.fleet import Fleet
from tests.gateway.conftest import serving
from tests.support.npm import Package

SECRET = "a secret of this test alone, 32 bytes or more"

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform == "win32", reason="the fleet needs POSIX signals"),
]


@pytest.fixture
async def package() -> Package:
    """Return the package beside this file, installed."""
    package = Package(Path(__file__).parent)
    await package.install()
    return package


def _passed(code: int, output: str) -> bool:
    """Tell whether all tests ran and passed; node's reporters write the count in two ways."""
    return code == 0 and ("# skipped 0" in output or "\u2139 skipped 0" in output)


@pytest.mark.timeout(240)
async def test_the_official_clients_connect_stream_cancel_and_come_back(package: Package, tmp_path: Path) -> None:
    async with Fleet(tmp_path, gateways=1, workers=1, settings={"jwt_secret": SECRET}) as fleet:
        told = {"GATEWAY_URL": fleet.urls[0], "GATEWAY_TOKEN": mint(SECRET, "ada", 600)}
        code, output = await package.ran("node", "--test", "clients.test.js", environment=told)
    assert _passed(code, output), output


def _one_of_many(fleet: Fleet) -> Settings:
    return fleet.settings.model_copy(update={"polling": False, "port": 0, "node_id": "one-of-many"})


@pytest.mark.timeout(240)
async def test_the_web_client_that_this_began_with_works_as_it_is(package: Package, tmp_path: Path) -> None:
    """At two gateways that serve polls, as one alone does, and at one that serves none, as one of many."""
    fleet = Fleet(tmp_path, gateways=2, workers=1, settings={"jwt_secret": SECRET})
    async with fleet, serving(_one_of_many(fleet)) as many:
        told = {
            "GATEWAY_URLS": " ".join(fleet.urls),
            "GATEWAY_WITHOUT_POLLING": many.url,
            "GATEWAY_TOKEN": mint(SECRET, "ada", 600),
        }
        code, output = await package.ran("node", "--test", "original.test.js", environment=told)
    assert _passed(code, output), output


@pytest.mark.timeout(240)
async def test_the_clients_of_the_dialects_take_every_turn(package: Package, tmp_path: Path) -> None:
    """Also when their gateway or the worker is killed: the gateway stays dead, the worker is started again."""
    async with Fleet(tmp_path, gateways=3, workers=1, settings={"jwt_secret": SECRET}) as fleet:
        [worker], pid_file = fleet.workers, tmp_path / "worker.pid"

        async def revive() -> None:
            while True:
                pid_file.write_text(str(worker.pid))
                await worker.process.wait()
                await worker.start()

        reviving = asyncio.create_task(revive())
        told = {
            "GATEWAY_URLS": " ".join(fleet.urls),
            "GATEWAY_PIDS": " ".join(str(member.pid) for member in fleet.gateways),
            "WORKER_PID_FILE": str(pid_file),
            "GATEWAY_TOKEN": mint(SECRET, "ada", 600),
        }
        try:
            code, output = await package.ran("node", "--test", "dialects.test.js", environment=told)
        finally:
            reviving.cancel()
            await asyncio.gather(reviving, return_exceptions=True)
    assert _passed(code, output), output
