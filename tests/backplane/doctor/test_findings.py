"""What is made of what a server says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from backplane.addresses import Kind, parse
from backplane.diagnosis import Encryption
from backplane.doctor.findings import (
    buffers,
    clients,
    clock,
    encryption,
    eviction,
    kind,
    persistence,
    replicas,
    rights,
    timeouts,
    version,
)


@pytest.mark.parametrize(
    ("info", "ok"),
    [
        ({"redis_version": "6.2.1"}, False),
        ({"redis_version": "7.0.0"}, True),
        ({"redis_version": "7.2.4", "valkey_version": "8.0.1"}, True),
        ({}, False),
    ],
)
def test_the_version_must_have_sharded_pubsub(info: dict[str, str], ok: bool) -> None:
    assert version(info).ok is ok


def test_persistence_and_eviction_are_judged_with_advice() -> None:
    assert persistence({"aof_enabled": 1, "aof_last_write_status": "ok"}, {"appendfsync": "everysec"}).level == "ok"
    assert "appendonly yes" in persistence({"aof_enabled": 0}, {}).advice
    assert not persistence({}, {}).ok
    assert "disk" in persistence({"aof_enabled": 1, "aof_last_write_status": "err"}, {}).advice
    assert "disk" in persistence({"aof_enabled": 1, "rdb_last_bgsave_status": "err"}, {}).advice
    assert persistence({"aof_enabled": 1}, {"appendfsync": "no"}).level == "warn"
    assert eviction({"maxmemory_policy": "noeviction"}).ok
    assert "noeviction" in eviction({"maxmemory_policy": "allkeys-lru"}).advice
    full = {"maxmemory_policy": "noeviction", "maxmemory": 100, "used_memory": 95}
    assert "95%" in eviction(full).text
    assert not eviction(full).ok
    assert eviction(full | {"used_memory": 50}).ok


def test_replicas_matter_where_somebody_could_take_over() -> None:
    assert replicas({}, {}, watched=False).ok
    assert "give it a replica" in replicas({"connected_slaves": 0}, {}, watched=True).advice
    assert (
        "min-replicas-to-write 1"
        in replicas({"connected_slaves": 1}, {"min-replicas-to-write": "0"}, watched=True).advice
    )
    assert replicas({"connected_slaves": 1}, {"min-replicas-to-write": "1"}, watched=True).ok


def test_a_server_that_closes_quiet_connections_is_found() -> None:
    assert "timeout 0" in timeouts({"timeout": "60", "tcp-keepalive": "300"}).advice
    assert "tcp-keepalive" in timeouts({"timeout": "0", "tcp-keepalive": "0"}).advice
    assert timeouts({"timeout": "0", "tcp-keepalive": "300"}).ok
    assert "cannot be seen" in timeouts({}).text


def test_clocks_must_agree_with_each_other_and_about_with_ours() -> None:
    assert clock([0.1, -0.1]).ok
    assert "NTP on the machines of all Redis" in clock([0.0, 0.9]).advice
    assert "300 s ahead of" in clock([300.0]).text
    assert "300 s behind" in clock([-300.0]).text


def test_the_user_who_may_do_everything_is_for_this_machine_only() -> None:
    assert rights("default", (), here=True).ok
    assert "users.acl" in rights("default", (), here=False).advice
    assert rights("threadline", (), here=False).level == "ok"


def test_what_a_user_may_not_do_is_named_unless_it_may_only_look() -> None:
    lacks = rights("app", ("XADD", "SPUBLISH p:{0}:control"), here=True)
    assert not lacks.ok
    assert "XADD, SPUBLISH p:{0}:control" in lacks.text
    looks = rights("doctor", ("HSET", "XADD"), here=True)
    assert looks.level == "warn"
    assert "gateways and workers" in looks.advice
    assert rights("app", None, here=True).text == "the user is app"


@pytest.mark.parametrize(
    ("info", "wanted", "advice"),
    [
        ({"redis_mode": "cluster"}, "single", "redis+cluster://"),
        ({"redis_mode": "sentinel"}, "single", "redis+sentinel://"),
        (
            {"redis_mode": "standalone", "role": "slave", "master_host": "h", "master_port": 1},
            "single",
            "name the primary",
        ),
        ({"redis_mode": "standalone", "role": "master"}, "single", ""),
        ({}, "single", ""),
        ({}, "cluster", ""),
    ],
)
def test_a_server_of_another_kind_than_the_url_says_is_found(info: dict[str, Any], wanted: Kind, advice: str) -> None:
    finding = kind(info, wanted)
    assert finding.ok is not bool(advice)
    assert advice in finding.advice


@pytest.mark.parametrize(
    ("most", "now", "level"), [(10_000, 50, "ok"), (10_000, 9_950, "FAIL"), (500, 50, "warn"), (50, 1, "FAIL")]
)
def test_there_must_be_room_for_connections(most: int, now: int, level: str) -> None:
    finding = clients({"maxclients": most, "connected_clients": now})
    assert finding.level == level
    assert (level == "ok") or "maxclients" in finding.advice
    assert clients({}).ok


@pytest.mark.parametrize(
    ("limits", "kind"),
    [
        ("normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60", ""),
        ("normal 0 0 0 slave 1 1 1 pubsub 0 0 0", ""),
        ("normal 0 0 0 slave 268435456 67108864 60 pubsub 65536 0 0", "pubsub"),
        ("normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 65536 60", "pubsub"),
        ("normal 65536 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60", "normal"),
    ],
)
def test_a_server_that_cuts_who_reads_slowly_is_found(limits: str, kind: str) -> None:
    finding = buffers({"client-output-buffer-limit": limits})
    assert finding.ok is not bool(kind)
    assert f"client-output-buffer-limit {kind}" in finding.advice or not kind
    assert "cannot be seen" in buffers({}).text


@pytest.mark.parametrize(
    ("url", "days", "level", "says"),
    [
        ("redis://u:hidden@far", None, "warn", "the password and all messages go in clear to far:6379"),
        ("redis+sentinel://far/main?sentinel_password=hidden", None, "warn", "the password and"),
        ("redis://far", None, "warn", "none: all messages go in clear"),
        ("redis://u:hidden@127.0.0.1", None, "ok", "stays on this machine"),
        ("rediss://u:hidden@far", 100.0, "ok", "valid for 100 days"),
        ("rediss://u:hidden@far", 3.0, "warn", "ends in 3.0 days"),
        ("rediss://far?ssl_cert_reqs=none", None, "warn", "the certificate of the server is not checked"),
        ("rediss://far?ssl_check_hostname=no", 100.0, "warn", "the host name of the server is not checked"),
    ],
)
def test_who_can_read_along_is_told(url: str, days: float | None, level: str, says: str) -> None:
    address = parse(url)
    found = Encryption("TLSv1.3", days) if address.tls else None
    finding = encryption(address, [server for server in address.servers if not server.here], found)
    assert finding.level == level
    assert says in finding.text
    assert "hidden" not in finding.text + finding.advice
    assert finding.text.startswith("TLSv1.3" if address.tls else "none")
