"""`threadline revoke`, against real gateways: what it says, and what it does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from backplane.embedded import free_port
from backplane.errors import Misconfigured, Unavailable
from backplane.settings import Settings
from cli.revoke import revoke
from gateway.auth import mint
from tests.gateway.conftest import RunningGateway, gateway_settings, serving
from tests.gateway.test_revoker import KEYED, SECRET, token

__all__ = ["gateway_settings"]
LONG = 86_400
"""Seconds that these tokens are good for: they are made when the tests are collected, minutes before some run."""
ROOT = mint(SECRET, "root", LONG)


@pytest.fixture
async def node(gateway_settings: Callable[..., Settings]) -> AsyncIterator[RunningGateway]:  # a fixture
    """Return a gateway that asks for tokens."""
    async with serving(gateway_settings(**KEYED)) as running:
        yield running


async def status(node: RunningGateway, bearer: str) -> int:
    """Return how a call with a token is answered."""
    headers = {"Authorization": f"Bearer {bearer}"}
    async with httpx.AsyncClient(trust_env=False, base_url=node.url) as http:
        return (await http.get("/v1/threads", headers=headers)).status_code


def nobody() -> str:
    """Return the address of a gateway that does not run."""
    return f"http://127.0.0.1:{free_port()}"


async def test_all_tokens_of_a_subject_are_taken_back(node: RunningGateway) -> None:
    said = await revoke([node.url], ROOT, subject="mallory")
    assert said.startswith("took back all tokens of mallory that were issued until now, tenant default;")
    await node.backplane.revocations.read()
    assert await status(node, token("mallory")) == 401
    assert await status(node, token("ada")) == 200


async def test_one_token_of_another_tenant_is_taken_back(node: RunningGateway) -> None:
    said = await revoke([node.url], ROOT, token_id="stolen", tenant="acme")
    assert said.startswith("took back the token stolen, tenant acme;")
    await node.backplane.revocations.read()
    assert await status(node, token("mallory", jti="stolen", tenant="acme")) == 401
    assert await status(node, token("mallory", jti="stolen")) == 200


async def test_the_next_gateway_is_asked_when_one_does_not_answer(node: RunningGateway) -> None:
    assert await revoke([nobody(), node.url], ROOT, subject="mallory")


@pytest.mark.parametrize("status", [200, 401])
@pytest.mark.parametrize("said", [{"message": "who are you?"}, ["no"], {"error": "no"}])
async def test_the_next_gateway_is_asked_when_something_else_answers(
    node: RunningGateway, monkeypatch: pytest.MonkeyPatch, status: int, said: Any
) -> None:
    post = httpx.AsyncClient.post

    async def answered(self: httpx.AsyncClient, url: str, **given: Any) -> httpx.Response:
        return httpx.Response(status, json=said) if "proxy.invalid" in url else await post(self, url, **given)

    monkeypatch.setattr(httpx.AsyncClient, "post", answered)
    assert await revoke(["http://proxy.invalid", node.url], ROOT, subject="mallory")


async def test_no_gateway_at_all_is_said_with_the_next_step() -> None:
    with pytest.raises(Unavailable, match=r"no gateway confirmed it .* name it with --url"):
        await revoke([nobody()], ROOT, subject="mallory")


async def test_an_answer_of_something_else_is_no_success(node: RunningGateway) -> None:
    with pytest.raises(Unavailable, match="405"):
        await revoke([f"{node.url}/healthz?"], ROOT, subject="mallory")


@pytest.mark.parametrize(
    ("bearer", "asked", "told"),
    [
        (mint(SECRET, "mallory", LONG), {"subject": "root"}, "THREADLINE_OPERATORS"),
        (mint(SECRET, "root", LONG, tenant="evil"), {"subject": "root"}, "THREADLINE_OPERATORS"),
        (None, {"subject": "mallory"}, "expected a token, got none"),
        (ROOT, {}, "expected a subject or --token-id"),
        (ROOT, {"subject": "a", "token_id": "b"}, "expected a subject or --token-id"),
        (ROOT, {"token_id": mint(SECRET, "a", LONG)}, "got the token itself"),
        (ROOT, {"subject": "x" * 257}, "1 to 256 characters"),
    ],
)
async def test_what_is_wrong_is_said(node: RunningGateway, bearer: str | None, asked: Any, told: str) -> None:
    with pytest.raises(Misconfigured, match=told):
        await revoke([node.url], bearer, **asked)
