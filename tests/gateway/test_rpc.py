"""Calls in the form of JSON-RPC: the verbs by another name, on a whole gateway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backplane.settings import Settings
from gateway.auth import mint
from tests.gateway.agents import endless
from tests.gateway.conftest import Client, Clients, serving, working
from tests.support.waiting import wait_until

SECRET = "a secret of at least thirty-two bytes, for tests"
Make = Callable[..., Settings]


async def asked(client: Client, request: object) -> tuple[str, dict[str, Any]]:
    """Send a request and return the name and the body of what answers it."""
    before = len(client.named("rpc:response", "rpc:error"))
    await client.io.emit("rpc:request", request)
    await wait_until(lambda: len(client.named("rpc:response", "rpc:error")) > before, "answered")
    return [(name, data) for name, data in client.events if name in ("rpc:response", "rpc:error")][-1]


async def result(client: Client, method: str, **params: Any) -> dict[str, Any]:
    name, answer = await asked(client, {"id": 7, "method": f"openhuman.{method}", "params": params})
    assert (name, answer["id"], set(answer)) == ("rpc:response", 7, {"id", "result"}), answer
    return dict(answer["result"])


async def test_a_conversation_by_these_calls_alone(gateway_settings: Make, clients: Clients) -> None:
    settings = gateway_settings()
    async with serving(settings) as node, working(settings, endless):
        client = await clients.connect(node.url)
        mine = client.io.get_sid()
        quiet = await result(client, "channel_web_queue_status", thread_id=" t ")
        assert quiet == {"thread_id": "t", "active": False, "steers": 0, "followups": 0, "collects": 0, "total": 0}
        assert await result(client, "channel_web_cancel", client_id=mine, thread_id="t") == {
            "client_id": mine, "thread_id": "t", "cancelled": False, "request_id": None, "state": "idle",
        }  # fmt: skip
        chat = {"client_id": "whatever", "thread_id": "t", "message": "hi", "profile_id": None, "locale": "de"}
        started = await result(client, "channel_web_chat", **chat)
        assert started.items() >= {"accepted": True, "queued": False, "client_id": mine, "thread_id": "t"}.items()
        await wait_until(lambda: client.text != "", "it answers")
        assert client.named("text_delta")[0]["request_id"] == started["request_id"]
        waiting = [
            await result(client, "channel_web_chat", **(chat | {"queue_mode": mode})) for mode in ("followup", "steer")
        ]
        assert [answer["queued"] for answer in waiting] == [True, True]
        status = await result(client, "channel_web_queue_status", thread_id="t")
        assert status.items() >= {
            "active": True, "request_id": started["request_id"], "steers": 1, "followups": 1, "collects": 0, "total": 2,
        }.items()  # fmt: skip
        item = waiting[0]["request_id"]
        for removed in (True, False):
            answer = await result(client, "channel_web_queue_remove", thread_id="t", item_id=item)
            assert answer == {"thread_id": "t", "item_id": item, "removed": removed}
        cleared = await result(client, "channel_web_queue_clear", thread_id="t")
        assert (cleared["cleared"], cleared["dropped"]) == (True, 1)
        assert (await result(client, "channel_web_queue_clear", thread_id="t"))["cleared"] is False
        cancelled = await result(client, "channel_web_cancel", client_id=mine, thread_id="t")
        assert (cancelled["cancelled"], cancelled["request_id"]) == (True, started["request_id"])
        await wait_until(lambda: client.named("chat_error") != [], "it ends")


@pytest.mark.parametrize(
    ("request_", "answer_id", "number", "code"),
    [
        (None, None, -32602, "invalid_payload"),
        ([1], None, -32602, "invalid_payload"),
        ({"id": "a"}, "a", -32602, "invalid_payload"),
        ({"id": 1, "method": 7}, 1, -32602, "invalid_payload"),
        ({"id": 1, "method": "openhuman.config_get"}, 1, -32601, "unknown_event"),
        ({"id": 1, "method": "openhuman.channel_web_chat"}, 1, -32602, "invalid_thread_id"),
        ({"id": 1, "method": "openhuman.channel_web_chat", "params": [1]}, 1, -32602, "invalid_payload"),
        ({"id": 1, "method": "openhuman.channel_web_chat", "params": {"thread_id": "t"}}, 1, -32602, "invalid_payload"),
        ({"id": {"a": 1}, "method": "openhuman.x"}, None, -32601, "unknown_event"),
        ({"id": "x" * 200, "method": "openhuman.x"}, None, -32601, "unknown_event"),
        ({"id": True, "method": "openhuman.x"}, None, -32601, "unknown_event"),
    ],
)
async def test_a_bad_request_gets_the_clear_error_and_changes_nothing(
    gateway_settings: Make, clients: Clients, request_: object, answer_id: object, number: int, code: str
) -> None:
    settings = gateway_settings()
    async with serving(settings) as node:
        client = await clients.connect(node.url)
        name, answer = await asked(client, request_)
        assert (name, answer["id"]) == ("rpc:error", answer_id)
        assert (answer["error"]["code"], answer["error"]["data"]["code"]) == (number, code)
        assert "expected" in answer["error"]["message"]
        assert [key async for key in node.backplane.redis.scan_iter(match=f"{settings.key_prefix}:{{*")] == []


async def test_anothers_thread_looks_like_one_that_does_not_exist(gateway_settings: Make, clients: Clients) -> None:
    settings = gateway_settings(jwt_secret=SECRET)
    async with serving(settings) as node, working(settings, endless):
        ann = await clients.connect(node.url, mint(SECRET, "ann", 60))
        bob = await clients.connect(node.url, mint(SECRET, "bob", 60))
        await result(ann, "channel_web_chat", thread_id="hers", message="private")
        await result(ann, "channel_web_chat", thread_id="hers", message="more", queue_mode="followup")
        for method in ("cancel", "queue_status", "queue_clear", "queue_remove"):
            answers = [
                await result(bob, f"channel_web_{method}", thread_id=thread_id, item_id="x")
                for thread_id in ("hers", "nowhere")
            ]
            assert {**answers[0], "thread_id": ""} == {**answers[1], "thread_id": ""}
        chat = {"id": 1, "method": "openhuman.channel_web_chat", "params": {"thread_id": "hers", "message": "x"}}
        name, answer = await asked(bob, chat)
        assert (name, answer["error"]["code"], answer["error"]["data"]["code"]) == ("rpc:error", -32000, "not_found")
        status = await result(ann, "channel_web_queue_status", thread_id="hers")
        assert (status["active"], status["followups"]) == (True, 1)


async def test_these_calls_count_for_the_rate_of_their_socket(gateway_settings: Make, clients: Clients) -> None:
    settings = gateway_settings(calls_per_second=0.001, calls_burst=3)
    async with serving(settings) as node:
        client = await clients.connect(node.url)
        for _ in range(3):
            await result(client, "channel_web_queue_status", thread_id="t")
        name, answer = await asked(client, {"id": 1, "method": "openhuman.channel_web_queue_status"})
        assert (name, answer["error"]["data"]["code"]) == ("rpc:error", "rate_limited")
