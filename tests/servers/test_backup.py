"""The copy of docs/operations.md, taken and restored by its own commands, as the users of the example ACL."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import textwrap
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from backplane.connection import Backplane
from backplane.embedded import HOST
from backplane.errors import NotFound
from backplane.ids import thread_ref
from backplane.settings import Settings
from backplane.turns import Start
from tests.fleet.conditions import eventually
from tests.servers.deployments import PASSWORD, Cluster, Debians, Node, Watched
from tests.servers.thread import opened
from tests.support.skipping import unable
from tests.support.working import working
from worker.agents.demo import agent

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[2]
KEPT = ("--appendonly", "yes", "--appendfsync", "always")
"""Behind a kill -9, too: a server that is stopped in order writes what it still holds."""
USERS = (ROOT / "deploy" / "valkey" / "users.acl").read_text() + "user looker on >secret ~* &* +@all\n"
PAGE = (ROOT / "docs" / "operations.md").read_text().partition("### Back up, and restore")[2].partition("\n## ")[0]
COPY = re.search(r"`(redis-cli --user backup .*?)`", PAGE)
BLOCKS = [textwrap.dedent(block) for block in re.findall(r"^ *```sh\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)]
PLAIN_COPY, STOP, PUT_ASIDE, LAY, START = BLOCKS


async def sh(line: str, folder: Path, **environment: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "sh", "-eu", "-c", line, cwd=folder, env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0, f"{line}: {said.decode()}"


def need_redis_cli() -> None:
    if shutil.which("redis-cli") is None:
        unable("expected redis-cli on the PATH, found none; install it (apt-get install redis-tools)")


def settings(node: Node) -> Settings:
    return Settings(redis_url=f"redis://threadline:change-me@{HOST}:{node.port}/0", partitions=4)


async def say(node: Node, thread: str) -> None:
    async with Backplane.open(settings(node)) as backplane:
        await backplane.turns.start(thread_ref(thread), Start("say 5 words", "ann", "sid"))


async def run(block: str, node: Node, folder: Path) -> None:
    """Run the page's commands; what systemd does, a test does by itself."""
    for line in block.splitlines():
        if line == "systemctl stop redis-server":
            await node.kill()
        elif line == "systemctl start redis-server":
            await node.start()
        else:  # it is not root, and cannot give a file to the user redis
            await sh(line.replace("/var/lib/redis", str(node.folder)).replace("-o redis -g redis ", ""), folder)


@pytest.mark.parametrize("kind", [Node, Debians])
async def test_what_was_said_until_the_copy_is_there_again_and_stays(kind: type[Node], tmp_path: Path) -> None:
    assert COPY, "the command was found"
    need_redis_cli()
    node = kind(tmp_path / "server", *KEPT, users=USERS, looker="looker")
    try:
        await node.start()
        await say(node, "before")
        copy = COPY[1].replace("redis-cli ", f"redis-cli -p {node.port} ").replace(" --askpass", "")
        await sh(copy, tmp_path, REDISCLI_AUTH="change-me-besides")
        await say(node, "behind")
        for block in (PUT_ASIDE, LAY):
            await run(block, node, tmp_path)
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


async def copied(node: Node, folder: Path) -> None:
    """Take the copy of a primary, into a folder of its own."""
    await sh(f"mkdir {folder}", folder.parent)
    await sh(PLAIN_COPY.replace("redis-cli ", f"redis-cli -p {node.port} "), folder, REDISCLI_AUTH=PASSWORD)


async def restored(deployment: Watched | Cluster, primaries: list[Node], folders: list[Path]) -> None:
    """Do what the page says, in its order."""
    sentinels = deployment.sentinels if isinstance(deployment, Watched) else []
    replicas = [deployment.replica_of(primary) for primary in primaries]
    assert "systemctl stop 'threadline-*'" in STOP, "no process of ours runs in this test"
    for sentinel in sentinels:
        await sentinel.kill()
    for node, folder in zip(replicas + primaries, folders + folders, strict=True):
        await run(PUT_ASIDE, node, folder)
    for primary, folder in zip(primaries, folders, strict=True):
        await run(LAY, primary, folder)

    async def well() -> bool:
        if sentinels:
            return True
        try:
            states = [await node.redis.execute_command("CLUSTER", "INFO") for node in primaries]  # type: ignore[no-untyped-call]
        except RedisError:
            return False
        return all(b"cluster_state:ok" in state for state in states)

    await eventually(well, "the primaries to be well")
    for node in replicas + sentinels:
        await node.start()

    async def copies() -> bool:
        return all([await primary.caught_up() for primary in primaries])

    await eventually(copies, "the replicas to have everything")
    assert "threadline-gateway@" in START


@pytest.mark.parametrize("kind", [Watched, Cluster])
async def test_a_deployment_with_replicas_is_as_each_primary_was_when_it_was_copied(
    kind: type[Watched | Cluster], tmp_path: Path
) -> None:
    """Its turns go on, those too that came between two copies; what came later is gone, and who has seen it is told."""
    need_redis_cli()
    async with kind(tmp_path, options=KEPT) as deployment:
        async with opened(deployment.url) as backplane:
            # who holds the line of waiting turns is copied first, and so knows nothing of those that came between
            first = await owner(deployment, backplane.keys.doorbell)
            others = [node for node in primaries_of(deployment) if node is not first]
            primaries = [first, *others]
            folders = [tmp_path / f"copy-{n}" for n in range(len(primaries))]
            names = [f"before-{n}" for n in range(12)]
            await start(backplane, names)
            for primary, folder in zip(primaries, folders, strict=True):
                between = [f"before-{folder.name}-{n}" for n in range(12)]
                held = [name for name in between if await owner(deployment, key(backplane, name)) is primary]
                await start(backplane, held)
                names += held
                await copied(primary, folder)
            await start(backplane, [*names, *(f"behind-{n}" for n in range(12))])
            seen = {name: await backplane.log.read(thread_ref(name)) for name in names}
        await restored(deployment, primaries, folders)
        async with opened(deployment.url) as backplane:
            for n in range(12):
                with pytest.raises(NotFound):
                    await backplane.log.read(thread_ref(f"behind-{n}"))
            async with working(backplane, agent):
                for name, page in seen.items():
                    await ended(backplane, name)
                    now = await backplane.log.read(thread_ref(name), epoch=page.epoch, after=page.top)
                    assert not now.reached, f"{name}: whoever saw {page.top} events has to be told"


def primaries_of(deployment: Watched | Cluster) -> list[Node]:
    return deployment.primaries if isinstance(deployment, Cluster) else [deployment.primary]


async def owner(deployment: Watched | Cluster, name: str) -> Node:
    return await deployment.owner(name) if isinstance(deployment, Cluster) else deployment.primary


def key(backplane: Backplane, thread: str) -> str:
    return backplane.keys.thread(thread_ref(thread)).thread


async def start(backplane: Backplane, names: list[str]) -> None:
    for name in names:
        await backplane.turns.start(thread_ref(name), Start("say 2 words", "ann", "sid", queue_mode="followup"))


async def ended(backplane: Backplane, name: str) -> None:
    async def done() -> bool:
        return (await backplane.log.read(thread_ref(name))).events[-1].name == "chat_done"

    await eventually(done, f"the end of {name}")
