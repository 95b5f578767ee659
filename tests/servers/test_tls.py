"""TLS to real servers: a conversation over it, what comes back after a cut, and what is said when it cannot be."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backplane.addresses import parse
from backplane.diagnosis import Fault, diagnose
from backplane.embedded import HOST
from backplane.errors import Unavailable
from backplane.turns import Start
from tests.fleet.conditions import eventually
from tests.servers.certificates import Authority, Pair
from tests.servers.deployments import PASSWORD, Cluster, Node, Watched, find_with_tls, tls_query
from tests.servers.thread import Thread, hearing, opened
from tests.support.working import working
from worker.agents.demo import agent

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(find_with_tls() is None, reason="no server with TLS on the PATH: apt-get install redis-server"),
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return an authority that nobody outside of these tests knows."""
    return Authority(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def started(folder: Path, **given: Any) -> AsyncIterator[Node]:
    node = Node(folder, **given)
    try:
        await node.start()
        yield node
    finally:
        await node.close()


def url(node: Node, query: str = "", scheme: str = "rediss", login: str = f"app:{PASSWORD}@", host: str = HOST) -> str:
    return f"{scheme}://{login}{host}:{node.port}{query}"


async def talk(backplane: Any, name: str) -> None:
    """Have one turn told to its end and another cancelled, and hear both live."""
    thread = Thread(backplane, name)
    await thread.begin()
    for _ in range(3):
        offset = await thread.said()
        await thread.hears(offset)
    assert (await backplane.turns.cancel(thread.ref, "ann", thread.claim.request_id)).cancelled
    assert (await thread.say("late"))[0] == "cancelled"


async def test_a_conversation_over_tls_with_certificates_on_both_sides(tmp_path: Path, authority: Authority) -> None:
    """Start, stream, cancel, and a cut of every connection in the middle."""
    async with started(tmp_path, authority=authority) as node, opened(url(node, tls_query(authority))) as backplane:
        await talk(backplane, "one")
        thread = Thread(backplane, "two")
        await thread.begin()
        await node.redis.client_kill_filter(_type="pubsub")
        await node.redis.client_kill_filter(_type="normal", skipme=True)

        async def told() -> bool:
            return thread.ear.misses > 0

        await eventually(told, "the listener to be told")
        await hearing(backplane)
        await thread.hears(await thread.said())
        assert backplane.live.reconnects > 0
        async with working(backplane, agent):
            ref = Thread(backplane, "three").ref
            await backplane.turns.start(ref, Start("say 5 words", "ann", "sid"))

            async def done() -> bool:
                return (await backplane.log.read(ref)).events[-1].name == "chat_done"

            await eventually(done, "the end of the turn")


async def test_a_failover_behind_sentinels_over_tls(tmp_path: Path, authority: Authority) -> None:
    async with Watched(tmp_path, authority) as watched, opened(watched.url) as backplane:
        await talk(backplane, "before")
        await eventually(watched.primary.caught_up, "the replica to have all of it")
        await watched.primary.kill()
        await watched.failed_over()

        async def moved() -> bool:
            return [server.port for server in backplane.servers.primaries] == [watched.replica.port]

        await eventually(moved, "the process to follow")
        await hearing(backplane)
        await talk(backplane, "after")


async def test_a_cluster_over_tls(tmp_path: Path, authority: Authority) -> None:
    async with Cluster(tmp_path, authority) as cluster, opened(cluster.url) as backplane:
        assert len(backplane.servers.primaries) == cluster.SHARDS
        for name in ("a", "b", "c", "d"):
            await talk(backplane, name)
        for node in cluster.primaries:
            await node.redis.client_kill_filter(_type="pubsub")

        async def noticed() -> bool:
            return backplane.live.reconnects >= cluster.SHARDS

        await eventually(noticed, "the cuts to be noticed")
        await hearing(backplane)
        for name in ("e", "f", "g", "h"):
            await talk(backplane, name)


async def fault_of(address: str) -> Fault:
    """Return what is said of an address that must not work, having seen that it does not."""
    with pytest.raises(Unavailable):
        async with opened(address, redis_timeout=1.0):
            pass
    fault = await diagnose(parse(address))
    assert fault is not None
    assert PASSWORD not in str(fault)
    return fault


async def test_a_server_without_tls_is_told(tmp_path: Path, authority: Authority) -> None:
    async with started(tmp_path) as node:
        fault = await fault_of(url(node, tls_query(authority)))
    assert fault.text.startswith("expected a server with TLS")
    assert "tls-port" in fault.advice


async def test_a_server_with_tls_is_told(tmp_path: Path, authority: Authority) -> None:
    async with started(tmp_path, authority=authority) as node:
        fault = await fault_of(url(node, scheme="redis"))
    assert fault.text.startswith("expected a server without TLS")
    assert "rediss" in fault.advice


async def test_an_unknown_authority_is_told(tmp_path: Path, authority: Authority) -> None:
    other = Authority(tmp_path / "other")
    async with started(tmp_path, authority=authority) as node:
        for query in ("", f"?ssl_ca_certs={other.file}"):
            fault = await fault_of(url(node, query))
            assert "authority that is not known" in fault.text
            assert "ssl_ca_certs" in fault.advice


@pytest.mark.parametrize(
    ("issue", "says"),
    [
        (lambda authority: authority.issue("ended", days=-1), "has expired"),
        (lambda authority: authority.issue("elsewhere", ("redis.example",)), "for other names"),
    ],
)
async def test_a_certificate_that_ended_or_is_of_another_host_is_told(
    tmp_path: Path, authority: Authority, issue: Callable[[Authority], Pair], says: str
) -> None:
    node = Node(tmp_path, authority=authority, shows=False)
    node.pair = issue(authority)
    node.redis.connection_pool.connection_kwargs["ssl_cert_reqs"] = "none"
    try:
        await node.start()
        assert says in (await fault_of(url(node, f"?ssl_ca_certs={authority.file}"))).text
    finally:
        await node.close()


async def test_a_host_name_is_not_checked_when_it_is_told_so(tmp_path: Path, authority: Authority) -> None:
    node = Node(tmp_path, authority=authority, shows=False)
    node.pair = authority.issue("of-another", ("redis.example",))
    try:
        await node.start()
        async with opened(url(node, f"?ssl_ca_certs={authority.file}&ssl_check_hostname=no")) as backplane:
            await talk(backplane, "t")
    finally:
        await node.close()


async def test_a_certificate_that_is_not_shown_or_not_taken_is_told(tmp_path: Path, authority: Authority) -> None:
    other = Authority(tmp_path / "other").client
    async with started(tmp_path, authority=authority) as node:
        missing = await fault_of(url(node, f"?ssl_ca_certs={authority.file}"))
        query = f"?ssl_ca_certs={authority.file}&ssl_certfile={other.certificate}&ssl_keyfile={other.key}"
        foreign = await fault_of(url(node, query))
    assert missing.text.endswith("wants a certificate of clients, and none was shown")
    assert "ssl_certfile" in missing.advice
    assert "does not take our certificate" in foreign.text


async def test_a_wrong_password_is_told_over_tls(tmp_path: Path, authority: Authority) -> None:
    async with started(tmp_path, authority=authority) as node:
        fault = await fault_of(url(node, tls_query(authority), login="app:wrong-one@"))
        assert "does not take this user and password" in fault.text
        assert "wrong-one" not in str(fault)
        assert "wants a user and a password" in (await fault_of(url(node, tls_query(authority), login=""))).text
