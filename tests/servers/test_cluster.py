"""Threads on a Cluster: spread over shards, each step in one slot, and a shard that fails over stops no other."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from backplane.allowances import Spent
from backplane.cluster import ClusterServers
from backplane.connection import Backplane, open_servers
from backplane.ids import thread_ref
from backplane.recoverer import Recoverer
from backplane.turns import Batch, Start
from tests.fleet.conditions import eventually
from tests.servers.deployments import Cluster, Node
from tests.servers.thread import Thread, hearing, opened

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module")
async def fragile(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Return a Cluster that the test may break."""
    async with Cluster(tmp_path) as deployment:
        yield deployment


async def one_on_each(cluster: Cluster, backplane: object, stem: str) -> list[Thread]:
    """Return a thread on each shard, in the order of the shards."""
    found: dict[int, Thread] = {}
    for n in range(1000):
        thread = Thread(backplane, f"{stem}-{n}")  # type: ignore[arg-type]
        owner = await cluster.owner(thread.keys.thread)
        found.setdefault(cluster.primaries.index(owner), thread)
        if len(found) == cluster.SHARDS:
            break
    return [found[n] for n in range(cluster.SHARDS)]


async def test_threads_on_every_shard_run_from_their_start_to_their_end(cluster: Cluster) -> None:
    async with opened(cluster.url, key_prefix="run") as backplane, opened(cluster.url, key_prefix="run") as other:
        assert len(backplane.servers.primaries) == cluster.SHARDS
        threads = await one_on_each(cluster, backplane, "run")
        for thread in threads:
            await thread.begin()
            assert await thread.say(through=other) == ("ok", 3)
            await thread.hears(3)
        assert await backplane.turns.heartbeat([thread.claim for thread in threads]) == ["ok"] * cluster.SHARDS
        places = [(thread.ref, thread.claim.epoch, 2) for thread in threads]
        pages = await other.log.read_many(places)
        assert [page.top for page in pages if page is not None] == [3] * cluster.SHARDS
        for thread in threads:
            assert (await other.turns.cancel(thread.ref, "ann")).cancelled


async def test_calls_are_counted_on_every_shard_and_by_one_round_trip_to_each(cluster: Cluster) -> None:
    """The limits of calls of many users at once, told by one node and heard by another."""
    async with opened(cluster.url, key_prefix="calls") as one, opened(cluster.url, key_prefix="calls") as two:
        keys = [one.keys.user_calls("default", f"user {number}") for number in range(30)]
        assert {await cluster.owner(key) for key in keys} == set(cluster.primaries)
        spent = [Spent(key, 4, 0.0, 0.001, 10) for key in keys]
        for backplane, left in ((one, 6), (two, 2)):
            told = await backplane.allowances.settle(spent)
            assert [round(rest) for rest in told if rest is not None] == [left] * len(keys)


async def test_the_line_the_budgets_and_the_recoverer_cross_no_slot(cluster: Cluster) -> None:
    async with opened(cluster.url, key_prefix="line", max_turns_per_user=2, lease=0.05) as backplane:
        threads = await one_on_each(cluster, backplane, "line")
        members = []
        for thread in threads[:2]:
            start = Start("q", "ann", "sid")
            await backplane.admission.admit(thread.ref, "ann", start.request_id)
            await backplane.turns.start(thread.ref, start)
            members.append(thread.keys.member(start.request_id))
        with pytest.raises(Exception, match="under way already"):
            await backplane.admission.admit(threads[2].ref, "ann", "third")
        await backplane.doorbell.leave()
        waited = [await backplane.doorbell.wait() for _ in range(3)]
        assert waited == [None, *members]
        for member in members:
            assert await backplane.turns.claim(member, "worker")
        recoverer = Recoverer(backplane)

        async def taken_over() -> bool:
            return await recoverer.look() > 0

        await eventually(taken_over, "lapsed leases to be seen on their shards")


async def test_a_pipeline_over_all_shards_comes_back_in_its_order(cluster: Cluster) -> None:
    async with opened(cluster.url, key_prefix="order") as backplane:
        names = [f"order:{n}" for n in range(30)]
        pipeline = backplane.redis.pipeline(transaction=False)
        for n, name in enumerate(names):
            pipeline.set(name, n, ex=60)
            pipeline.get(name)
        answers = await pipeline.execute()
        assert answers[1::2] == [b"%d" % n for n in range(30)]
        assert len({await cluster.owner(name) for name in names}) == cluster.SHARDS


async def test_a_script_that_a_primary_does_not_know_is_loaded_there(cluster: Cluster) -> None:
    async with opened(cluster.url, key_prefix="script") as backplane:
        for node in cluster.primaries:
            await node.redis.script_flush()
        refs = [thread_ref(f"t{n}") for n in range(20)]
        pages = await backplane.log.read_many([(ref, "", 0) for ref in refs])
        assert [page is not None and page.reached for page in pages] == [False] * 20


async def test_only_the_listeners_of_a_lost_shard_are_told(cluster: Cluster) -> None:
    async with opened(cluster.url, key_prefix="ears") as backplane:
        threads = await one_on_each(cluster, backplane, "ears")
        for thread in threads:
            await thread.begin()
        await cluster.primaries[1].redis.client_kill_filter(_type="pubsub")

        async def told() -> bool:
            return threads[1].ear.misses > 0

        await eventually(told, "the listener to be told")
        assert (threads[0].ear.misses, threads[2].ear.misses) == (0, 0)
        await hearing(backplane)
        offset = (await threads[1].say())[1]
        await threads[1].hears(offset)


async def test_slots_are_asked_for_again_only_when_the_configuration_is_another(cluster: Cluster) -> None:
    """That answer names every shard, and every process asks each second."""
    servers = open_servers(cluster.url)  # by itself: a process would look, too, in between
    assert isinstance(servers, ClusterServers)
    client, located = servers.client(0), Counter[str]()
    try:
        await servers.locate()
        locate = servers._locate

        async def counted() -> None:
            located["all"] += 1
            await locate()

        servers._locate = counted  # type: ignore[method-assign]
        servers._glances = 0
        for _ in range(3):
            await servers.glance()
        assert located["all"] == 0, "nothing has changed"
        servers._version = (True, -1)
        await servers.glance()
        assert located["all"] == 1, "another epoch"
        await servers.glance()
        assert located["all"] == 1
        servers._glances = 9
        await servers.glance()
        assert located["all"] == 2, "every tenth time in any case"
    finally:
        await client.aclose()
        await servers.aclose()


async def uncovered(cluster: Cluster) -> None:
    """Have the shards go on while slots of another one are served by nobody, as soon as that is known."""
    for node in cluster.nodes:
        await node.redis.config_set("cluster-require-full-coverage", "no")


async def test_a_shard_that_fails_over_stops_no_other(fragile: Cluster) -> None:
    """Row 17 of the faults: the primary of a thread's slot is killed; words that only it had are lost, and told."""
    async with opened(fragile.url, redis_timeout=5.0) as backplane:
        await uncovered(fragile)
        threads = await one_on_each(fragile, backplane, "t")
        for thread in threads:
            await thread.begin()
            await thread.say()
        # the line of turns has a slot of its own, which is not at the shard that is lost
        line = await fragile.owner(backplane.keys.doorbell)
        lost = next(node for node in fragile.primaries if node is not line)
        hit = threads[fragile.primaries.index(lost)]
        others = [thread for thread in threads if thread is not hit]
        await eventually(lost.caught_up, "its replica to have all of it")
        await lost.shut_out("replication")
        await hit.say("lost")
        await hit.hears(4)
        await lost.kill()
        for thread in others:
            assert await thread.say() == ("ok", 4), "the other shards go on meanwhile"
        mixed = await backplane.turns.heartbeat([thread.claim for thread in threads])
        assert [mixed[threads.index(thread)] for thread in others] == ["ok", "ok"]
        await fragile.failed_over(lost)
        await hearing(backplane)

        async def settled() -> bool:
            return (await backplane.log.read(hit.ref)).top == 3

        await eventually(settled, "the thread to be read at its new primary")
        assert not (await backplane.log.read(hit.ref, epoch=hit.claim.epoch, after=4)).reached
        assert (await hit.say("behind"))[0] == "fenced"
        await backplane.turns.cancel(hit.ref, "ann")
        await backplane.turns.start(hit.ref, Start("again", "ann", "sid"))
        page = await backplane.log.read(hit.ref, epoch=hit.claim.epoch, after=3)
        assert (page.reached, page.ancestry) == (True, {hit.claim.epoch: 3})
        await hit.hears(page.top)
        assert [thread.ear.misses for thread in others] == [0, 0]


async def test_a_primary_that_hangs_holds_up_no_other(fragile: Cluster) -> None:
    """No connection to it breaks and nothing is refused; here nobody can take its place, either."""
    # the leases outlive the test, but for those that it ends itself
    async with opened(fragile.url, redis_timeout=5.0, lease=600) as backplane:
        await uncovered(fragile)
        threads = await one_on_each(fragile, backplane, "t")
        for thread in threads:
            await thread.begin()
        hung = fragile.primaries[0]
        await fragile.replica_of(hung).kill()
        recoverer = Recoverer(backplane)
        assert hung.process is not None
        os.kill(hung.process.pid, signal.SIGSTOP)
        claims = [thread.claim for thread in threads]
        assert await backplane.turns.heartbeat(claims) == [None, "ok", "ok"]
        appends = [backplane.turns.append_call(claim, Batch(1, [], "w")) for claim in claims]
        answers = await backplane.run_many(appends)
        assert [isinstance(answer, Exception) for answer in answers] == [True, False, False]
        await lapse(backplane, threads[1])
        assert await recoverer.look() == 1, "a worker that is lost meanwhile is noticed"
        os.kill(hung.process.pid, signal.SIGCONT)

        async def back() -> bool:
            return await backplane.turns.heartbeat(claims[:1] + claims[2:]) == ["ok", "ok"]

        await eventually(back, "it to answer again")
        await lapse(backplane, threads[0])
        await recoverer.look()
        verdicts = await backplane.turns.heartbeat(claims)
        assert verdicts == ["ok", "fenced", "ok"], "its owner could not renew the lease, and gets time to"


async def lapse(backplane: Backplane, thread: Thread) -> None:
    """Have the lease of a thread's turn be over."""
    await backplane.redis.hset(thread.keys.turn(thread.claim.request_id), mapping={"lease_until": 1})
    await backplane.redis.zadd(thread.keys.partition.due, {f"{thread.ref}/{thread.claim.request_id}": 1})


async def test_a_planned_change_of_a_primary_loses_nothing(fragile: Cluster) -> None:
    async with opened(fragile.url) as backplane:
        (thread, *_) = await one_on_each(fragile, backplane, "t")
        await thread.begin()
        await thread.say()
        replica: Node = fragile.replica_of(fragile.primaries[0])
        await replica.redis.execute_command("CLUSTER FAILOVER")  # type: ignore[no-untyped-call]
        await fragile.failed_over(fragile.primaries[0])
        assert await thread.said() == 4

        async def told() -> bool:
            return thread.ear.misses > 0

        await eventually(told, "the listener to be told")
        await hearing(backplane)
        assert await thread.said() == 5
        await thread.hears(5)
        page = await backplane.log.read(thread.ref, epoch=thread.claim.epoch, after=2)
        assert [event.offset for event in page.events] == [3, 4, 5]


async def test_a_channel_that_is_taken_away_is_looked_for_again(cluster: Cluster) -> None:
    """As when its slot moves to another primary: the server ends the subscription, and nobody asked for it."""
    async with opened(cluster.url, key_prefix="away") as backplane:
        threads = await one_on_each(cluster, backplane, "away")
        for thread in threads:
            await thread.begin()
        path = backplane.live._at[threads[0].keys.live.encode()]
        assert path._connection is not None
        path._connection.send("SUNSUBSCRIBE", threads[0].keys.live)

        async def told() -> bool:
            return threads[0].ear.misses > 0

        await eventually(told, "the listener to be told")
        offset = (await threads[0].say())[1]
        await threads[0].hears(offset)
        await hearing(backplane)
        assert backplane.live.deaf_at == []
