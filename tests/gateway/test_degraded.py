"""Degraded: clients of a node are told once when Redis is away, and once when it is back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from backplane.events import Event
from backplane.settings import Settings
from gateway.degraded import Degraded
from tests.gateway.agents import endless
from tests.gateway.conftest import serving, working
from tests.support.waiting import wait_until

Make = Callable[..., Settings]


class Reader:
    """Somebody who is connected, and writes down what he is told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def send(self, event: Event) -> bool:
        assert (event.name, event.offset) == ("degraded", 0)
        self.told.append(event.fields)
        return True


class Away:
    """A live path and a clock under the test's hand."""

    def __init__(self) -> None:
        self.deaf = False
        self.now = 100.0
        self.degraded = Degraded(lambda: self.deaf, lambda: self.now)
        self.reader = Reader()
        self.degraded.add(self.reader)

    def look(self, *, deaf: bool, after: float) -> list[bool]:
        """Look once; return what the reader was told so far: active or not."""
        self.deaf, self.now = deaf, self.now + after
        self.degraded.look()
        return [told["active"] for told in self.reader.told]


def test_an_outage_is_told_once_and_so_is_its_end() -> None:
    away = Away()
    assert away.look(deaf=True, after=0.1) == []
    assert away.look(deaf=True, after=1.1) == [True]
    assert away.look(deaf=True, after=5) == [True]
    assert away.look(deaf=False, after=0.1) == [True]
    assert away.look(deaf=False, after=1.1) == [True, False]
    assert away.look(deaf=False, after=5) == [True, False]
    assert away.reader.told[0]["since"] == away.reader.told[1]["since"] > 10**12


def test_a_connection_that_is_made_again_at_once_is_told_to_nobody() -> None:
    away = Away()
    for _ in range(5):
        assert away.look(deaf=True, after=0.1) == []
        assert away.look(deaf=True, after=0.5) == []
        assert away.look(deaf=False, after=0.1) == []


def test_a_return_that_falters_is_told_when_it_lasts() -> None:
    away = Away()
    away.look(deaf=True, after=0.1)
    away.look(deaf=True, after=2)
    for _ in range(3):
        assert away.look(deaf=False, after=0.5) == [True]
        assert away.look(deaf=True, after=0.2) == [True]
    away.look(deaf=False, after=0.1)
    assert away.look(deaf=False, after=1.1) == [True, False]


def test_who_comes_during_an_outage_is_told_at_once_and_who_has_gone_is_not() -> None:
    away = Away()
    away.look(deaf=True, after=0.1)
    away.look(deaf=True, after=2)
    late = Reader()
    away.degraded.add(late)
    away.degraded.remove(away.reader)
    away.look(deaf=False, after=0.1)
    assert away.look(deaf=False, after=2) == [True]
    assert [told["active"] for told in late.told] == [True, False]


async def test_sockets_and_streams_are_told_without_a_place_in_the_log(gateway_settings: Make, clients: Any) -> None:
    """A socket gets it once, without an alias; a stream gets it without an id, so that its cursor stays."""
    settings = gateway_settings()
    async with (
        serving(settings, roles=False) as node,  # whether Redis is away is said by the test alone
        working(settings, endless),
        httpx.AsyncClient(base_url=node.url, trust_env=False) as http,
    ):
        client = await clients.connect(node.url)
        await client.call("chat:start", thread_id="t", message="go")
        degraded = node.gateway.node.degraded
        async with http.stream("GET", "/v1/threads/t/events", timeout=20) as response:
            await wait_until(lambda: len(degraded._readers) == 2, "both are there")
            for active in (True, False):
                degraded._tell(active, 5)
            lines = response.aiter_lines()
            frames: list[str] = []
            while frames.count("event: degraded") < 2 or frames[-1]:
                frames.append(await anext(lines))
        await client.call("queue:status", thread_id="t")  # its answer comes behind what the socket was told
    at = frames.index("event: degraded")
    told = [json.loads(line.removeprefix("data: ")) for line in frames[at:] if line.startswith("data: ")]
    assert told == [{"active": True, "since": 5}, {"active": False, "since": 5}]
    assert not any(line.startswith("id:") for line in frames[at:])
    assert [name for name, _ in client.events].count("degraded") == 2
