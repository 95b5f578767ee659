"""Each act leaves one line that says who did it, from where and how it went, and nothing of what was said."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import jwt
import pytest

from backplane import logs
from backplane.settings import Settings
from tests.gateway.conftest import Clients, serving, working
from tests.gateway.test_revoker import KEYED, SECRET, revoke, token
from tests.support.waiting import wait_until
from worker.turn import Turn

Make = Callable[..., Settings]
WORDS = "a private sentence"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Return everything that is logged, at the level debug, as JSON."""
    stream, root = io.StringIO(), logging.getLogger()
    level = root.level
    logs.configure(Settings(log_level="debug", log_format="json"), stream=stream)
    yield stream
    for handler in list(root.handlers):
        if isinstance(handler, logs.BoundedHandler):
            root.removeHandler(handler)
    root.setLevel(level)


def audit(written: io.StringIO) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    return [line for line in lines if line["logger"] == "audit"]


async def echo(turn: Turn) -> AsyncIterator[str]:
    yield turn.message


async def test_acts_of_sockets_and_of_http_are_written_with_who_and_where(
    gateway_settings: Make, clients: Clients, written: io.StringIO
) -> None:
    made = gateway_settings(**KEYED, trusted_proxies=("127.0.0.1",))
    async with serving(made) as node, working(made, echo):
        headers = {"X-Forwarded-For": "203.0.113.7"}
        ada = await clients.connect(node.url, token("ada", jti="a1"), headers=headers)
        started = await ada.call("chat:start", thread_id="t", message=WORDS)
        await wait_until(lambda: ada.named("chat_done") != [], "done")
        await ada.call("chat:cancel", thread_id="none")
        bearer = {"Authorization": f"Bearer {token('ada')}", "X-Forwarded-For": "203.0.113.8"}
        async with httpx.AsyncClient(base_url=node.url, headers=bearer, trust_env=False) as http:
            await http.delete("/v1/threads/t")
    start, cancel, delete = audit(written)
    who = {"tenant": "default", "subject": "ada", "level": "info", "logger": "audit", "thread_id": "t"}
    assert start == start | who | {
        "event": "start", "outcome": "ok", "jti": "a1", "address": "203.0.113.7", "socket": started["client_id"],
        "request_id": started["request_id"],
    }  # fmt: skip
    assert (cancel["event"], cancel["outcome"], cancel["thread_id"]) == ("cancel", "not_found", "none")
    assert delete == delete | who | {"event": "delete", "outcome": "ok", "address": "203.0.113.8", "socket": ""}


async def asking(turn: Turn) -> AsyncIterator[str]:
    await turn.approve("delete", {})
    await turn.ask("which one?")
    yield "done"


async def test_what_became_of_an_act_is_written(gateway_settings: Make, clients: Clients, written: io.StringIO) -> None:
    """Who decided what, who came too late, and what was taken out of the queue; an answer in words is not repeated."""
    made = gateway_settings(**KEYED)
    async with serving(made) as node, working(made, asking):
        ada = await clients.connect(node.url, token("ada"))
        await ada.call("chat:start", thread_id="t", message="go")
        for number, decision in enumerate(("approved", WORDS)):
            await wait_until(lambda n=number: len(ada.named("approval_request")) > n, "it asks")
            asked = ada.named("approval_request")[-1]["approval_id"]
            for _ in range(2):
                await ada.call("approval:decide", thread_id="t", approval_id=asked, decision=decision)
        await wait_until(lambda: ada.named("chat_done") != [], "done")
        await ada.call("chat:cancel", thread_id="t")
        await ada.call("queue:clear", thread_id="t")
        await ada.call("queue:remove", thread_id="t", item_id="nothing")
    _, first, late, answer, _, cancel, clear, remove = audit(written)
    assert [(line["decided"], line["decision"]) for line in (first, late, answer)] == [
        (True, "approved"), (False, "approved"), (True, "answered"),
    ]  # fmt: skip
    assert first["approval_id"]
    assert (cancel["outcome"], cancel["cancelled"]) == ("ok", False)
    assert (clear["event"], clear["outcome"], clear["removed"]) == ("queue_clear", "ok", [])
    assert (remove["event"], remove["outcome"], remove["item_id"]) == ("queue_remove", "not_found", "nothing")
    assert WORDS not in written.getvalue()


async def test_what_operators_do_is_written_and_who_tried_to(gateway_settings: Make, written: io.StringIO) -> None:
    async with serving(gateway_settings(**KEYED, plugs=True)) as node:
        await revoke(node.url, subject="mallory")
        await revoke(node.url, token_id="stolen", tenant="acme")
        await revoke(node.url, "eve", subject="root")
        answer = await revoke(node.url, token_id=token("ada"))
        assert answer.status_code == 400, "a token itself would stand in this log"
        headers = {"Authorization": f"Bearer {token('root')}"}
        async with httpx.AsyncClient(base_url=node.url, headers=headers, trust_env=False) as http:
            await http.post("/v1/plugs/socket/none")
    subject, one, refused, wrong, plug = audit(written)
    assert (subject["outcome"], subject["of_tenant"], subject["of_subject"]) == ("ok", "default", "mallory")
    assert (one["outcome"], one["of_tenant"], one["of_jti"]) == ("ok", "acme", "stolen")
    assert (refused["subject"], refused["outcome"]) == ("eve", "not_found")
    assert wrong["outcome"] == "invalid_payload"
    assert (plug["event"], plug["plug"], plug["outcome"]) == ("plug", "socket/none", "not_found")
    assert all(line["address"] == "127.0.0.1" for line in audit(written))
    assert token("ada").split(".")[0] not in written.getvalue()


async def test_no_token_and_no_word_is_written_in_a_whole_conversation(
    gateway_settings: Make, clients: Clients, written: io.StringIO
) -> None:
    """By the query, a header, the packet and a refresh, good tokens and bad ones, with everything written."""
    made = gateway_settings(**KEYED)
    good, newer = token("ada"), token("ada", jti="newer")
    bad = jwt.encode({"sub": "ada", "exp": 1}, SECRET, algorithm="HS256")
    async with serving(made) as node, working(made, echo):
        client = await clients.connect(f"{node.url}?token={good}", good)
        await client.call("chat:start", thread_id="t", message=WORDS)
        await wait_until(lambda: client.named("chat_done") != [], "done")
        for refreshing in (newer, bad, token("mallory")):
            await client.call("auth:refresh", token=refreshing)
        async with httpx.AsyncClient(base_url=node.url, trust_env=False) as http:
            for shown in (good, bad):
                await http.get("/v1/threads/t", headers={"Authorization": f"Bearer {shown}"})
                async with http.stream("GET", f"/v1/threads/t/events?access_token={shown}"):
                    pass
    said = written.getvalue()
    assert audit(written), "something was written"
    assert WORDS not in said
    for secret in (good, newer, bad, SECRET):
        assert secret not in said
        assert secret.rsplit(".", 1)[-1] not in said


async def test_acts_are_never_left_out(gateway_settings: Make, clients: Clients, written: io.StringIO) -> None:
    made = gateway_settings()
    async with serving(made) as node:
        client = await clients.connect(node.url)
        for _ in range(3 * logs.LINES_PER_SECOND):
            await client.call("chat:cancel", thread_id="none")
    assert len(audit(written)) == 3 * logs.LINES_PER_SECOND
