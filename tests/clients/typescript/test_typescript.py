"""The TypeScript client: its types, its size, and its own tests against real gateways; run by node."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from tests.fleet.fleet import Fleet

PACKAGE = Path(__file__).parents[3] / "clients" / "typescript"
SECRET = "a secret of this test alone, 32 bytes or more"
INSTALL = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
OLDEST_NODE = (20, 19)
"""What Vite 7 asks for."""

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
    """Run a command in the package; return its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=PACKAGE,
        env={**os.environ, "NO_COLOR": "1", **(environment or {})},
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


@pytest.fixture
async def package() -> None:
    """Install what the lock file names, unless it is there."""
    if not (shutil.which("node") and shutil.which("npm")):
        unable("expected node 20.19 or newer and npm on the PATH, found none; install them to run these tests")
    _, version = await ran("node", "--version")
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if found < OLDEST_NODE:
        unable(f"expected node 20.19 or newer, got {version.strip()}; install a newer one to run these tests")
    installed, locked = PACKAGE / "node_modules" / ".package-lock.json", PACKAGE / "package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= locked.stat().st_mtime:
        return
    code, output = await ran(*INSTALL)
    if code != 0:
        unable(f"expected `{' '.join(INSTALL)}` in clients/typescript to succeed, got exit code {code}:\n{output}")


def test_its_lock_file_names_hashes_and_no_hosts() -> None:
    packages = json.loads((PACKAGE / "package-lock.json").read_text())["packages"]
    for path, entry in packages.items():
        assert not path or (entry.get("version") and entry.get("integrity")), path
        assert "resolved" not in entry, f"{path}: take `resolved` out, so that the file works behind a mirror"
        for name in entry.get("optionalDependencies", {}):  # npm leaves out what a mirror does not have
            assert f"node_modules/{name}" in packages, f"{path} needs {name} on some machine, and the file lacks it"


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("package")
async def test_its_types_hold_and_its_bundle_is_small() -> None:
    for script in ("check", "build", "size"):
        code, output = await ran("npm", "run", script)
        assert code == 0, output


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("package")
async def test_it_keeps_its_promises_against_real_gateways(tmp_path: Path) -> None:
    settings = {"jwt_secret": SECRET, "log_max_entries": 100}
    async with Fleet(tmp_path, gateways=3, workers=1, settings=settings) as fleet:
        pids = [member.pid for member in fleet.gateways]
        told = {"urls": fleet.urls, "pids": pids, "store": fleet.store.pid, "secret": SECRET}
        code, output = await ran("npx", "vitest", "run", environment={"THREADLINE_FLEET": json.dumps(told)})
    assert code == 0, output
    assert "skipped" not in output, output
