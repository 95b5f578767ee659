"""Presence: who watches, over two nodes, and also when a node dies or a message is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from backplane.connection import Backplane
from backplane.ids import ThreadRef, thread_ref
from backplane.settings import Settings
from gateway.auth import mint
from tests.gateway.agents import endless
from tests.gateway.conftest import Client, Clients, serving, working
from tests.support.waiting import wait_until

SECRET = "a secret of at least thirty-two bytes, for tests"
QUICK = {"presence_interval": 0.2}
REF = thread_ref("t")
Make = Callable[..., Settings]


async def watched(client: Client, connections: int) -> None:
    """Wait until so many connections are said to watch."""

    async def told() -> bool:
        answer = await client.call("thread:presence", thread_id="t")
        return bool(sum(watcher["connections"] for watcher in answer["watchers"]) == connections)

    await wait_until(told, f"{connections} watch")


async def test_everybody_who_watches_is_seen_from_every_node_and_those_who_watch_are_told(
    gateway_settings: Make, clients: Clients
) -> None:
    # a connection that is made anew costs what is said meanwhile, and a canary that comes late has one made
    one, two = gateway_settings(canary_interval=10.0), gateway_settings(canary_interval=10.0)
    async with serving(one) as first, serving(two) as second, working(one, endless) as _:
        client, other = await clients.connect(first.url), await clients.connect(second.url)
        started = await client.call("chat:start", thread_id="t", message="hi")
        await wait_until(lambda: client.text != "", "it talks")
        await watched(other, 1)
        assert client.named("thread_presence") == [], "who comes first knows it"
        await other.call("thread:subscribe", thread_id="t")
        await watched(client, 2)
        for watcher in (client, other):
            await wait_until(lambda w=watcher: w.named("thread_presence") != [], "told")
            told = watcher.named("thread_presence")[-1]
            assert told["watchers"] == [{"subject": "anonymous", "connections": 2}]
            assert (told["epoch"], "offset" in told) == (started["epoch"], False)
        async with httpx.AsyncClient(base_url=second.url) as http:
            answer = (await http.get("/v1/threads/t/presence")).json()
        assert (answer["running"], answer["state"]) == (started["request_id"], "running")
        assert answer["worker"] == client.named("inference_start")[0]["worker"]
        assert answer["watchers"] == [{"subject": "anonymous", "connections": 2}]
        await other.call("thread:unsubscribe", thread_id="t")
        await watched(client, 1)
        await wait_until(
            lambda: client.named("thread_presence")[-1]["watchers"] == [{"subject": "anonymous", "connections": 1}],
            "who stays is told that the other left",
        )
        await client.call("chat:cancel", thread_id="t")
        await wait_until(lambda: client.named("chat_error") != [], "ended")
        idle = await client.call("thread:presence", thread_id="t")
        assert (idle["running"], idle["state"], idle["worker"]) == (None, "idle", None)


def told(client: Client) -> list[int]:
    """Return how many connections a client was told that watch, each time."""
    return [event["watchers"][0]["connections"] for event in client.named("thread_presence")]


async def test_the_watchers_of_a_node_that_died_are_gone_in_time(gateway_settings: Make, clients: Clients) -> None:
    settings = gateway_settings(presence_interval=1.0)
    async with serving(settings) as node, Backplane.open(gateway_settings(**QUICK)) as dead:
        client = await clients.connect(node.url)
        await client.call("chat:start", thread_id="t", message="hi")
        await watched(client, 1)
        await dead.presence.say([(REF, {"anonymous": 5})])  # and it says nothing more
        await wait_until(lambda: told(client) == [6, 1], "told of them, and that they are gone")


async def test_who_stayed_while_everything_was_forgotten_is_told_who_is_left(
    gateway_settings: Make, clients: Clients
) -> None:
    """No node could say anything for so long, as when Redis was away, and one of them died meanwhile."""
    settings = gateway_settings(**QUICK)
    async with serving(settings) as node, Backplane.open(gateway_settings()) as dead:
        client = await clients.connect(node.url)
        await client.call("chat:start", thread_id="t", message="hi")
        await watched(client, 1)
        await dead.presence.say([(REF, {"anonymous": 5})])
        await wait_until(lambda: told(client)[-1:] == [6], "told of them")
        await node.backplane.redis.delete(node.backplane.keys.thread(REF).watchers)
        await wait_until(lambda: told(client)[-1:] == [1], "told that they are gone")


async def test_who_watches_for_long_is_said_again(gateway_settings: Make, clients: Clients) -> None:
    settings = gateway_settings(**QUICK)
    async with serving(settings) as node:
        client = await clients.connect(node.url)
        await client.call("chat:start", thread_id="t", message="hi")
        await watched(client, 1)
        key = node.backplane.keys.thread(REF).watchers
        await node.backplane.redis.delete(key)
        await watched(client, 1)

        async def ends() -> bool:
            return 0 < await node.backplane.redis.pttl(key) <= 600

        await wait_until(ends, "it is said again, and ends by itself without that")


async def test_a_node_that_stops_takes_its_watchers_along(gateway_settings: Make, clients: Clients) -> None:
    one, two = gateway_settings(drain_grace=0.2), gateway_settings()
    async with serving(two) as second, serving(one) as first:
        leaver = await clients.connect(first.url)
        await leaver.call("chat:start", thread_id="t", message="hi")
        stayer = await clients.connect(second.url)
        await stayer.call("thread:subscribe", thread_id="t")
        await watched(stayer, 2)
        await first.gateway.drain()
        await watched(stayer, 1)


async def test_a_deletion_that_no_message_told_is_noticed(gateway_settings: Make, clients: Clients) -> None:
    """Pub/sub is at-most-once: who watches an idle thread must not watch nothing for ever."""
    settings = gateway_settings(**QUICK)
    async with serving(settings) as node, Backplane.open(gateway_settings()) as other:
        client = await clients.connect(node.url)
        await client.call("chat:start", thread_id="t", message="hi")
        await client.call("chat:cancel", thread_id="t")
        await watched(client, 1)
        room = node.gateway.rooms.get(REF)
        assert room is not None
        room.heard = lambda message: None  # type: ignore[method-assign]  # every message about it is lost
        await other.threads.delete(REF, "anonymous")
        await wait_until(lambda: not client.io.connected, "sent away, to come back")
        await wait_until(lambda: len(node.gateway.rooms) == 0, "nobody watches")
        again = await clients.connect(node.url)
        assert (await again.call("thread:subscribe", thread_id="t"))["error"]["code"] == "not_found"


async def test_a_thread_that_was_lost_with_the_store_is_not_called_deleted(
    gateway_settings: Make, clients: Clients
) -> None:
    """It may have been begun anew by then: who was told that it is deleted would never look."""
    settings = gateway_settings(**QUICK, poll_interval=600)
    async with serving(settings) as node, Backplane.open(gateway_settings()) as other:
        client = await clients.connect(node.url)
        await client.call("chat:start", thread_id="t", message="hi")
        await watched(client, 1)
        keys = other.keys.thread(REF)
        await other.redis.delete(keys.thread, keys.log, keys.session)
        await wait_until(lambda: not client.io.connected, "sent away, to come back")
        assert client.named("thread_deleted") == []


async def test_presence_outlives_an_outage(gateway_settings: Make, clients: Clients, monkeypatch: Any) -> None:
    """What could not be said is said the next time."""
    settings = gateway_settings(**QUICK)
    async with serving(settings) as node:
        client = await clients.connect(node.url)
        say = node.backplane.presence.say
        failures: list[Any] = []

        async def broken(*given: Any) -> Any:
            if len(failures) < 2:
                from backplane.errors import Unavailable

                failures.append(given)
                raise Unavailable("no answer")
            return await say(*given)

        monkeypatch.setattr(node.backplane.presence, "say", broken)
        await client.call("chat:start", thread_id="t", message="hi")
        await watched(client, 1)
        assert len(failures) == 2


async def test_nobody_but_its_owner_sees_who_watches(gateway_settings: Make, clients: Clients) -> None:
    one, two = gateway_settings(jwt_secret=SECRET), gateway_settings(jwt_secret=SECRET)
    async with serving(one) as first, serving(two) as second:
        ann = await clients.connect(first.url, mint(SECRET, "ann", 60))
        await ann.call("chat:start", thread_id="hers", message="private")
        for node in (first, second):
            bob = await clients.connect(node.url, mint(SECRET, "bob", 60))
            theirs = await bob.call("thread:presence", thread_id="hers")
            none = await bob.call("thread:presence", thread_id="nowhere")
            assert theirs == none
            assert theirs["error"]["code"] == "not_found"
            token = {"Authorization": f"Bearer {mint(SECRET, 'bob', 60)}"}
            async with httpx.AsyncClient(base_url=node.url, headers=token) as http:
                answers = [await http.get(f"/v1/threads/{name}/presence") for name in ("hers", "nowhere")]
                assert (answers[0].status_code, answers[0].json()) == (404, answers[1].json())
                assert (await http.get("/v1/threads/hers/presence", headers={"Authorization": ""})).status_code == 401


@pytest.mark.parametrize("subject", ["ann", 'an "odd" one\\', "☃"])
async def test_a_subject_may_hold_any_character(open_backplane: Any, redis_url: str, subject: str) -> None:
    from backplane.turns import Start

    ref = ThreadRef("default", "t")
    async with open_backplane() as one, open_backplane() as two:
        await one.turns.start(ref, Start("q", subject, "sid"))
        assert (await one.presence.look(ref, subject)).watchers == []
        await one.presence.say([(ref, {subject: 1})])
        (told,) = await two.presence.say([(ref, {subject: 2, "zed": 1})])
        assert told is not None
        found = {
            watcher["subject"]: watcher["connections"] for watcher in (await one.presence.look(ref, subject)).watchers
        }
        assert found == {subject: 3, "zed": 1}
        await two.presence.say([(ref, {})])
        await one.presence.say([(ref, {})])
        assert not await one.redis.exists(one.keys.thread(ref).watchers)
