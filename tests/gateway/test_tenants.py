"""Tenants are apart: two users of one name, in threads of one id, in keys, on channels and in metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from backplane.settings import Settings
from gateway.auth import mint
from tests.gateway.conftest import Client, Clients, RunningGateway, serving, working
from tests.support.waiting import wait_until
from worker.turn import Turn

Make = Callable[..., Settings]
SECRET = "a secret of at least 32 bytes, for tests"
TENANTS = ("acme", "globex")


async def endless(turn: Turn) -> AsyncIterator[str]:
    yield f"for {turn.message}"
    await asyncio.Event().wait()


async def talking(clients: Clients, node: RunningGateway, tenant: str) -> Client:
    """Connect `ann` of a tenant, and let her start a turn in the thread `shared`, which does not end."""
    client = await clients.connect(node.url, mint(SECRET, "ann", 60, tenant))
    await client.call("chat:start", thread_id="shared", message=f"words of {tenant}")
    await wait_until(lambda: client.text != "", "her turn runs")
    return client


async def kept(node: RunningGateway, tenant: str) -> set[str]:
    """Return the keys that bear a tenant's name."""
    redis, prefix = node.backplane.redis, node.backplane.keys.prefix
    found = [key.decode() async for key in redis.scan_iter(match=f"{prefix}:*", count=1000)]
    return {key for key in found if tenant in key}


@pytest.fixture
def made(gateway_settings: Make) -> Settings:
    """Return settings under which everything that is kept of a tenant is kept."""
    limits = {"max_turns_per_tenant": 9, "tenant_calls_per_second": 1, "user_calls_per_second": 1}
    return gateway_settings(jwt_secret=SECRET, **limits)


async def test_what_one_does_the_other_neither_sees_nor_feels(gateway_settings: Make, clients: Clients) -> None:
    made = gateway_settings(jwt_secret=SECRET)
    async with serving(made) as node, working(made, endless):
        acme, globex = [await talking(clients, node, tenant) for tenant in TENANTS]
        for client, tenant in ((acme, "acme"), (globex, "globex")):
            history = await client.call("thread:history", thread_id="shared")
            assert [message["content"] for message in history["messages"]][:1] == [f"words of {tenant}"]
            listed = (await client.call("thread:list"))["threads"]
            assert [thread["title"] for thread in listed] == [f"words of {tenant}"]

            async def alone(client: Client = client) -> bool:
                watched = await client.call("thread:presence", thread_id="shared")
                return bool(watched["watchers"] == [{"subject": "ann", "connections": 1}])

            await wait_until(alone, "one watcher, and not that of the other tenant")
        running = (await globex.call("queue:status", thread_id="shared"))["running"]
        stranger = await acme.call("chat:cancel", thread_id="shared", request_id=running)
        assert (stranger["cancelled"], stranger["state"]) == (False, "unknown")
        assert (await acme.call("thread:delete", thread_id="shared"))["deleted"] is True
        await wait_until(lambda: acme.named("thread_deleted") != [], "she is told")
        assert (await globex.call("queue:status", thread_id="shared"))["running"] == running
        assert globex.named("thread_deleted", "chat_error") == []
        assert {event["thread_id"] for event in globex.log()} == {"shared"}
        assert not any("acme" in str(event) for event in globex.events)


async def test_keys_are_apart_and_a_delete_leaves_the_others(made: Settings, clients: Clients) -> None:
    async with serving(made) as node, working(made, endless):
        acme, _ = [await talking(clients, node, tenant) for tenant in TENANTS]
        await node.gateway.settler.settle()
        hers, others = await kept(node, "acme"), await kept(node, "globex")
        assert not hers & others
        for part in (":calls:user:", ":calls:tenant:", ":threads:", ":thread:", ":log:", ":session:", ":user:"):
            assert any(part in key for key in hers), part
            assert any(part in key for key in others), part
        await acme.call("thread:delete", thread_id="shared")
        assert not any("/shared" in key for key in await kept(node, "acme"))
        assert {key for key in others if "/shared" in key} <= await kept(node, "globex")


async def test_channels_are_apart(gateway_settings: Make, clients: Clients) -> None:
    """What is published on one tenant's channel reaches nobody of the other, though both threads have one id."""
    made = gateway_settings(jwt_secret=SECRET)
    async with serving(made) as node, working(made, endless):
        acme, globex = [await talking(clients, node, tenant) for tenant in TENANTS]
        before = len(globex.events)
        await acme.call("thread:rename", thread_id="shared", title="only hers")
        await wait_until(lambda: acme.named("thread_renamed") != [], "she is told")
        await globex.call("thread:rename", thread_id="shared", title="only his")
        await wait_until(lambda: globex.named("thread_renamed") != [], "the other is told of the own one")
        told = [data["title"] for name, data in globex.events[before:] if name == "thread_renamed"]
        assert told == ["only his"]


async def test_no_metric_names_a_tenant_a_user_or_a_thread(made: Settings, clients: Clients) -> None:
    """Of a gateway and of a worker, after calls by every wire, refused ones too."""
    async with serving(made) as node, working(made, endless) as worker:
        acme, _ = [await talking(clients, node, tenant) for tenant in TENANTS]
        headers = {"Authorization": f"Bearer {mint(SECRET, 'ann', 60, 'acme')}"}
        async with httpx.AsyncClient(base_url=node.url, headers=headers, trust_env=False) as http:
            codes = []
            for _ in range(9):
                await acme.call("thread:history", thread_id="shared")
                codes.append((await http.get("/v1/threads/shared")).status_code)
            assert 429 in codes
            await http.post("/v1/threads/acme-secret/no-such-route")
            text = (await http.get("/metrics")).text + worker.metrics.text().decode()
    assert 'threadline_rate_limited_total{whose="user"}' in text
    labels = [line for line in text.splitlines() if not line.startswith("#")]
    for name in ("acme", "globex", '"ann"', "shared", "secret", "words of"):
        assert not any(name in line for line in labels), name
