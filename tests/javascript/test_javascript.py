"""JavaScript clients against real gateways, run by node itself.

clients.test.js: the official ones, versions 4 and 3. original.test.js: what the first web client does, as it does it.
dialects.test.js: the clients of AG-UI and of the AI SDK.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from backplane.settings import Settings
from gateway.auth import mint
from tests.fleet.fleet import Fleet
from tests.gateway.conftest import serving

HERE = Path(__file__).parent
SECRET = "a secret of this test alone, 32 bytes or more"
INSTALL = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform == "win32", reason="the fleet needs POSIX signals"),
]


def unable(reason: str) -> NoReturn:
    """Skip, saying why; where CI=true nothing may be skipped, so fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


async def ran(*command: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command beside the tests in JavaScript; return its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=HERE,
        env={**os.environ, **(environment or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:  # the test is being cancelled
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


def is_installed() -> bool:
    """Tell whether npm has installed what the lock file names, and not what an older one named."""
    installed, locked = HERE / "node_modules" / ".package-lock.json", HERE / "package-lock.json"
    return installed.exists() and installed.stat().st_mtime >= locked.stat().st_mtime


async def _installed() -> None:
    """Install what the lock file names, one test at a time: several may run beside each other."""
    import fcntl  # not on Windows, where these tests are skipped

    if not (shutil.which("node") and shutil.which("npm")):
        unable("expected node 18 or newer and npm on the PATH, found none; install them to run these tests")
    with (HERE / "package-lock.json").open() as one_at_a_time:
        await asyncio.to_thread(fcntl.flock, one_at_a_time, fcntl.LOCK_EX)
        if is_installed():
            return
        code, output = await ran(*INSTALL)
    if code != 0:
        unable(f"expected `{' '.join(INSTALL)}` in tests/javascript to succeed, got exit code {code}:\n{output}")


def _passed(code: int, output: str) -> bool:
    """Tell whether all tests ran and passed; node's reporters write the count in two ways."""
    return code == 0 and ("# skipped 0" in output or "\u2139 skipped 0" in output)


@pytest.mark.timeout(240)
async def test_the_official_clients_connect_stream_cancel_and_come_back(tmp_path: Path) -> None:
    await _installed()
    async with Fleet(tmp_path, gateways=1, workers=1, settings={"jwt_secret": SECRET}) as fleet:
        told = {"GATEWAY_URL": fleet.urls[0], "GATEWAY_TOKEN": mint(SECRET, "ada", 600)}
        code, output = await ran("node", "--test", "clients.test.js", environment=told)
    assert _passed(code, output), output


def _one_of_many(fleet: Fleet) -> Settings:
    return fleet.settings.model_copy(update={"polling": False, "port": 0, "node_id": "one-of-many"})


@pytest.mark.timeout(240)
async def test_the_web_client_that_this_began_with_works_as_it_is(tmp_path: Path) -> None:
    """At two gateways that serve polls, as one alone does, and at one that serves none, as one of many."""
    await _installed()
    fleet = Fleet(tmp_path, gateways=2, workers=1, settings={"jwt_secret": SECRET})
    async with fleet, serving(_one_of_many(fleet)) as many:
        told = {
            "GATEWAY_URLS": " ".join(fleet.urls),
            "GATEWAY_WITHOUT_POLLING": many.url,
            "GATEWAY_TOKEN": mint(SECRET, "ada", 600),
        }
        code, output = await ran("node", "--test", "original.test.js", environment=told)
    assert _passed(code, output), output


@pytest.mark.timeout(240)
async def test_the_clients_of_the_dialects_take_every_turn(tmp_path: Path) -> None:
    """Also when their gateway or the worker is killed: the gateway stays dead, the worker is started again."""
    await _installed()
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
            code, output = await ran("node", "--test", "dialects.test.js", environment=told)
        finally:
            reviving.cancel()
            await asyncio.gather(reviving, return_exceptions=True)
    assert _passed(code, output), output
