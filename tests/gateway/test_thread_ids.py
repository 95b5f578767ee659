"""Row 12 of the threats: a thread id of another form is refused before the store is asked anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from backplane.settings import Settings
from gateway.rpc import ERROR, REQUEST
from tests.gateway.conftest import Clients, serving
from tests.support.monitor import watching
from tests.support.waiting import wait_until

Make = Callable[..., Settings]
WRONG = ["x" * 129, "{", "}", "a{b}", "*", "a\nb", "a b", "\x00", "😀", "é", "a%2fb", "~", "a\\b", "'"]
NEVER_A_PATH: list[Any] = ["", "  ", "/", "a/b", "../x", "x" * 900_000, 7, None, ["a"], {"a": 1}]
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("chat:start", {"message": "x"}), ("chat:cancel", {}), ("thread:subscribe", {}), ("thread:unsubscribe", {}),
    ("thread:history", {}), ("thread:presence", {}), ("thread:rename", {"title": "x"}), ("thread:delete", {}),
    ("thread:edit", {"message": "x"}), ("queue:status", {}), ("queue:clear", {}), ("queue:remove", {"item_id": "x"}),
    ("approval:decide", {"approval_id": "x.a", "decision": "approve"}),
]  # fmt: skip
REQUESTS: list[tuple[str, str, Any]] = [
    ("GET", "", None), ("PATCH", "", {"title": "x"}), ("DELETE", "", None), ("POST", "/turns", {"message": "x"}),
    ("GET", "/messages", None), ("GET", "/presence", None), ("GET", "/events", None), ("GET", "/queue", None),
    ("DELETE", "/queue", None), ("DELETE", "/queue/x", None), ("POST", "/cancel", {}), ("POST", "/edit", {}),
    ("POST", "/approvals/x.a", {"decision": "approve"}),
]  # fmt: skip
SAID = [{"role": "user", "id": "m", "content": "x", "parts": [{"type": "text", "text": "x"}]}]


async def test_by_every_call_nothing_is_asked(gateway_settings: Make, clients: Clients, valkey: str) -> None:
    made = gateway_settings(calls_per_second=100_000, calls_burst=100_000)
    async with serving(made, roles=False) as node, watching(valkey) as monitor:
        client = await clients.connect(node.url)
        codes = []

        async def call() -> None:
            for verb, more in CALLS:
                for thread_id in [*WRONG, *NEVER_A_PATH]:
                    ack = await client.call(verb, **more, thread_id=thread_id)
                    codes.append((verb, str(thread_id)[:9], ack["error"]["code"]))

        assert await monitor.during(call) == []
        wrong = [each for each in codes if each[2] not in {"invalid_thread_id", "invalid_payload"}]
        assert wrong == []
        assert await monitor.during(lambda: client.call("thread:history", thread_id="x:meta")) != [], "it would be seen"


async def test_in_the_form_of_the_first_web_client_nothing_is_asked(
    gateway_settings: Make, clients: Clients, valkey: str
) -> None:
    async with serving(gateway_settings(), roles=False) as node, watching(valkey) as monitor:
        client = await clients.connect(node.url)

        async def call() -> None:
            for number, thread_id in enumerate(WRONG):
                params = {"client_id": "c", "thread_id": thread_id, "message": "x"}
                asked = {"id": number, "method": "openhuman.channel_web_chat", "params": params}
                await client.io.emit(REQUEST, asked)
            await wait_until(lambda: len(client.named(ERROR)) == len(WRONG), "all are answered")

        assert await monitor.during(call) == []
        assert {answer["error"]["data"]["code"] for answer in client.named(ERROR)} == {"invalid_thread_id"}


async def test_by_every_request_nothing_is_asked(gateway_settings: Make, valkey: str) -> None:
    async with (
        serving(gateway_settings(), roles=False) as node,
        watching(valkey) as monitor,
        httpx.AsyncClient(base_url=node.url, trust_env=False) as http,
    ):
        answers = []

        async def ask() -> None:
            for method, path, body in REQUESTS:
                for thread_id in WRONG:
                    url = f"/v1/threads/{quote(thread_id, safe='')}{path}"
                    answers.append(await http.request(method, url, json=body))
            for thread_id in WRONG:
                answers.append(await http.get(f"/v1/agui/{quote(thread_id, safe='')}/stream"))
                answers.append(await http.get(f"/v1/ai/chat/{quote(thread_id, safe='')}/stream"))
            for named in [*WRONG, *NEVER_A_PATH]:
                run = {"threadId": named, "runId": "r", "messages": SAID, "tools": [], "context": [], "state": {}}
                answers.append(await http.post("/v1/agui", json=run))
                answers.append(await http.post("/v1/ai/chat", json={"id": named, "messages": SAID}))

        assert await monitor.during(ask) == []
        assert {(answer.status_code, answer.json()["error"]["code"]) for answer in answers} <= {
            (400, "invalid_thread_id"),
            (400, "invalid_payload"),
        }


@pytest.mark.parametrize("thread_id", ["x:meta", "a.b_c:d-e", "x" * 128, "0"])
async def test_what_is_allowed_is_taken(gateway_settings: Make, clients: Clients, thread_id: str) -> None:
    async with serving(gateway_settings(), roles=False) as node:
        client = await clients.connect(node.url)
        assert (await client.call("chat:start", thread_id=thread_id, message="x"))["ok"] is True
