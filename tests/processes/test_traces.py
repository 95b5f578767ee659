"""A turn is one trace through real processes, whatever dies; and a collector that is dead holds up nobody."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backplane.embedded import free_port
from backplane.ids import new_id
from tests.fleet.conditions import eventually
from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet
from tests.support.collector import Collected, Collector, collecting
from tests.support.spans import CALLER, CALLER_ID, TRACE_ID

pytestmark = pytest.mark.processes

WORDS = "say 60 words"
SOON, NEVER = "50", "600000"
"""Milliseconds after which spans are sent: while a process lives, or at its end alone."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Return a collector that takes everything."""
    with collecting() as collector:
        yield collector


SETTINGS = {"traces": "otlp", "log_format": "json", "agent": "tests.processes.holding:agent"}


@asynccontextmanager
async def traced(folder: Path, url: str, delay: str, size: int = 2) -> AsyncIterator[Fleet]:
    """Run a fleet whose members send their spans to a URL."""
    fleet = Fleet(folder, gateways=size, workers=size, settings=SETTINGS)
    for member in fleet.members:
        member.environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": delay}
    async with fleet:
        yield fleet


async def some(collector: Collector, name: str, count: int = 1, **about: str | int) -> list[Collected]:
    """Wait for so many spans of a name, and return them."""

    async def look() -> list[Collected] | None:
        found = collector.named(name, **about)
        return found if len(found) >= count else None

    return await eventually(look, f"{count} spans {name} {about}")


async def test_a_turn_that_is_taken_over_after_a_kill_is_one_trace_from_its_client_to_the_sockets(
    collector: Collector, tmp_path: Path
) -> None:
    async with traced(tmp_path, collector.url, SOON) as fleet, Conversation(fleet, f"t-{new_id()}") as talk:
        turn = await talk.say(WORDS, held_at=40, traceparent=CALLER)
        await talk.words(turn, 20)
        lost = await fleet.owner(talk.thread_id, turn)
        lost_id = lost.node_id
        await some(collector, "receive turns", attempt=1)
        await lost.kill()
        await talk.ended(turn)
        (done,) = await some(collector, "process turns", attempt=2)
        delivered = await some(collector, "deliver", len(fleet.gateways))
        (call,), (sent,) = collector.named("chat:start"), collector.named("send turns")
        waits = collector.named("receive turns")
        log = json.loads((await fleet.workers[0].says("turn claimed") or "").strip())
    assert {span.trace_id for span in collector.spans} == {TRACE_ID}
    assert {span.about["threadline.request_id"] for span in collector.spans} == {turn}
    assert (call.above, sent.above) == (CALLER_ID, call.span_id)
    assert {span.above for span in (*waits, done, *delivered)} == {sent.span_id}
    assert [span.about["threadline.attempt"] for span in waits] == [1, 2]
    assert waits[0].instance == lost_id != done.instance
    assert done.about["threadline.outcome"] == "done"
    assert (call.service, done.service) == ("threadline-gateway", "threadline-worker")
    assert {span.instance for span in delivered} == {member.node_id for member in fleet.gateways}
    assert (log["trace_id"], log["thread_id"], log["request_id"]) == (TRACE_ID, talk.thread_id, turn)
    assert not [body for body in collector.bodies if WORDS.encode() in body or b"river-1" in body]


async def test_a_process_that_stops_sends_its_last_spans_first(collector: Collector, tmp_path: Path) -> None:
    async with traced(tmp_path, collector.url, NEVER, size=1) as fleet:
        async with Conversation(fleet, f"t-{new_id()}") as talk:
            await talk.ended(await talk.say("say 1 words"))  # from here on it is watched: a replay is no delivery
            await talk.ended(await talk.say("say 5 words", traceparent=CALLER))
        assert collector.spans == []
        for member in (*fleet.workers, *fleet.gateways):
            member.signal(signal.SIGTERM)
            assert await member.ended() == 0
    names = {span.name for span in collector.spans if span.trace_id == TRACE_ID}
    assert {"chat:start", "send turns", "receive turns", "process turns", "deliver"} <= names


@pytest.mark.parametrize("how", ["refuses", "hangs"])
async def test_a_dead_collector_holds_up_no_turn_and_no_end(tmp_path: Path, how: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        port = hangs.getsockname()[1] if how == "hangs" else free_port()
        async with traced(tmp_path, f"http://127.0.0.1:{port}", SOON, size=1) as fleet:
            async with Conversation(fleet, f"t-{new_id()}") as talk:
                for _ in range(3):
                    assert (await talk.ended(await talk.say("say 5 words")))["event"] == "chat_done"
            for member in (*fleet.workers, *fleet.gateways):
                member.signal(signal.SIGTERM)
                assert await member.ended() == 0
                await member.says("the last spans could not be sent in time")
