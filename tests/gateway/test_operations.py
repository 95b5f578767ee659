"""What operators see of a fleet, and who is one."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import jwt
import pytest

from backplane.connection import Backplane
from backplane.settings import Settings
from gateway.auth import mint
from gateway.metrics import Metrics
from gateway.operations import Operations
from tests.gateway.conftest import Clients, RunningGateway, serving, working
from tests.support.waiting import wait_until
from worker.turn import Turn

Make = Callable[..., Settings]
SECRET = "a secret of at least 32 bytes, for tests"


async def patient(turn: Turn) -> AsyncIterator[str]:
    yield "one moment"
    await asyncio.Event().wait()


async def get(url: str, token: str | None = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.get(f"{url}/v1/operations", headers=headers)


@asynccontextmanager
async def looked_at(node: RunningGateway) -> AsyncIterator[None]:
    """Look at the fleet first: who is looked at reports each second."""
    await get(node.url)
    yield


async def post(url: str, path: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.post(url + path)


async def test_the_fleet_and_its_turns_are_seen_from_any_node(gateway_settings: Make, clients: Clients) -> None:
    one, two, three = (gateway_settings(node_id=name) for name in ("n1", "n2", "w1"))
    async with serving(one) as node, serving(two) as other, looked_at(other), working(three, patient):
        client = await clients.connect(node.url)
        started = await client.call("chat:start", thread_id="t", message="hello")
        await wait_until(lambda: client.text != "", "the turn runs")
        seen: dict[str, Any] = {}

        async def whole() -> bool:
            seen.update((await get(other.url)).json())
            workers = [member for member in seen["members"] if member["kind"] == "worker"]
            return [turn["request_id"] for member in workers for turn in member["turns"]] == [started["request_id"]]

        await wait_until(whole, "the worker reports its turn")
        assert {member["node_id"] for member in seen["members"]} == {"n1", "n2", "w1"}
        assert (seen["node_id"], seen["waiting"], seen["under_way"]) == ("n2", 0, 1)
        assert [mark["request_id"] for mark in seen["due"]] == [started["request_id"]]
        await client.call("chat:cancel", thread_id="t")

        async def cancelled() -> bool:
            seen.update((await get(other.url)).json())
            (worker,) = [member for member in seen["members"] if member["kind"] == "worker"]
            return [turn.get("outcome") for turn in worker["turns"]] == ["cancelled"]

        await wait_until(cancelled, "the worker reports its end")


async def test_a_node_says_how_late_it_is(gateway_settings: Make, clients: Clients) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield "hello"

    async with serving(gateway_settings()) as node, working(gateway_settings(), agent):
        client = await clients.connect(node.url)
        await client.call("chat:start", thread_id="t", message="hello")
        await wait_until(lambda: client.named("chat_done") != [], "the end")
        text = node.gateway.metrics.text().decode()
        (count,) = [line for line in text.splitlines() if line.startswith("threadline_append_to_socket_seconds_count")]
        assert float(count.split()[1]) >= 1


@pytest.mark.parametrize(("host", "url"), [("::1", "http://[::1]:8080"), ("127.0.0.1", "http://127.0.0.1:8080")])
async def test_a_node_names_itself_by_a_url_that_a_browser_can_read(backplane: Backplane, host: str, url: str) -> None:
    async def cut(sid: str) -> bool:
        return False

    settings = backplane.settings.model_copy(update={"host": host, "port": 8080})
    assert Operations(settings, backplane, Metrics(), cut).facts()["url"] == url


async def test_with_a_key_only_operators_see_the_fleet(gateway_settings: Make) -> None:
    def token(subject: str) -> str:
        return jwt.encode({"sub": subject, "exp": int(time.time()) + 600}, SECRET, "HS256")

    async with serving(gateway_settings(jwt_secret=SECRET, operators=("olga",))) as node:
        assert (await get(node.url)).status_code == 401
        refused = await get(node.url, token("ann"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
        assert (await get(node.url, token("olga"))).json()["ok"] is True


async def test_another_tenants_user_of_an_operators_name_is_none(gateway_settings: Make) -> None:
    named = ("olga", "acme/otto", "default/a/b")
    async with serving(gateway_settings(jwt_secret=SECRET, operators=named)) as node:
        for subject, tenant, status in (
            ("olga", "default", 200), ("olga", "acme", 404), ("otto", "acme", 200), ("otto", "default", 404),
            ("acme/otto", "default", 404), ("a/b", "default", 200), ("b", "a", 404),
        ):  # fmt: skip
            assert (await get(node.url, mint(SECRET, subject, 60, tenant))).status_code == status, (subject, tenant)


async def test_plugs_are_there_only_where_they_are_switched_on(gateway_settings: Make) -> None:
    async with serving(gateway_settings(node_id="n1")) as node:
        assert (await post(node.url, "/v1/plugs/node/n1")).status_code == 404


async def test_a_socket_may_be_dropped_and_comes_back(gateway_settings: Make, clients: Clients) -> None:
    async with serving(gateway_settings(plugs=True)) as node:
        client = await clients.connect(node.url)
        assert (await post(node.url, f"/v1/plugs/socket/{client.io.get_sid()}")).json()["ok"] is True
        await wait_until(lambda: not client.io.connected, "the socket is dropped")
        assert (await post(node.url, "/v1/plugs/socket/none")).status_code == 404


async def test_the_worker_of_a_turn_is_killed_by_its_process_id(
    gateway_settings: Make, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[tuple[int, int]] = []
    own = gateway_settings(node_id="n1", plugs=True)
    async with serving(own) as node, looked_at(node), working(gateway_settings(node_id="w1"), patient):
        client = await clients.connect(node.url)
        await client.call("chat:start", thread_id="t", message="hello")
        monkeypatch.setattr("gateway.operations.os.kill", lambda pid, number: killed.append((pid, number)))

        async def pulled() -> bool:
            return (await post(node.url, "/v1/plugs/turn/t")).status_code == 200

        await wait_until(pulled, "the worker reports its turn")
        assert (await post(node.url, "/v1/plugs/node/n1")).json()["pid"] == os.getpid()
        assert (await post(node.url, "/v1/plugs/worker/none")).status_code == 404
        await wait_until(lambda: len(killed) == 2, "both are killed")
        assert killed == [(os.getpid(), signal.SIGKILL)] * 2
        monkeypatch.undo()
        await client.call("chat:cancel", thread_id="t")
