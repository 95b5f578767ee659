"""What the doctor says of real servers: of each kind, badly set, and with users who may too little."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backplane.doctor.checks import check_redis
from backplane.doctor.findings import Finding
from backplane.doctor.rights import OF_CHANNELS, OF_KEYS
from backplane.embedded import HOST
from backplane.settings import Settings
from tests.servers.certificates import Authority
from tests.servers.deployments import PASSWORD, Cluster, Node, Watched, find_with_tls, tls_query

pytestmark = pytest.mark.processes
EXAMPLE = Path(__file__).parents[2] / "deploy" / "valkey" / "users.acl"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Node]:
    """Return a server with the example's users, and those of the other tests."""
    users = EXAMPLE.read_text().partition("\n")[2] + (  # without its `default`
        f"user default on >{PASSWORD} ~* &* +@all\nuser app on >{PASSWORD} ~* &* +@all\n"
    )
    node = Node(tmp_path, users=users)
    try:
        await node.start()
        yield node
    finally:
        await node.close()


async def found_at(url: str, **given: Any) -> dict[str, Finding]:
    found = await check_redis(Settings(redis_url=url, **given))
    assert PASSWORD not in str(found)
    return {finding.name: finding for finding in found}


def url(node: Node, login: str = f"app:{PASSWORD}", scheme: str = "redis", tail: str = "") -> str:
    return f"{scheme}://{login}@{HOST}:{node.port}{tail}"


async def tell(node: Node, *words: str | int) -> Any:
    return await node.redis.execute_command(*words)  # type: ignore[no-untyped-call]


async def test_each_bad_setting_of_a_server_is_found_with_what_to_set(server: Node) -> None:
    good = await found_at(url(server))
    assert [name for name, finding in good.items() if not finding.ok] == ["persistence"]
    for name, value in {
        "maxmemory-policy": "allkeys-lru",
        "timeout": "300",
        "maxclients": "60",
        "client-output-buffer-limit": "pubsub 65536 0 0",
    }.items():
        await server.redis.config_set(name, value)
    found = await found_at(url(server))
    for name, advice in {
        "memory": "maxmemory-policy noeviction",
        "persistence": "appendonly yes",
        "time-outs": "timeout 0",
        "clients": "raise `maxclients`",
        "buffers": "client-output-buffer-limit pubsub 32mb 8mb 60",
    }.items():
        assert not found[name].ok, name
        assert advice in found[name].advice
    assert all(found[name].ok for name in ("version", "clock", "rights", "partitions", "scripts", "pub/sub"))


@pytest.mark.asyncio(loop_scope="module")
async def test_a_primary_behind_sentinels_is_looked_at(watched: Watched) -> None:
    found = await found_at(watched.url)
    assert {name for name, finding in found.items() if not finding.ok} == {"persistence", "replicas"}
    assert found["kind"].text == "a primary behind Sentinels"
    assert "min-replicas-to-write 1" in found["replicas"].advice
    (wrong,) = (await found_at(watched.url.replace("/main/", "/other/"))).values()
    assert "watches over main, not over 'other'" in wrong.text
    sentinel = await found_at(f"redis://{HOST}:{watched.sentinels[0].port}")
    assert sentinel["kind"].advice.startswith("write redis+sentinel://")
    replica = await found_at(url(watched.replica))
    assert "got a replica" in replica["kind"].text


@pytest.mark.asyncio(loop_scope="module")
async def test_every_primary_of_a_cluster_is_looked_at(cluster: Cluster) -> None:
    found = await found_at(cluster.url)
    assert {name for name, finding in found.items() if not finding.ok} == {"persistence", "replicas"}
    assert "and well at 2 more" in found["version"].text
    worst = cluster.primaries[2]
    await worst.redis.config_set("timeout", 300)
    try:
        assert f"{HOST}:{worst.port}: " in (await found_at(cluster.url))["time-outs"].text
    finally:
        await worst.redis.config_set("timeout", 0)
    single = await found_at(url(cluster.primaries[0]))
    assert list(single) == ["redis", "kind"]
    assert single["kind"].advice.startswith("write redis+cluster://")


async def test_what_a_user_may_not_do_is_named(server: Node) -> None:
    good = (await found_at(url(server, "threadline:change-me")))["rights"]
    assert good.ok
    assert "may do what gateways and workers do" in good.text
    looking = (await found_at(url(server, "doctor:change-me-too")))["rights"]
    assert looking.level == "warn"
    await tell(server, "ACL", "SETUSER", "threadline", "-xadd", "-hget", "-time")
    found = await found_at(url(server, "threadline:change-me"))
    assert "may not: HGET, XADD, TIME" in found["rights"].text
    assert "users.acl" in found["rights"].advice
    assert not found["scripts"].ok
    assert "users.acl" in found["scripts"].advice


async def test_a_user_of_another_prefix_is_found(server: Node) -> None:
    found = await found_at(url(server, "threadline:change-me"), key_prefix="another")
    assert "THREADLINE_KEY_PREFIX" in found["rights"].advice
    assert " more" in found["rights"].text
    assert "THREADLINE_KEY_PREFIX" in found["partitions"].advice


async def test_a_user_who_may_not_listen_is_told_what_the_server_said(server: Node) -> None:
    await tell(server, "ACL", "SETUSER", "threadline", "-ssubscribe")
    found = await found_at(url(server, "threadline:change-me"))
    assert "SSUBSCRIBE threadline:" in found["rights"].text
    assert "ssubscribe" in found["pub/sub"].text
    assert "users.acl" in found["pub/sub"].advice


def test_the_rights_that_are_asked_are_those_of_the_example() -> None:
    (line,) = [line for line in EXAMPLE.read_text().splitlines() if line.startswith("user threadline")]
    given = {word[1:] for word in line.split() if word.startswith("+")}
    others = {"ping", "info", "time", "multi", "exec", "select", "eval", "evalsha", "asking"}
    asked = {name.lower() for name in (*OF_KEYS, *OF_CHANNELS)}
    assert {name for name in given if "|" not in name} - others == asked


@pytest.mark.skipif(find_with_tls() is None, reason="no server with TLS on the PATH: apt-get install redis-server")
async def test_the_encryption_of_a_connection_is_told(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    node = Node(tmp_path / "node", authority=authority)
    try:
        await node.start()
        found = await found_at(url(node, scheme="rediss", tail=tls_query(authority)))
        assert found["encryption"].level == "warn", "it ends within a day"
        assert found["encryption"].text.startswith("TLSv1.3, and the server's certificate ends in")
        assert found["pub/sub"].ok
        assert found["rights"].ok
        (plain,) = (await found_at(url(node))).values()
        assert "rediss" in plain.advice
    finally:
        await node.close()


async def test_a_server_that_may_forget_at_a_restart_what_scripts_wrote_is_found(tmp_path: Path) -> None:
    """The user `default` without rights: whoever writes an ACL of their own turns it off so."""
    looker = f"user looker on >{PASSWORD} ~* &* +@all\n"
    node = Node(tmp_path, "--appendonly", "yes", users=EXAMPLE.read_text() + looker, looker="looker")
    try:
        await node.start()
        doctor = url(node, "doctor:change-me-too")
        assert (await found_at(doctor))["persistence"].ok
        await tell(node, "ACL SETUSER", "default", "reset")
        found = (await found_at(doctor))["persistence"]
        assert not found.ok
        assert "user default off ~* &* +@all" in found.advice
        assert (await found_at(url(node, "threadline:change-me")))["persistence"].ok, "it cannot be seen by everybody"
    finally:
        await node.close()
