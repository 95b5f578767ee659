"""What the doctor finds, and what it advises."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from backplane.checks import (
    Finding,
    check_redis,
    clock,
    eviction,
    persistence,
    replicas,
    rights,
    timeouts,
    version,
)
from backplane.connection import Backplane
from backplane.settings import Settings
from cli.doctor import check_gateway, check_settings, examine, report, with_local_store
from tests.clients.python.scripted_gateway import gateways

Make = Callable[..., Settings]


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


async def test_a_working_redis_passes_what_it_can_do(settings: Make, backplane: Backplane) -> None:
    found = by_name(await check_redis(settings()))
    assert {name for name in ("redis", "partitions", "scripts", "pub/sub") if found[name].ok} == {
        "redis",
        "partitions",
        "scripts",
        "pub/sub",
    }


async def test_nothing_is_recorded_by_looking(settings: Make) -> None:
    found = by_name(await check_redis(settings()))
    assert "nothing is recorded yet" in found["partitions"].text


async def test_another_number_of_partitions_is_named_with_the_variable(settings: Make, backplane: Backplane) -> None:
    finding = by_name(await check_redis(settings(partitions=9)))["partitions"]
    assert not finding.ok
    assert f"THREADLINE_PARTITIONS={backplane.settings.partitions}" in finding.advice


async def test_a_number_of_partitions_that_is_not_configured_is_the_recorded_one(
    redis_url: str, prefix: str, backplane: Backplane
) -> None:
    finding = by_name(await check_redis(Settings(redis_url=redis_url, key_prefix=prefix)))["partitions"]
    assert finding.ok
    assert finding.text == f"{backplane.settings.partitions}, as recorded"


async def test_a_redis_that_is_not_there_is_the_only_finding() -> None:
    (finding,) = await check_redis(Settings(redis_url="redis://127.0.0.1:1/0"))
    assert (finding.name, finding.ok) == ("redis", False)
    assert "THREADLINE_REDIS_URL" in finding.advice


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
    assert persistence({"aof_enabled": 1, "aof_last_write_status": "ok"}).ok
    assert "appendonly yes" in persistence({"aof_enabled": 0}).advice
    assert not persistence({}).ok
    assert "disk" in persistence({"aof_enabled": 1, "aof_last_write_status": "err"}).advice
    assert eviction({"maxmemory_policy": "noeviction"}).ok
    assert "noeviction" in eviction({"maxmemory_policy": "allkeys-lru"}).advice


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
    assert rights("default", here=True).ok
    assert "users.acl" in rights("default", here=False).advice
    assert rights("threadline", here=False).ok


async def test_a_gateway_that_is_not_there_or_not_ready_is_said_so() -> None:
    async with gateways(1) as (_, (node,)):
        not_ready = await check_gateway(node.url)  # it has no /readyz
    gone = await check_gateway(node.url)
    assert (not_ready.ok, gone.ok) == (False, False)
    assert "404" in not_ready.text
    assert "THREADLINE_URL" in gone.advice


def test_settings_that_endanger_turns_or_let_everyone_in_are_found() -> None:
    found = by_name(check_settings(Settings(host="0.0.0.0", lease=1.0, heartbeat=0.9)))
    assert not found["who may"].ok
    assert "THREADLINE_LEASE" in found["lease"].advice
    assert all(finding.ok for finding in check_settings(Settings()))


async def test_everything_is_examined(settings: Make, backplane: Backplane) -> None:
    names = by_name(await examine(settings(url=("http://127.0.0.1:1",))))
    assert {"who may", "redis", "gateway http://127.0.0.1:1"} <= set(names)


def test_the_report_is_plain_and_its_answer_is_whether_all_is_well() -> None:
    out = io.StringIO()
    assert report([Finding("a", True, "fine")], out)
    assert not report([Finding("b", False, "bad\x1b[2J", "do this")], out)
    assert out.getvalue() == "ok    a: fine\nFAIL  b: bad[2J\n      -> do this\n"


def test_a_fleet_of_this_folder_is_found_when_no_redis_was_named(tmp_path: Path) -> None:
    (tmp_path / "fleet.json").write_text('{"store": {"url": "redis://127.0.0.1:7/0"}}')
    assert with_local_store(Settings(data_dir=tmp_path)).redis_url == "redis://127.0.0.1:7/0"
    named = Settings(data_dir=tmp_path, redis_url="redis://127.0.0.1:8/0")
    assert with_local_store(named).redis_url == "redis://127.0.0.1:8/0"


@pytest.mark.parametrize("text", [None, "", "[]", '{"store": null}'])
def test_without_a_fleet_here_the_setting_counts(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "fleet.json").write_text(text)
    assert with_local_store(Settings(data_dir=tmp_path)).redis_url == Settings().redis_url
