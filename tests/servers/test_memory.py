"""A server whose memory is full: nothing is acknowledged and lost, and it recovers by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backplane.connection import Backplane
from backplane.embedded import HOST
from backplane.errors import Misconfigured, Unavailable
from backplane.ids import thread_ref
from backplane.settings import Settings
from backplane.turns import Start
from tests.fleet.conditions import eventually
from tests.servers.deployments import PASSWORD, Node
from tests.support.working import working
from worker.agents.demo import agent

pytestmark = pytest.mark.processes


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path)
    try:
        await node.start()
        yield node
    finally:
        await node.close()


def settings(node: Node, db: int = 0, **given: object) -> Settings:
    return Settings(redis_url=f"redis://app:{PASSWORD}@{HOST}:{node.port}/{db}", partitions=4, **given)  # type: ignore[arg-type]


async def full(node: Node) -> None:
    used = int((await node.redis.info("memory"))["used_memory"])
    await node.redis.config_set("maxmemory", used // 2)


async def test_at_the_bound_a_start_is_unavailable_and_afterwards_the_same_one_is_taken(server: Node) -> None:
    """Row 18 of the faults."""
    async with Backplane.open(settings(server)) as backplane:
        await full(server)
        start = Start("q", "ann", "sid", client_message_id="once")
        with pytest.raises(Unavailable, match="OOM"):
            await backplane.turns.start(thread_ref("t"), start)
        with pytest.raises(Unavailable):
            await backplane.admission.admit(thread_ref("t"), "ann", start.request_id)
        await server.redis.config_set("maxmemory", 0)
        assert (await backplane.turns.start(thread_ref("t"), start)).offset == 1


async def test_a_turn_that_ran_into_the_bound_goes_on_when_there_is_room(server: Node) -> None:
    async with Backplane.open(settings(server)) as backplane, working(backplane, agent):
        ref = thread_ref("t")
        metadata = {"delay_ms": 5}
        await backplane.turns.start(ref, Start("say 100 words", "ann", "sid", metadata=metadata))

        async def talks() -> bool:
            return (await backplane.log.read(ref)).top > 10

        await eventually(talks, "the turn to talk")
        await full(server)

        async def stands() -> bool:
            try:
                await backplane.turns.start(thread_ref("other"), Start("q", "ann", "sid"))
            except Unavailable:
                return True
            return False

        await eventually(stands, "the server to refuse")
        await server.redis.config_set("maxmemory", 0)

        async def done() -> bool:
            return (await backplane.log.read(ref)).events[-1].name == "chat_done"

        await eventually(done, "the end of the turn")
        page = await backplane.log.read(ref)
        assert [event.offset for event in page.events] == list(range(1, page.top + 1))


async def test_a_server_that_drops_keys_is_refused(server: Node) -> None:
    await server.redis.config_set("maxmemory-policy", "allkeys-lru")
    async with Backplane.open(settings(server)):
        """Without a bound it drops nothing yet: a warning."""
    await server.redis.config_set("maxmemory", "100mb")
    with pytest.raises(Misconfigured, match="noeviction"):
        async with Backplane.open(settings(server)):
            pass


async def test_another_database_of_the_same_server_is_refused(server: Node) -> None:
    """The two would hear each other's channels, and a thread of one would run nowhere."""
    async with Backplane.open(settings(server)):
        pass
    with pytest.raises(Misconfigured, match="which is 0, got 1"):
        async with Backplane.open(settings(server, db=1)):
            pass
    async with Backplane.open(settings(server, db=1, key_prefix="another")):
        pass
