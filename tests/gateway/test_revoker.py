"""A token that was taken back opens nothing any more, and what it had opened is closed, on every node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import jwt
import pytest
from socketio.exceptions import ConnectionError as NotConnected  # type: ignore[import-untyped]

from backplane.settings import Settings
from gateway.auth import mint
from tests.gateway.conftest import Clients, serving, working
from tests.support.waiting import wait_until
from worker.turn import Turn

Make = Callable[..., Settings]
SECRET = "a secret of at least 32 bytes, for tests"
KEYED = {"jwt_secret": SECRET, "operators": ("root",)}
JUST_ENDED = -1
"""Seconds to the end of a token that is still taken, since two clocks may differ a little (`gateway.auth.LEEWAY`)."""


def token(subject: str, **claims: Any) -> str:
    now = int(time.time())
    return jwt.encode({"sub": subject, "exp": now + 600, "iat": now - 5} | claims, SECRET, algorithm="HS256")


async def revoke(url: str, who: str = "root", **asked: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {mint(SECRET, who, 60)}"}
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.post(f"{url}/v1/revocations", headers=headers, json=asked)


async def talker(turn: Turn) -> AsyncIterator[str]:
    yield "one moment"
    await asyncio.Event().wait()


@pytest.mark.parametrize("asked", [{"subject": "mallory"}, {"token_id": "stolen"}])
async def test_row_15_sockets_on_every_node_are_told_and_closed_and_cannot_come_back(
    gateway_settings: Make, clients: Clients, asked: dict[str, Any]
) -> None:
    stolen = token("mallory", jti="stolen")
    async with serving(gateway_settings(**KEYED)) as one, serving(gateway_settings(**KEYED)) as two:
        caught = [await clients.connect(node.url, stolen) for node in (one, two)]
        others = [await clients.connect(two.url, token("ada", jti="own"))]
        others.append(await clients.connect(two.url, token("mallory", jti="stolen", tenant="acme")))
        assert (await revoke(one.url, **asked)).json() == {"ok": True, "tenant": "default"}
        await wait_until(lambda: not any(client.io.connected for client in caught), "both are closed")
        assert all(client.named("auth_revoked") for client in caught)
        assert all(client.io.connected for client in others)
        for node in (one, two):
            with pytest.raises(NotConnected):
                await clients.connect(node.url, stolen)
        # signed in again: a token that was issued later
        await clients.connect(two.url, token("mallory", jti="new", iat=int(time.time()) + 5))


async def test_a_node_that_starts_later_knows_what_was_taken_back(gateway_settings: Make) -> None:
    async with serving(gateway_settings(**KEYED)) as one:
        await revoke(one.url, subject="mallory")
    async with serving(gateway_settings(**KEYED)) as later, httpx.AsyncClient(trust_env=False) as http:
        headers = {"Authorization": f"Bearer {token('mallory')}"}
        answer = await http.get(f"{later.url}/v1/threads", headers=headers)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (401, "revoked")


async def test_a_push_that_is_lost_costs_a_second(gateway_settings: Make, clients: Clients) -> None:
    async with serving(gateway_settings(**KEYED)) as one, serving(gateway_settings(**KEYED)) as two:
        two.backplane.live.unsubscribe(two.backplane.keys.revoked)
        caught = await clients.connect(two.url, token("mallory"))
        await revoke(one.url, subject="mallory")
        await wait_until(lambda: not caught.io.connected, "it is closed all the same")


@pytest.mark.parametrize("ends", ["revoked", "expired"])
async def test_streams_end_while_the_turn_goes_on(gateway_settings: Make, ends: str) -> None:
    made = gateway_settings(**KEYED, expiry_grace=0.1)
    async with (
        serving(made) as one,
        working(made, talker),
        httpx.AsyncClient(trust_env=False, base_url=one.url) as http,
    ):
        life = 600 if ends == "revoked" else JUST_ENDED
        headers = {"Authorization": f"Bearer {token('ada', exp=int(time.time()) + life)}"}
        await http.post("/v1/threads/t/turns", json={"message": "hello"}, headers=headers)
        async with http.stream("GET", "/v1/threads/t/events", headers=headers, timeout=20) as stream:
            assert stream.status_code == 200
            if ends == "revoked":
                await revoke(one.url, subject="ada")
            async for _ in stream.aiter_lines():
                pass
        fresh = {"Authorization": f"Bearer {token('ada', iat=int(time.time()) + 5)}"}
        assert (await http.get("/v1/threads/t", headers=fresh)).json()["turn"] is not None


async def test_only_operators_take_tokens_back_and_they_name_one_thing(gateway_settings: Make) -> None:
    async with serving(gateway_settings(**KEYED)) as one:
        refused = await revoke(one.url, "mallory", subject="root")
        assert refused.status_code == 404
        wrong: list[dict[str, Any]] = [{}, {"subject": "a", "token_id": "b"}, {"subject": ""}, {"subject": 5}]
        for asked in wrong:
            assert (await revoke(one.url, **asked)).status_code == 400


async def test_row_15_a_token_that_ends_is_told_and_the_socket_closed_after_the_grace(
    gateway_settings: Make, clients: Clients
) -> None:
    made = gateway_settings(**KEYED, expiry_grace=0.2)
    async with serving(made) as one, working(made, talker):
        client = await clients.connect(one.url, token("ada"))
        await client.call("chat:start", thread_id="t", message="hello")
        await client.io.emit("auth:refresh", {"token": token("ada", exp=int(time.time()) + JUST_ENDED)})
        await wait_until(lambda: not client.io.connected, "the grace is over")
        assert client.named("auth_expired") == [
            {"message": "the token has expired; send auth:refresh with a new one", "grace_s": 0.2}
        ]
        again = await clients.connect(one.url, token("ada"))
        joined = await again.call("thread:subscribe", thread_id="t")
        assert joined["snapshot"]["turn"] is not None, "the turn goes on"
