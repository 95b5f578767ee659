"""The copy of docs/operations.md, taken and restored by its own commands, as the users of the example ACL."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path

import pytest

from backplane.connection import Backplane
from backplane.embedded import HOST
from backplane.errors import NotFound
from backplane.ids import thread_ref
from backplane.settings import Settings
from backplane.turns import Start
from tests.servers.deployments import Debians, Node
from tests.support.skipping import unable

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[2]
USERS = (ROOT / "deploy" / "valkey" / "users.acl").read_text() + "user looker on >secret ~* &* +@all\n"
COPY = re.search(r"`(redis-cli --user backup .*?)`", (ROOT / "docs" / "operations.md").read_text())
RESTORE = re.search(
    r"```sh\n(systemctl stop 'threadline-\*'\n.*?)```", (ROOT / "docs" / "operations.md").read_text(), re.DOTALL
)


async def sh(line: str, folder: Path, **environment: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "sh", "-eu", "-c", line, cwd=folder, env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0, f"{line}: {said.decode()}"


def settings(node: Node) -> Settings:
    return Settings(redis_url=f"redis://threadline:change-me@{HOST}:{node.port}/0", partitions=4)


async def say(node: Node, thread: str) -> None:
    async with Backplane.open(settings(node)) as backplane:
        await backplane.turns.start(thread_ref(thread), Start("say 5 words", "ann", "sid"))


async def restore(node: Node, folder: Path) -> None:
    """Run the page's commands; what systemd does, a test does by itself."""
    assert RESTORE, "the commands were found"
    for line in RESTORE[1].splitlines():
        if line == "systemctl stop redis-server":
            await node.kill()
        elif line == "systemctl start redis-server":
            await node.start()
        elif not line.startswith("systemctl "):  # and it is not root, and cannot give a file to the user redis
            await sh(line.replace("/var/lib/redis", str(node.folder)).replace("-o redis -g redis ", ""), folder)


@pytest.mark.parametrize("kind", [Node, Debians])
async def test_what_was_said_until_the_copy_is_there_again_and_stays(kind: type[Node], tmp_path: Path) -> None:
    assert COPY, "the command was found"
    if shutil.which("redis-cli") is None:
        unable("expected redis-cli on the PATH, found none; install it (apt-get install redis-tools)")
    node = kind(tmp_path / "server", "--appendonly", "yes", users=USERS, looker="looker")
    try:
        await node.start()
        await say(node, "before")
        copy = COPY[1].replace("redis-cli ", f"redis-cli -p {node.port} ").replace(" --askpass", "")
        await sh(copy, tmp_path, REDISCLI_AUTH="change-me-besides")
        await say(node, "behind")
        await restore(node, tmp_path)
        await say(node, "afterwards")
        await node.kill()
        await node.start()
        async with Backplane.open(settings(node)) as backplane:
            for thread in ("before", "afterwards"):
                assert [event.name for event in (await backplane.log.read(thread_ref(thread))).events]
            with pytest.raises(NotFound):
                await backplane.log.read(thread_ref("behind"))
    finally:
        await node.close()
