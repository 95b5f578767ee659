"""Row 17 of the threats: however many sockets and nodes somebody uses, calls are counted together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from backplane.allowances import Spent
from backplane.connection import Backplane
from backplane.errors import Unavailable
from backplane.settings import Settings
from gateway.allowances import BURST
from gateway.auth import mint
from gateway.settler import Settler
from tests.gateway.conftest import Clients, RunningGateway, serving
from tests.gateway.peers import ANN, BOB, STRANGER, Clock, Peer, peer
from tests.support.waiting import wait_until

Make = Callable[..., Settings]
SECRET = "a secret of at least 32 bytes, for tests"


@pytest.fixture
async def pair(open_backplane: Any) -> AsyncIterator[Callable[..., tuple[Peer, Peer]]]:
    """Return a way to make two nodes."""
    async with open_backplane() as one, open_backplane() as two:
        yield lambda **settings: (peer(one, **settings), peer(two, **settings))


async def settled(*peers: Peer) -> None:
    """Let each tell and hear, one after the other."""
    for each in peers:
        await each.settle()


class TestTwoNodes:
    """What one node lets pass, the other one knows."""

    async def test_a_user_at_one_node_has_the_whole_allowance_at_once(self, pair: Any) -> None:
        one, _ = pair(user_calls_per_second=2)
        assert one.calls(ANN, 100) == 2 * BURST

    async def test_a_user_at_two_nodes_has_not_twice_the_allowance(self, pair: Any) -> None:
        one, two = pair(user_calls_per_second=2)
        passed = 0
        for _ in range(100):
            passed += one.calls(ANN, 1) + two.calls(ANN, 1)
            await settled(one, two)
        assert 2 * BURST <= passed <= 2 * BURST + 2, "what they let pass in one interval may be too much"
        assert one.limited("user") + two.limited("user") == 200 - passed

    async def test_what_was_too_much_is_a_debt_that_is_paid_back_first(self, pair: Any) -> None:
        clock = Clock()
        one, two = pair(user_calls_per_second=1, clock=clock)
        assert one.calls(ANN, 100) == two.calls(ANN, 100) == BURST, "neither has heard of the other"
        await settled(two, one)
        clock.now += 1.5
        assert one.calls(ANN, 100) == 0, "it told last, and has heard of both"
        assert two.calls(ANN, 100) == 1, "it told first"
        await settled(two)
        clock.now += BURST - 2
        assert one.calls(ANN, 100) == two.calls(ANN, 100) == 0
        clock.now += 3
        assert one.calls(ANN, 1) == 1

    async def test_nobody_else_is_disturbed(self, pair: Any) -> None:
        one, two = pair(user_calls_per_second=2)
        one.calls(ANN, 100)
        await settled(one, two)
        for node in (one, two):
            for other in (BOB, STRANGER):
                assert node.calls(other, BURST) == BURST

    async def test_a_tenant_has_a_limit_over_all_its_users_and_another_tenant_its_own(self, pair: Any) -> None:
        one, two = pair(tenant_calls_per_second=2)
        assert one.calls(ANN, 5) + one.calls(BOB, 4) == 9
        await settled(one)
        assert two.calls(BOB, 1) == 1
        await settled(two)
        assert two.calls(BOB, 5) == 0
        assert two.calls(STRANGER, 10) == 10
        assert two.limited("tenant") == 5
        assert two.limited("user") == 0


async def test_without_redis_each_node_goes_on_limiting_by_itself(backplane: Backplane) -> None:
    clock = Clock()
    node = peer(backplane, user_calls_per_second=2, clock=clock)
    store = AwayStore()
    settler = Settler(store, [node.callers.users])  # type: ignore[arg-type]  # it answers as the real one
    with capture_logs() as lines:
        for _ in range(3):
            node.calls(ANN, 100)
            await settler.settle()
            clock.now += 1
    assert [line["event"] for line in lines] == ["limits of calls are those of this node alone"]
    assert node.calls(ANN, 100) == 2, "the rate, and no more"
    store.away = False
    await settler.settle()
    assert [sum(spent.calls for spent in told) for told in store.told] == [10, 2, 2, 2], "nothing is made up for"


class AwayStore:
    """Redis, which is away until somebody says otherwise."""

    def __init__(self) -> None:
        self.away = True
        self.told: list[list[Spent]] = []

    async def settle(self, spent: list[Spent]) -> list[float | None]:
        self.told.append(spent)
        if self.away:
            raise Unavailable("Redis did not answer")
        return [each.most for each in spent]


# --- over two gateways, by every wire --------------------------------------------------------------------


async def codes(node: RunningGateway, token: str, times: int) -> list[httpx.Response]:
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=node.url, headers=headers, trust_env=False) as http:
        return [await http.get("/v1/threads") for _ in range(times)]


async def test_row_17_a_hundred_calls_over_two_nodes_and_many_sockets_are_limited(
    gateway_settings: Make, clients: Clients
) -> None:
    """A hundred calls of one user, over six sockets and HTTP; another user at the same nodes notices nothing."""
    made = {"jwt_secret": SECRET, "user_calls_per_second": 1}
    async with serving(gateway_settings(**made)) as one, serving(gateway_settings(**made)) as two:
        ann, bob = mint(SECRET, "ann", 60), mint(SECRET, "bob", 60)
        sockets = [await clients.connect(node.url, ann) for node in (one, two) for _ in range(3)]
        other = await clients.connect(two.url, bob)
        began = asyncio.get_running_loop().time()
        acks = []
        for _ in range(15):
            acks += [await socket.call("queue:status", thread_id="t") for socket in sockets]
            await one.gateway.settler.settle()
            await two.gateway.settler.settle()
        answers = await codes(one, ann, 10)
        took = asyncio.get_running_loop().time() - began
        refused = [ack["error"] for ack in acks if ack["error"]["code"] == "rate_limited"]
        passed = len(acks) - len(refused) + sum(answer.status_code == 200 for answer in answers)
        assert passed <= BURST + took + 6, "a burst, the rate, and what one interval lets pass too much"
        assert all(error["retry_after_ms"] > 0 and error["retryable"] for error in refused)
        late = next(answer for answer in answers if answer.status_code != 200)
        assert (late.status_code, late.json()["error"]["code"]) == (429, "rate_limited")
        assert int(late.headers["retry-after"]) >= 1
        assert (await other.call("queue:status", thread_id="t"))["error"]["code"] == "not_found"
        assert (await codes(two, bob, 1))[0].status_code == 200
        text = one.gateway.metrics.text().decode()
        assert 'threadline_rate_limited_total{whose="user"}' in text
        assert '"ann"' not in text


async def test_row_16_connections_of_one_address_are_counted_over_both_nodes(gateway_settings: Make) -> None:
    made = {"trusted_proxies": ("127.0.0.1",), "http_calls_per_second": 2, "connects_per_second": 2}
    async with serving(gateway_settings(**made)) as one, serving(gateway_settings(**made)) as two:
        for path in ("/v1/threads", "/socket.io/?EIO=4&transport=polling"):
            began = asyncio.get_running_loop().time()
            passed = 0
            async with httpx.AsyncClient(headers={"X-Forwarded-For": "203.0.113.7"}, trust_env=False) as http:
                for _ in range(20):
                    for node in (one, two):
                        passed += (await http.get(node.url + path)).status_code == 200
                        await node.gateway.settler.settle()
            took = asyncio.get_running_loop().time() - began
            assert 2 * BURST <= passed <= 2 * BURST + 2 * took + 2


async def test_a_gateway_settles_by_itself(gateway_settings: Make, clients: Clients) -> None:
    made = gateway_settings(jwt_secret=SECRET, user_calls_per_second=1)
    async with serving(made) as node:
        client = await clients.connect(node.url, mint(SECRET, "ann", 60))
        await client.call("queue:status", thread_id="t")
        key = node.backplane.keys.user_calls("default", "ann")

        async def told() -> bool:
            return bool(await node.backplane.redis.exists(key))

        await wait_until(told, "what passed is told")
