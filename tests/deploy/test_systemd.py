"""The units for systemd, judged by systemd itself and against the product."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY, env_file, parsed

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_finds_nothing_wrong_with_a_unit(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/threadline/bin/threadline", sys.executable))
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
    assert re.search(r"^ExecStart=/opt/threadline/bin/threadline (gateway|worker)$", unit.read_text(), re.MULTILINE)
