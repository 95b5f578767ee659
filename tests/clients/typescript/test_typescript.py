"""The TypeScript client: its types, its size, and its own tests against real gateways; run by node."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.fleet.fleet import Fleet
from tests.support.npm import Package

FOLDER = Path(__file__).parents[3] / "clients" / "typescript"
SECRET = "a secret of this test alone, 32 bytes or more"

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform == "win32", reason="the fleet needs POSIX signals"),
]


@pytest.fixture
async def package() -> Package:
    """Return the client's package, installed."""
    package = Package(FOLDER)
    await package.install()
    return package


def test_its_lock_file_names_hashes_and_no_hosts() -> None:
    packages = json.loads((FOLDER / "package-lock.json").read_text())["packages"]
    for path, entry in packages.items():
        assert not path or (entry.get("version") and entry.get("integrity")), path
        assert "resolved" not in entry, f"{path}: take `resolved` out, so that the file works behind a mirror"
        for name in entry.get("optionalDependencies", {}):  # npm leaves out what a mirror does not have
            assert f"node_modules/{name}" in packages, f"{path} needs {name} on some machine, and the file lacks it"


@pytest.mark.timeout(240)
async def test_its_types_hold_and_its_bundle_is_small(package: Package) -> None:
    for script in ("check", "build", "size"):
        code, output = await package.ran("npm", "run", script)
        assert code == 0, output


@pytest.mark.timeout(300)
async def test_it_keeps_its_promises_against_real_gateways(package: Package, tmp_path: Path) -> None:
    settings = {"jwt_secret": SECRET, "log_max_entries": 100}
    async with Fleet(tmp_path, gateways=3, workers=1, settings=settings) as fleet:
        pids = [member.pid for member in fleet.gateways]
        told = {"urls": fleet.urls, "pids": pids, "store": fleet.store.pid, "secret": SECRET}
        code, output = await package.ran("npx", "vitest", "run", environment={"THREADLINE_FLEET": json.dumps(told)})
    assert code == 0, output
    assert "skipped" not in output, output
