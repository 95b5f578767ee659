"""The example ACL: everything that Threadline does passes it, and nothing else does."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from backplane.connection import Backplane
from backplane.doctor.checks import check_redis
from backplane.embedded import HOST
from backplane.errors import Misconfigured, Unavailable
from backplane.ids import thread_ref
from backplane.publisher import Publisher
from backplane.recoverer import Recoverer
from backplane.settings import Settings
from backplane.turns import Start
from tests.docs.test_redis import SETTINGS, Story
from tests.fleet.conditions import eventually
from tests.servers.deployments import Debians, Node
from tests.servers.thread import Ear
from tests.support.skipping import unable
from tests.support.working import working
from worker.agents.demo import agent

pytestmark = pytest.mark.processes
EXAMPLE = Path(__file__).parents[2] / "deploy" / "valkey" / "users.acl"
LOOKER = "user looker on >secret ~* &* +@all\n"
"""One more user, for looking."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Node]:
    """Return a server with the example's users, and one more for looking."""
    node = Node(tmp_path, users=EXAMPLE.read_text() + LOOKER, looker="looker")
    try:
        await node.start()
        yield node
    finally:
        await node.close()


@pytest.fixture(params=[Node, Debians])
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Node]:
    """Return a server of each kind with the example's users as they are, and with an append-only file."""
    node: Node = request.param(
        tmp_path, "--appendonly", "yes", "--appendfsync", "always", users=EXAMPLE.read_text() + LOOKER, looker="looker"
    )
    try:
        await node.start()
        yield node
    finally:
        await node.close()


def settings(node: Node, user: str = "threadline:change-me", **given: Any) -> Settings:
    return Settings(redis_url=f"redis://{user}@{HOST}:{node.port}/0", partitions=4, **given)


async def test_every_script_and_every_channel_passes(server: Node) -> None:
    async def look() -> None:
        """Look at nothing."""

    given: dict[str, Any] = dict(SETTINGS)
    async with Backplane.open(settings(server, **given)) as backplane:
        await Story(backplane).tell(look)
        for attempt in range(3):  # the budget of users, and asking which of their turns have ended
            await backplane.admission.admit(thread_ref("budget"), "ann", f"r{attempt}")
        await backplane.doorbell.leave()
        assert await backplane.doorbell.wait() is None
        assert await Recoverer(backplane)._elect() is None
        await Recoverer(backplane).look()
        publisher = Publisher(backplane.redis, backplane.settings.redis_timeout)
        assert await publisher.publish((f"{backplane.keys.prefix}:room:x",), b"m") == 0
        await publisher.close()


async def test_a_turn_runs_from_its_start_to_its_end(server: Node) -> None:
    async with Backplane.open(settings(server)) as backplane, working(backplane, agent):
        ref, ear = thread_ref("t"), Ear()
        await backplane.turns.start(ref, Start("say 5 words", "ann", "sid"))
        await backplane.live.subscribe(backplane.keys.thread(ref).live, ear)

        async def done() -> bool:
            return (await backplane.log.read(ref)).events[-1].name == "chat_done"

        await eventually(done, "the end of the turn")


@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",),
        ("KEYS", "*"),
        ("CONFIG", "GET", "*"),
        ("CONFIG", "SET", "maxmemory", "1"),
        ("MONITOR",),
        ("SCRIPT", "FLUSH"),
        ("GET", "another:key"),
        ("SPUBLISH", "another:channel", "x"),
        ("EVAL", "return redis.call('GET', KEYS[1])", "1", "another:key"),
        ("EVAL", "return redis.call('FLUSHALL')", "0"),
    ],
)
async def test_nothing_else_does(server: Node, command: tuple[str, ...]) -> None:
    client: Redis = Redis.from_url(settings(server).redis_url, protocol=2)
    try:
        with pytest.raises(ResponseError, match=r"permission|ACL failure"):
            await client.execute_command(*command)  # type: ignore[no-untyped-call]
    finally:
        await client.aclose()


async def test_the_doctor_s_user_sees_what_the_doctor_asks(server: Node) -> None:
    found = {finding.name: finding for finding in await check_redis(settings(server, "doctor:change-me-too"))}
    assert found["rights"].text == "the user is doctor; it may look and not write"
    assert "quiet connections" in found["time-outs"].text
    assert found["scripts"].ok
    assert found["pub/sub"].ok


async def test_a_user_that_may_not_info_is_refused(server: Node) -> None:
    """Without it a failover that loses data would go unnoticed."""
    await server.redis.execute_command("ACL SETUSER", "threadline", "-info")  # type: ignore[no-untyped-call]
    with pytest.raises(Misconfigured, match="INFO"):
        async with Backplane.open(settings(server)):
            pass


async def test_the_default_user_is_off(server: Node) -> None:
    client: Redis = Redis(host=HOST, port=server.port, protocol=2)
    try:
        with pytest.raises(RedisError, match=r"(?i)auth"):
            await client.ping()
    finally:
        await client.aclose()


async def test_a_restart_of_any_server_gives_back_what_was_written(kept: Node) -> None:
    """Redis 7.0 reads its append-only file with the rights of `default`: without any, what scripts wrote is gone."""
    ref = thread_ref("t")
    async with Backplane.open(settings(kept)) as backplane:
        await backplane.turns.start(ref, Start("say 5 words", "ann", "sid"))
    await kept.kill()
    await kept.start()
    async with Backplane.open(settings(kept)) as backplane:
        assert [event.name for event in (await backplane.log.read(ref)).events]


async def test_nothing_that_we_send_is_refused_on_the_way(kept: Node) -> None:
    """A refusal that nobody sees would fill the log of the server's ACL, where strangers are looked for."""
    async with Backplane.open(settings(kept)) as backplane:
        await backplane.turns.start(thread_ref("t"), Start("say 5 words", "ann", "sid"))
    assert await kept.redis.execute_command("ACL LOG") == []  # type: ignore[no-untyped-call]


async def test_the_backup_s_user_may_copy_everything_and_nothing_else(kept: Node, tmp_path: Path) -> None:
    if (program := shutil.which("redis-cli")) is None:
        unable("expected redis-cli on the PATH, found none; install it (apt-get install redis-tools)")

    async def asked(*words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            program, "-p", str(kept.port), "--user", "backup", *words,
            env=os.environ | {"REDISCLI_AUTH": "change-me-besides"}, cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        return (await process.communicate())[0].decode()

    said = await asked("--rdb", "copy.rdb")
    assert (tmp_path / "copy.rdb").read_bytes().startswith((b"REDIS", b"VALKEY")), said
    assert "NOPERM" in await asked("GET", "threadline:meta")


async def test_a_password_is_changed_without_a_restart_of_the_server(kept: Node) -> None:
    """Two at once, and the old one out when every process has the new one; whoever is connected goes on."""
    file = kept.folder / "users.acl"
    keeper: Redis = Redis(host=HOST, port=kept.port, username="keeper", password="change-me-now-as-well", protocol=2)
    async with keeper, Backplane.open(settings(kept)) as old:

        async def goes_on() -> bool:
            with suppress(Unavailable):
                await old.turns.start(thread_ref("t"), Start("hello", "ann", "sid", client_message_id="once"))
                return True
            return False

        both = file.read_text().replace(">change-me ", ">change-me >another ")
        file.write_text(both)
        await keeper.execute_command("ACL LOAD")  # type: ignore[no-untyped-call]
        await eventually(goes_on, "the old password is still good")
        async with Backplane.open(settings(kept, "threadline:another")) as new:
            file.write_text(both.replace(">change-me ", ""))
            await keeper.execute_command("ACL LOAD")  # type: ignore[no-untyped-call]

            async def reads() -> bool:
                with suppress(Unavailable):
                    return bool((await new.log.read(thread_ref("t"))).events)
                return False

            await eventually(reads, "the new one is good")
    stranger: Redis = Redis(host=HOST, port=kept.port, username="threadline", password="change-me", protocol=2)
    async with stranger:
        with pytest.raises(RedisError, match="invalid username-password"):
            await stranger.ping()
