"""Row 11 of the threats: by HTTP too, another's thread is answered as one that does not exist."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from backplane.settings import Settings
from gateway.auth import mint
from tests.gateway.conftest import Clients, serving, working
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
