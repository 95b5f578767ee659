"""Threads as people manage them, by every wire and through two nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from backplane.settings import Settings
from gateway.auth import mint
from tests.gateway.agents import echo, endless
from tests.gateway.conftest import Client, Clients, serving, working
from tests.support.waiting import wait_until
from worker.turn import Turn

SECRET = "a secret of at least thirty-two bytes, for tests"
Make = Callable[..., Settings]


async def talked(client: Client, thread_id: str, message: str, **fields: Any) -> dict[str, Any]:
    """Start a turn and wait for its end."""
    before = len(client.named("chat_done"))
    ack: dict[str, Any] = await client.call("chat:start", thread_id=thread_id, message=message, **fields)
    await wait_until(lambda: len(client.named("chat_done")) > before, "done")
    return ack


async def test_what_is_started_at_one_node_is_listed_at_the_other(gateway_settings: Make, clients: Clients) -> None:
    one, two = gateway_settings(), gateway_settings()
    async with serving(one) as first, serving(two) as second, working(one, echo):
        client, other = await clients.connect(first.url), await clients.connect(second.url)
        for number in range(5):
            await talked(client, f"t{number}", f"about {number}")
        page = await other.call("thread:list", limit=2)
        assert [(t["thread_id"], t["title"], t["preview"]) for t in page["threads"]] == [
            ("t4", "about 4", "You said: about 4"),
            ("t3", "about 3", "You said: about 3"),
        ]
        await talked(client, "t0", "again")
        rest = await other.call("thread:list", before=page["next"])
        assert [t["thread_id"] for t in rest["threads"]] == ["t2", "t1"]
        assert rest["next"] is None
        async with httpx.AsyncClient(base_url=second.url) as http:
            told = (await http.get("/v1/threads?limit=1")).json()
            assert [t["thread_id"] for t in told["threads"]] == ["t0"]
            more = (await http.get(f"/v1/threads?limit=1&before={told['next']}")).json()
            assert [t["thread_id"] for t in more["threads"]] == ["t4"]
            assert (await http.get("/v1/threads?before=x")).status_code == 400
            assert (await http.get("/v1/threads?limit=x")).status_code == 400


async def test_a_list_shows_what_runs(gateway_settings: Make, clients: Clients) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, endless):
        client = await clients.connect(node.url)
        started = await client.call("chat:start", thread_id="t", message="go")
        await wait_until(lambda: client.text != "", "it runs")
        (shown,) = (await client.call("thread:list"))["threads"]
        assert (shown["running"], shown["state"]) == (started["request_id"], "running")


async def test_a_thread_that_a_list_lacks_is_listed_when_somebody_subscribes(
    gateway_settings: Make, clients: Clients
) -> None:
    settings = gateway_settings()
    other = gateway_settings()
    async with serving(settings) as node, serving(other) as second, working(settings, echo):
        await talked(await clients.connect(node.url), "t", "hi")
        await node.backplane.redis.delete(node.backplane.keys.threads("default", "anonymous"))
        client = await clients.connect(second.url)
        assert (await client.call("thread:list"))["threads"] == []
        await client.call("thread:subscribe", thread_id="t")

        async def listed() -> bool:
            return [t["thread_id"] for t in (await client.call("thread:list"))["threads"]] == ["t"]

        await wait_until(listed, "it is listed again")


async def test_a_new_title_is_told_to_those_who_watch_on_every_node(gateway_settings: Make, clients: Clients) -> None:
    one, two = gateway_settings(), gateway_settings()
    async with serving(one) as first, serving(two) as second, working(one, echo):
        client, other = await clients.connect(first.url), await clients.connect(second.url)
        started = await talked(client, "t", "hi")
        await other.call("thread:subscribe", thread_id="t")
        ack = await client.call("thread:rename", thread_id="t", title="  Tea ")
        assert ack == {"ok": True, "thread_id": "t", "title": "Tea"}
        for watcher in (client, other):
            await wait_until(lambda w=watcher: w.named("thread_renamed") != [], "told")
            told = watcher.named("thread_renamed")[0]
            assert (told["title"], told["epoch"], "offset" in told) == ("Tea", started["epoch"], False)
        assert (await other.call("thread:list"))["threads"][0]["title"] == "Tea"
        await talked(client, "t", "more")
        assert [event["offset"] for event in client.log()] == list(range(1, len(client.log()) + 1)), "the log goes on"


async def test_a_deleted_thread_is_gone_at_every_node_and_for_everybody_who_watched(
    gateway_settings: Make, clients: Clients
) -> None:
    """Who runs it is stopped, who watches it is told and stays connected, and its id begins anew."""
    one, two = gateway_settings(), gateway_settings()
    async with serving(one) as first, serving(two) as second, working(one, endless):
        client, other = await clients.connect(first.url), await clients.connect(second.url)
        started = await client.call("chat:start", thread_id="t", message="hi")
        await wait_until(lambda: client.text != "", "it talks")
        await other.call("thread:subscribe", thread_id="t")
        ack = await other.call("thread:delete", thread_id="t")
        assert ack == {"ok": True, "thread_id": "t", "deleted": True}
        for watcher in (client, other):
            await wait_until(lambda w=watcher: w.named("thread_deleted") != [], "told")
            names = [name for name, _ in watcher.events if ":" not in name]
            assert names[-2:] == ["chat_error", "thread_deleted"]
            assert watcher.io.connected
        for node in (first, second):
            await wait_until(lambda n=node: len(n.gateway.rooms) == 0, "nobody watches")
        for verb in ("thread:subscribe", "thread:history", "chat:cancel", "queue:status"):
            assert (await client.call(verb, thread_id="t"))["error"]["code"] == "not_found"
        assert (await client.call("thread:list"))["threads"] == []
        assert (await client.call("thread:delete", thread_id="t"))["deleted"] is False
        again = await client.call("chat:start", thread_id="t", message="anew")
        assert (again["offset"], again["epoch"] == started["epoch"]) == (1, False)
        await wait_until(lambda: len(client.named("inference_start")) == 2, "and it runs")


async def test_an_edit_at_one_node_takes_the_place_of_the_turn_that_runs_at_the_other(
    gateway_settings: Make, clients: Clients
) -> None:
    """Its maker, who did not watch, hears of it from `thread_edited` on; the old branch stays readable."""
    one, two = gateway_settings(), gateway_settings()
    async with serving(one) as first, serving(two) as second, working(one, endless):
        client, other = await clients.connect(first.url), await clients.connect(second.url)
        started = await client.call("chat:start", thread_id="t", message="hi")
        await wait_until(lambda: client.text != "", "it talks")
        asked = {"thread_id": "t", "message": "hello", "message_id": 1, "newest_id": 1, "client_message_id": "k"}
        ack = await other.call("thread:edit", **asked)
        assert (ack["ok"], ack["state"], ack["message_id"]) == (True, "accepted", 1)
        assert ack["branch"] == ack["request_id"]
        assert await other.call("thread:edit", **asked) == ack, "sent again, answered again"
        await wait_until(lambda: other.text != "", "it talks to the other")
        assert [event["event"] for event in other.log()][:3] == ["thread_edited", "chat_accepted", "inference_start"]
        await wait_until(lambda: client.named("thread_edited") != [], "told")
        assert client.named("chat_error")[0]["error_type"] == "superseded"
        assert client.named("thread_edited")[0]["edited_request_id"] == started["request_id"]
        history = await client.call("thread:history", thread_id="t")
        assert [m["content"] for m in history["messages"]] == ["hello"]
        assert [b["branch"] for b in history["branches"]] == [ack["branch"]]
        old = await client.call("thread:history", thread_id="t", branch=ack["branch"])
        assert [m["content"] for m in old["messages"]] == ["hi", "on and on"]
        stale = await client.call("thread:edit", thread_id="t", message="late", message_id=1)
        assert (stale["error"]["code"], stale["error"]["retryable"]) == ("edit_conflict", False)
        unknown = await client.call("thread:history", thread_id="t", branch="nowhere")
        assert unknown["error"]["code"] == "not_found"


async def test_by_http_an_answer_is_asked_for_once_more(gateway_settings: Make) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, echo), httpx.AsyncClient(base_url=node.url) as http:

        async def idle() -> bool:
            return (await http.get("/v1/threads/t")).json()["turn"] is None

        assert (await http.post("/v1/threads/t/edit")).status_code == 404
        await http.post("/v1/threads/t/turns", json={"message": "hi"})
        await wait_until(idle, "answered")
        again = await http.post("/v1/threads/t/edit", json={})
        assert (again.status_code, again.json()["message_id"]) == (202, 1)
        await wait_until(idle, "answered again")
        messages = (await http.get("/v1/threads/t/messages")).json()["messages"]
        assert [(m["id"], m["content"]) for m in messages] == [(3, "hi"), (4, "You said: hi")]
        old = (await http.get(f"/v1/threads/t/messages?branch={again.json()['branch']}")).json()["messages"]
        assert [(m["id"], m["content"]) for m in old] == [(1, "hi"), (2, "You said: hi")]
        conflict = await http.post("/v1/threads/t/edit", json={"message_id": 1})
        assert (conflict.status_code, conflict.json()["error"]["code"]) == (409, "edit_conflict")


async def test_by_http_a_thread_is_renamed_and_deleted_and_a_stream_of_it_ends(gateway_settings: Make) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, endless), httpx.AsyncClient(base_url=node.url) as http:
        await http.post("/v1/threads/t/turns", json={"message": "x"})

        async def talks() -> bool:
            return ((await http.get("/v1/threads/t")).json()["turn"] or {}).get("text") == "on and on"

        await wait_until(talks, "it has said all that it will")
        lines: list[str] = []

        async def read() -> None:
            async with http.stream("GET", "/v1/threads/t/events", timeout=20) as response:
                async for line in response.aiter_lines():
                    lines.append(line)  # noqa: PERF401  # they are looked at while they come

        reading = asyncio.create_task(read())
        await wait_until(lambda: "event: snapshot" in lines, "the stream is open")
        renamed = await http.patch("/v1/threads/t", json={"title": "Tea"})
        assert (renamed.status_code, renamed.json()["title"]) == (200, "Tea")
        assert (await http.patch("/v1/threads/t", json={"title": ""})).status_code == 400
        assert (await http.delete("/v1/threads/t")).json() == {"ok": True, "thread_id": "t", "deleted": True}
        await reading
        events = [line for line in lines if line.startswith("event:")]
        assert events[-3:] == ["event: thread_renamed", "event: chat_error", "event: thread_deleted"]
        assert lines[lines.index("event: thread_renamed") - 1] == "", "a notice has no id: the cursor stays"
        assert (await http.delete("/v1/threads/t")).json()["deleted"] is False
        assert (await http.patch("/v1/threads/t", json={"title": "Tea"})).status_code == 404


async def test_a_deleted_conversation_is_not_remembered_by_the_worker_that_had_it(
    gateway_settings: Make, clients: Clients
) -> None:
    """It keeps copies of sessions; one of a deleted thread must not become the history of the next with that id."""
    heard: list[list[str]] = []

    async def listening(turn: Turn) -> AsyncIterator[str]:
        heard.append([message.content for message in turn.history])
        yield "yes"

    settings = gateway_settings()
    async with serving(settings) as node, working(settings, listening):
        client = await clients.connect(node.url)
        await talked(client, "t", "secret 1")
        await talked(client, "t", "secret 2")
        await client.call("thread:delete", thread_id="t")
        await talked(client, "t", "fresh 1")
        await talked(client, "t", "fresh 2")
    assert heard == [[], ["secret 1", "yes"], [], ["fresh 1", "yes"]]


@pytest.mark.parametrize(
    ("verb", "fields", "method", "path"),
    [
        ("thread:rename", {"title": "mine"}, "PATCH", ""),
        ("thread:delete", {}, "DELETE", ""),
        ("thread:edit", {"message": "mine", "metadata": {"a": 1}}, "POST", "/edit"),
    ],
)
async def test_anothers_thread_looks_like_one_that_does_not_exist(
    gateway_settings: Make, clients: Clients, verb: str, fields: dict[str, Any], method: str, path: str
) -> None:
    """On both nodes and both wires, and nothing of it is changed or told."""
    one, two = gateway_settings(jwt_secret=SECRET), gateway_settings(jwt_secret=SECRET)
    async with serving(one) as first, serving(two) as second, working(one, echo):
        ann = await clients.connect(first.url, mint(SECRET, "ann", 60))
        await talked(ann, "hers", "private")
        for node in (first, second):
            bob = await clients.connect(node.url, mint(SECRET, "bob", 60))
            theirs = await bob.call(verb, thread_id="hers", **fields)
            none = await bob.call(verb, thread_id="nowhere", **fields)
            assert {**theirs, "thread_id": ""} == {**none, "thread_id": ""}
            assert (await bob.call("thread:list"))["threads"] == []
            token = {"Authorization": f"Bearer {mint(SECRET, 'bob', 60)}"}
            async with httpx.AsyncClient(base_url=node.url, headers=token) as http:
                answers = [
                    await http.request(method, f"/v1/threads/{name}{path}", json=fields) for name in ("hers", "nowhere")
                ]
                assert answers[0].status_code == answers[1].status_code
                assert {**answers[0].json(), "thread_id": ""} == {**answers[1].json(), "thread_id": ""}
                bare = await http.request(method, f"/v1/threads/hers{path}", headers={"Authorization": ""})
                assert bare.status_code == 401
        (hers,) = (await ann.call("thread:list"))["threads"]
        assert (hers["title"], hers["preview"]) == ("private", "You said: private")
        assert {name for name, _ in ann.events if name.startswith("thread")} == set()
