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
from tests.gateway.test_revoker import KEYED, SECRET, token
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
