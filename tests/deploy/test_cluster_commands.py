"""The commands of docs/operations.md that need a cluster, by the real kubectl at a stand-in for its API server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.deploy.api_server import Cluster
from tests.deploy.files import DEPLOY, ROOT, needs_kubectl

pytestmark = pytest.mark.skipif(needs_kubectl[0], reason=needs_kubectl[1])
PAGE = (ROOT / "docs" / "operations.md").read_text()
BLOCKS = [found for found in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S) if "kubectl " in found]


async def shell(script: str, folder: Path, url: str) -> tuple[int, str]:
    """Run commands as a person would; return how they ended and what they said."""
    config = folder / "kubeconfig"
    cluster = {"name": "c", "cluster": {"server": url}}
    context = {"name": "c", "context": {"cluster": "c", "user": ""}}
    config.write_text(json.dumps({"clusters": [cluster], "contexts": [context], "current-context": "c"}))
    process = await asyncio.create_subprocess_exec(
        "sh", "-eu", "-c", script, cwd=folder, env=os.environ | {"KUBECONFIG": str(config), "HOME": str(folder)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_the_commands_of_the_page_bring_a_fleet_about_and_upgrade_it(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    cluster = Cluster()
    async with cluster.serving() as url:
        for block in BLOCKS:
            ended, said = await shell(block, tmp_path, url)
            assert ended == 0, said
    assert said.count("successfully rolled out") == 2
    made = {(plural, name) for _, plural, name in cluster.made}
    assert {("deployments", "gateway"), ("deployments", "worker"), ("secrets", "threadline-secrets")} <= made


async def test_without_the_secret_nothing_is_rolled_out(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    cluster = Cluster()
    async with cluster.serving() as url:
        ended, said = await shell(
            "kubectl create namespace threadline\n"
            "kubectl apply -k deploy/kubernetes/overlays/example\n"
            "kubectl rollout status --namespace threadline --timeout 1s deployment/gateway",
            tmp_path, url,
        )  # fmt: skip
    assert ended != 0
    assert "timed out" in said
