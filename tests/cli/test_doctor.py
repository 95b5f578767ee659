"""What the doctor finds, and what it advises."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from backplane import diagnosis
from backplane.connection import Backplane
from backplane.doctor.checks import check_redis
from backplane.doctor.findings import Finding
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
    assert "nothing listens" in finding.text
    assert "THREADLINE_REDIS_URL" in finding.advice


async def test_a_redis_that_is_stopped_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its system still takes connections for it; the doctor used to wait for an answer for ever."""
    monkeypatch.setattr(diagnosis, "PATIENCE", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as stopped:
        url = f"redis://127.0.0.1:{stopped.getsockname()[1]}/0"
        (finding,) = await check_redis(Settings(redis_url=url, redis_timeout=0.1))
    assert (finding.name, finding.ok) == ("redis", False)
    assert "does not answer within 0.1 s" in finding.text


async def test_an_address_that_means_nothing_is_the_only_finding() -> None:
    (finding,) = await check_redis(Settings(redis_url="redis://user:hidden@h/x"))
    assert "a number of a database" in finding.text
    assert "hidden" not in finding.text


async def test_a_url_that_is_none_is_a_finding() -> None:
    finding = await check_gateway("http://127.0.0.1:99999")
    assert not finding.ok
    assert "expected one such as http://127.0.0.1:8080, got 'http://127.0.0.1:99999'" in finding.text


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
    assert report([Finding("c", True, "works", "could be better")], out), "a warning is no failure"
    assert out.getvalue() == (
        "ok    a: fine\nFAIL  b: bad[2J\n      -> do this\nwarn  c: works\n      -> could be better\n"
    )


def test_the_report_for_machines_is_one_object_a_line() -> None:
    out = io.StringIO()
    assert not report([Finding("a", True, "fine"), Finding("b", False, "bad", "do this")], out, as_json=True)
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {"name": "a", "level": "ok", "text": "fine", "advice": ""},
        {"name": "b", "level": "fail", "text": "bad", "advice": "do this"},
    ]


def test_a_fleet_of_this_folder_is_found_when_no_redis_was_named(tmp_path: Path) -> None:
    (tmp_path / "fleet.json").write_text('{"store": {"url": "redis://127.0.0.1:7/0"}}')
    assert with_local_store(Settings(data_dir=tmp_path)).redis_url == "redis://127.0.0.1:7/0"
    (tmp_path / "fleet.json").write_text('{"store": {"url": "redis://u:***@h:7", "kind": "external"}}')
    assert with_local_store(Settings(data_dir=tmp_path)).redis_url == Settings().redis_url
    named = Settings(data_dir=tmp_path, redis_url="redis://127.0.0.1:8/0")
    assert with_local_store(named).redis_url == "redis://127.0.0.1:8/0"


@pytest.mark.parametrize("text", [None, "", "[]", '{"store": null}'])
def test_without_a_fleet_here_the_setting_counts(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "fleet.json").write_text(text)
    assert with_local_store(Settings(data_dir=tmp_path)).redis_url == Settings().redis_url
