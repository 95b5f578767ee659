"""Row 11 of the threats: by HTTP too, another's thread is answered as one that does not exist."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from backplane.approvals import Question
from backplane.ids import thread_ref
from backplane.settings import Settings
from backplane.turns import Start
from gateway.auth import mint
from tests.gateway.conftest import Client, Clients, RunningGateway, serving, working
from tests.support.monitor import Monitor, watching
from tests.support.waiting import wait_until
from worker.turn import Turn

Make = Callable[..., Settings]
SECRET = "a secret of at least 32 bytes, for tests"


async def endless(turn: Turn) -> AsyncIterator[str]:
    yield "private"
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/threads/{}", None),
        ("GET", "/v1/threads/{}/messages", None),
        ("GET", "/v1/threads/{}/presence", None),
        ("GET", "/v1/threads/{}/events", None),
        ("GET", "/v1/threads/{}/queue", None),
        ("DELETE", "/v1/threads/{}/queue", None),
        ("DELETE", "/v1/threads/{}/queue/x", None),
        ("POST", "/v1/threads/{}/cancel", {}),
        ("POST", "/v1/threads/{}/approvals/x.1", {"decision": "approve"}),
        ("GET", "/v1/agui/{}/stream", None),
        ("GET", "/v1/ai/chat/{}/stream", None),
    ],
)
async def test_row_11_by_http_anothers_thread_is_answered_like_none_on_both_nodes(
    gateway_settings: Make, clients: Clients, method: str, path: str, body: Any
) -> None:
    one, two = gateway_settings(jwt_secret=SECRET), gateway_settings(jwt_secret=SECRET)
    async with serving(one) as first, serving(two) as second, working(one, endless):
        ann = await clients.connect(first.url, mint(SECRET, "ann", 60))
        await ann.call("chat:start", thread_id="hers", message="private")
        await wait_until(lambda: ann.text != "", "her turn runs")
        for node in (first, second):
            for bearer in (mint(SECRET, "bob", 60), mint(SECRET, "ann", 60, tenant="elsewhere")):
                headers = {"Authorization": f"Bearer {bearer}"}
                async with httpx.AsyncClient(base_url=node.url, headers=headers, trust_env=False) as http:
                    theirs = await http.request(method, path.format("hers"), json=body)
                    none = await http.request(method, path.format("nowhere"), json=body)
                assert theirs.status_code in (204, 404)
                assert (theirs.status_code, theirs.content) == (none.status_code, none.content)


# --- what it costs -------------------------------------------------------------------------------------

CALLS = [
    ("thread:subscribe", {}), ("thread:subscribe", {"epoch": "e", "after": 3}), ("thread:history", {}),
    ("thread:history", {"branch": "b"}), ("thread:presence", {}), ("thread:rename", {"title": "mine"}),
    ("thread:delete", {}), ("thread:edit", {"message": "x"}), ("chat:cancel", {}), ("chat:cancel", {"request_id": "x"}),
    ("queue:status", {}), ("queue:clear", {}), ("queue:remove", {"item_id": "x"}),
    ("approval:decide", {"approval_id": "x.a", "decision": "approve"}),
]  # fmt: skip
SAID = [{"role": "user", "parts": [{"type": "text", "text": "x"}]}]
REQUESTS: list[tuple[str, str, Any]] = [
    ("GET", "/v1/threads/THREAD", None), ("GET", "/v1/threads/THREAD/messages", None),
    ("GET", "/v1/threads/THREAD/presence", None), ("GET", "/v1/threads/THREAD/events", None),
    ("GET", "/v1/threads/THREAD/events?after=e:3", None), ("GET", "/v1/threads/THREAD/queue", None),
    ("DELETE", "/v1/threads/THREAD/queue", None), ("DELETE", "/v1/threads/THREAD/queue/x", None),
    ("POST", "/v1/threads/THREAD/cancel", {}), ("POST", "/v1/threads/THREAD/edit", {"message": "x"}),
    ("POST", "/v1/threads/THREAD/approvals/x.a", {"decision": "approve"}),
    ("PATCH", "/v1/threads/THREAD", {"title": "mine"}), ("DELETE", "/v1/threads/THREAD", None),
    ("GET", "/v1/agui/THREAD/stream", None), ("GET", "/v1/ai/chat/THREAD/stream", None),
    ("POST", "/v1/ai/chat", {"id": "THREAD", "trigger": "regenerate-message", "messages": SAID}),
    ("POST", "/v1/ai/chat", {"id": "THREAD", "trigger": "regenerate-message", "messageId": "x", "messages": SAID}),
]  # fmt: skip


async def asked(node: RunningGateway, thread_id: str) -> None:
    """Have ann's thread run a turn that asks her something, and a message wait behind it."""
    turns, ref = node.backplane.turns, thread_ref(thread_id)
    start = Start("private", "ann", "sid")
    await node.backplane.admission.admit(ref, "ann", start.request_id)
    started = await turns.start(ref, start)
    claim = await turns.claim(node.backplane.keys.thread(ref).member(started.request_id), "worker")
    assert claim is not None
    await node.backplane.approvals.ask(claim, Question("a", {"kind": "question"}))
    await turns.start(ref, Start("more", "ann", "sid", queue_mode="followup"))


Ask = Callable[[str], Awaitable[object]]
"""Sends one call about the thread of this id."""


async def difference(monitor: Monitor, ask: Ask) -> tuple[list[str], list[str]] | None:
    """Return what the store is asked about her thread alone, and what about one that does not exist alone."""
    none = Counter(await monitor.during(lambda: ask("nowhere")))
    hers = Counter(await monitor.during(lambda: ask("hers")))
    assert none, "the store was asked nothing"
    return None if hers == none else (sorted((hers - none).elements()), sorted((none - hers).elements()))


@pytest.fixture
async def watched(gateway_settings: Make, clients: Clients, valkey: str) -> AsyncIterator[Watched]:
    """Return two nodes that ask the store nothing by themselves; at the first one, its owner watches the thread."""
    made = {"jwt_secret": SECRET, "user_calls_per_second": 0, "max_turns_per_tenant": 100}
    one, two = gateway_settings(**made), gateway_settings(**made)
    async with serving(one, roles=False) as first, serving(two, roles=False) as second, watching(valkey) as monitor:
        await asked(first, "hers")
        ann = await clients.connect(first.url, mint(SECRET, "ann", 60))
        assert (await ann.call("thread:subscribe", thread_id="hers"))["ok"] is True
        redis, listed = first.backplane.redis, first.backplane.keys.threads("default", "ann")

        async def noted() -> bool:
            return bool(await redis.exists(listed))

        await wait_until(noted, "her thread is listed, which the answer does not wait for")
        state = await stored(first)
        yield [first, second], monitor
        assert await stored(first) == state, "nothing of hers has changed"


Watched = tuple[list[RunningGateway], Monitor]


async def stored(node: RunningGateway) -> dict[str, Any]:
    """Return everything that is kept but for what is bob's own."""
    redis, keys = node.backplane.redis, node.backplane.keys
    tenant, ann = keys.tenant("default"), keys.user("default", "ann")
    others = (keys.user("default", "bob"), keys.threads("default", "bob"), tenant)
    found = [key.decode() async for key in redis.scan_iter(match=f"{keys.prefix}:*", count=1000)]
    kept: dict[str, Any] = {key: await redis.dump(key) for key in found if key not in others}
    of_hers: Any = await redis.zrange(ann, 0, -1)
    kept[tenant] = {turn: await redis.zscore(tenant, turn) for turn in of_hers}
    assert of_hers
    return kept


async def test_row_11_anothers_thread_costs_the_same_commands_as_none_by_every_call(
    watched: Watched, clients: Clients
) -> None:
    """At a node where its owner watches it and at one where nobody does: how long it takes tells nothing either."""
    nodes, monitor = watched
    found = {}
    for number, node in enumerate(nodes):
        bob = await clients.connect(node.url, mint(SECRET, "bob", 60))
        for verb, more in CALLS:

            async def ask(thread_id: str, bob: Client = bob, verb: str = verb, more: Any = more) -> None:
                await bob.call(verb, thread_id=thread_id, **more)

            found[number, verb, str(more)] = await difference(monitor, ask)
    assert {what: differs for what, differs in found.items() if differs} == {}


async def test_row_11_anothers_thread_costs_the_same_commands_as_none_by_every_request(watched: Watched) -> None:
    nodes, monitor = watched
    found = {}
    headers = {"Authorization": f"Bearer {mint(SECRET, 'bob', 60)}"}
    for number, node in enumerate(nodes):
        async with httpx.AsyncClient(base_url=node.url, headers=headers, trust_env=False) as http:
            for method, path, body in REQUESTS:

                async def ask(
                    thread_id: str, http: Any = http, method: str = method, path: str = path, body: Any = body
                ) -> None:
                    content = None if body is None else json.dumps(body).replace("THREAD", thread_id)
                    await http.request(method, path.replace("THREAD", thread_id), content=content)

                found[number, method, path, str(body)] = await difference(monitor, ask)
    assert {what: differs for what, differs in found.items() if differs} == {}
