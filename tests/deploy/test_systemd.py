"""The units for systemd, judged by systemd itself and against the product."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY, ROOT, env_file, parsed

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PROGRAM = "/opt/threadline/current/bin/threadline"
PAGE = (ROOT / "docs" / "operations.md").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_finds_nothing_wrong_with_a_unit(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace(PROGRAM, sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert unit.name not in done.stderr, "a warning, such as of a directive that it does not know"


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_locked_down_started_again_and_has_time_to_drain(unit: Path) -> None:
    said = dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE))
    settings = parsed(env_file(DEPLOY / "systemd" / "threadline.env.example"))
    assert int(said["TimeoutStopSec"]) > settings.drain_grace + settings.cancel_grace
    assert said["Restart"] == "always"
    assert said["DynamicUser"] == said["NoNewPrivileges"] == "yes"
    assert said["ProtectSystem"] == "strict"
    assert int(said["LimitNOFILE"]) >= 16384
    assert re.search(rf"^ExecStart={PROGRAM} (gateway|worker)$", unit.read_text(), re.MULTILINE)


def bring(folder: Path, version: str) -> None:
    """Put into a folder what a machine is brought: the wheel of a program that imports something late, and a lock."""
    shutil.rmtree(folder / "dist", ignore_errors=True)
    (folder / "dist").mkdir()
    wheel = folder / "dist" / f"threadline-{version}-py3-none-any.whl"
    about = f"threadline-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("early.py", "def main():\n    print('up', flush=True)\n    input()\n    import late\n")
        archive.writestr("late.py", f"print({version!r})\n")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: threadline\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/entry_points.txt", "[console_scripts]\nthreadline = early:main\n")
        archive.writestr(f"{about}/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (folder / "requirements.lock").write_text(f"threadline=={version} --hash=sha256:{digest}\n")


def shell(folder: Path, script: str) -> int:
    """Run commands of the page in a folder that stands for the machine; nothing comes from an index of packages."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "dist", "PYTHONPATH": ""}
    line = script.replace("/opt/", f"{folder}/opt/")
    return subprocess.run(["sh", "-c", line], cwd=folder, env=environment, check=False, capture_output=True).returncode


def started(folder: Path) -> subprocess.Popen[str]:
    """Start the program as a unit does, and wait until it is up."""
    program = PROGRAM.replace("/opt/", f"{folder}/opt/")
    process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def version_of(process: subprocess.Popen[str]) -> str:
    """Have a process import the rest of itself, and end."""
    said, _ = process.communicate("\n", timeout=60)
    return said.strip()


@pytest.mark.long
def test_a_process_keeps_its_version_until_it_is_restarted_and_the_way_back_is_the_link(tmp_path: Path) -> None:
    block = re.search(r"```sh\n(version=0\.1\.0\n.*?)```", PAGE, re.DOTALL)
    back = re.search(r"`(ln -sfn 0\.1\.0 /opt/threadline/current)`", PAGE)
    assert block
    assert back
    bring(tmp_path, "0.1.0")
    assert shell(tmp_path, block[1]) == 0
    upgrade = block[1].replace("0.1.0", "0.2.0")
    running = started(tmp_path)
    try:
        bring(tmp_path, "0.2.0")
        lock = (tmp_path / "requirements.lock").read_text()
        (tmp_path / "requirements.lock").write_text(lock[:-8] + "0000000\n")
        assert shell(tmp_path, upgrade) != 0, "a package is not what the lock says"
        assert version_of(started(tmp_path)) == "0.1.0", "what is broken is started by nobody"
        (tmp_path / "requirements.lock").write_text(lock)
        assert shell(tmp_path, upgrade) == 0
        assert version_of(running) == "0.1.0", "it is still whole"
        assert version_of(started(tmp_path)) == "0.2.0"
        assert shell(tmp_path, back[1]) == 0
        assert version_of(started(tmp_path)) == "0.1.0"
    finally:
        running.kill()
        running.communicate()
