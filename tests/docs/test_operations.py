"""Every command of docs/operations.md is run here as it stands, or is on the list of those that were tried by hand."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.auth import mint
from tests.docs.conftest import ROOT
from tests.fleet.fleet import Fleet

pytestmark = pytest.mark.processes
PAGE = (ROOT / "docs" / "operations.md").read_text()
SECRET = "a secret of this test, with more than 32 bytes"
RUN = (
    "threadline ", "curl ", "export ", "promtool ", "echo ", "kubectl kustomize ",
    "kubectl create secret generic threadline-secrets --namespace threadline --from-env-file=secrets.env --dry-run",
)  # fmt: skip
BY_HAND = {
    "a container engine": ("cp deploy/compose.env.example ", "docker compose ", "alias fleet=", "fleet exec "),
    "a cluster": ("kubectl create namespace ", "kubectl create secret ", "kubectl apply ", "kubectl rollout "),
    "a machine that systemd runs": (
        "systemctl ", "until curl ", "journalctl ", "apt-get install ", "install ", "sed -i ", "mv /var/lib/redis/",
        "version=", 'python3 -m venv "/opt/threadline/', '"/opt/threadline/', "ln -sfn ", "cat ",
        "rm -f /etc/nginx/", "nginx -t", "THREADLINE_BIND=", "redis-cli ",
    ),
    "a build": ("scripts/setup", "scripts/page", ".venv/bin/python -m pip wheel "),
}  # fmt: skip
"""What a command needs that a test does not have: how it begins. deploy/README.md says how these were tried; those of a
cluster are run by tests/deploy/test_cluster_commands.py."""


def blocks() -> list[str]:
    """Return the shell of the page, a block each."""
    return [textwrap.dedent(found) for found in re.findall(r"^ *```sh\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)]


def commands(block: str) -> list[str]:
    """Return the first line of each command; a loop's is that of its body."""
    text = re.sub(r"(<<'END'.*?\n).*?^END$", r"\1", block, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^for .*? do\n {4}(.*?)\ndone$", r"\1", text, flags=re.MULTILINE | re.DOTALL)
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line]


def runs_here(block: str) -> bool:
    return all(line.startswith(RUN) for line in commands(block)) and "fleet " not in block


HERE = [block for block in blocks() if runs_here(block)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """Return a small fleet with a key, whose operator is `me`."""
    folder = tmp_path_factory.mktemp("fleet")
    async with Fleet(folder, gateways=1, workers=1, settings={"jwt_secret": SECRET, "operators": "me"}) as small:
        yield small


def shell(fleet: Fleet, folder: Path) -> dict[str, str]:
    """Return the environment of a person at a shell: `threadline` on the PATH, the gateways' settings, a token."""
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    (folder / "tests" / "deploy").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "deploy" / "alerts.yml", folder / "tests" / "deploy")
    program = folder / "threadline"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cli.main "$@"\n')
    program.chmod(0o755)
    return fleet.environment | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "THREADLINE_TOKEN": mint(SECRET, "me", 600, settings=fleet.settings),
    }


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("block", HERE, ids=lambda block: commands(block)[-1][:40])
async def test_commands_do_what_the_page_says(block: str, fleet: Fleet, tmp_path: Path) -> None:
    missing = {line.split()[0] for line in commands(block)} & {"promtool", "kubectl", "curl"}
    if absent := [name for name in missing if shutil.which(name) is None]:
        pytest.skip(f"not installed here: {absent}")
    script = re.sub(r"http://127\.0\.0\.1:808\d", fleet.urls[0], block)
    process = await asyncio.create_subprocess_exec(
        "sh", "-eu", "-c", script, cwd=tmp_path, env=shell(fleet, tmp_path),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0, f"{script}\n{said.decode()}"
    assert said or "export" in block


@pytest.mark.parametrize("block", [block for block in blocks() if not runs_here(block)], ids=lambda b: commands(b)[-1])
def test_what_is_not_run_here_is_known_to_need_more(block: str) -> None:
    known = (*RUN, *(start for starts in BY_HAND.values() for start in starts))
    for line in commands(block):
        assert line.startswith(known), f"run it here, or try it by hand and say what it needs: {line}"


def test_the_list_of_what_was_tried_by_hand_names_nothing_that_is_not_on_the_page() -> None:
    lines = [line for block in blocks() for line in commands(block)]
    for starts in BY_HAND.values():
        for start in starts:
            assert any(line.startswith(start) for line in lines), start
    assert len(HERE) >= 5, "the blocks were found"
