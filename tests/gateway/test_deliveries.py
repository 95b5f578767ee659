"""The way back of a trace: one span for each turn that a node sends to somebody, and nothing for a delta."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backplane.connection import Backplane
from backplane.errors import Unavailable
from backplane.ids import ThreadRef, thread_ref
from backplane.settings import Settings
from backplane.traces import received, within
from backplane.turns import Start
from tests.gateway.conftest import Clients, serving
from tests.gateway.watched import REF, Thread, Watcher
from tests.support.spans import CALLER, TRACE_ID, Spans, about, trace_id
from tests.support.waiting import wait_until

Make = Callable[..., Settings]
WORDS = "a private sentence"


class Traced(Thread):
    """A turn that the test runs, in the caller's trace."""

    def __init__(self, backplane: Backplane) -> None:
        self.spans = Spans()
        backplane.traces = self.spans.traces
        super().__init__(backplane)

    async def start(self) -> None:
        with within(received(CALLER)):
            await super().start()


@pytest.fixture
def redis_url(valkey: str) -> str:
    """Return the real store's."""
    return valkey


@pytest.fixture
def thread(backplane: Backplane) -> Traced:
    return Traced(backplane)


async def watched(thread: Traced) -> Watcher:
    """Start a turn that is watched from its beginning."""
    member = Watcher()
    with within(received(CALLER)):
        started = await thread.backplane.turns.start(REF, Start("q", "ann", "sid"))
    await thread.join(member)
    claim = await thread.backplane.turns.claim(thread.backplane.keys.thread(REF).member(started.request_id), "w")
    assert claim is not None
    thread.claim, thread.batch = claim, 0
    return member


async def test_a_turn_that_somebody_watches_leaves_one_span_from_its_first_event_to_its_end(thread: Traced) -> None:
    member = await watched(thread)
    for word in range(50):
        await thread.say(f"{WORDS} {word}")
    await thread.finish()
    span = await thread.spans.one("deliver")
    assert member.events[-1].name == "chat_done"
    assert trace_id(span) == TRACE_ID
    assert about(span, "threadline.request_id") == thread.claim.request_id
    assert about(span, "threadline.members") == 1
    (first,) = span.events
    assert first.name == "first_text"
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time <= first.timestamp <= span.end_time
    for name in ("threadline.first_text_late_ms", "threadline.end_late_ms"):
        late = about(span, name)
        assert isinstance(late, float)
        assert late >= 0
    assert len(thread.spans.named("deliver")) == 1
    assert WORDS not in thread.spans.text()


async def test_who_comes_in_the_middle_still_sees_the_end_of_the_trace(thread: Traced) -> None:
    await thread.start()
    await thread.say("early")
    await thread.join(Watcher())
    await thread.say("late")
    await thread.finish()
    span = await thread.spans.one("deliver")
    assert span.events == ()
    assert about(span, "threadline.first_text_late_ms") is None


async def test_a_turn_that_is_in_no_trace_leaves_no_span(thread: Traced) -> None:
    member = Watcher()
    await thread.start()
    await thread.join(member)
    await thread.backplane.redis.hdel(thread.backplane.keys.thread(REF).turn(thread.claim.request_id), "trace")
    await thread.finish()
    deliveries = thread.room._deliveries
    assert deliveries is not None
    await wait_until(lambda: bool(member.events), "the end is delivered")
    await wait_until(lambda: not deliveries._telling, "nothing is under way")
    assert thread.spans.named("deliver") == []


async def test_a_redis_that_is_away_costs_the_span_and_nothing_else(
    thread: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def away(ref: ThreadRef, request_id: str) -> str:
        asked.append(request_id)
        raise Unavailable("Redis did not answer")

    member = await watched(thread)
    monkeypatch.setattr(thread.backplane.turns, "trace", away)
    deliveries = thread.room._deliveries
    assert deliveries is not None
    await thread.finish()
    await wait_until(lambda: asked != [] and not deliveries._telling, "the span is given up")
    assert asked == [thread.claim.request_id]
    assert thread.spans.named("deliver") == []
    assert (member.events[-1].name, member.lost) == ("chat_done", [])


async def test_where_nothing_is_traced_nothing_is_followed(backplane: Backplane) -> None:
    thread = Thread(backplane)
    await thread.start()
    await thread.join(Watcher())
    assert thread.room._deliveries is None


async def test_nothing_is_kept_of_turns_that_have_ended(thread: Traced) -> None:
    for _ in range(3):
        await watched(thread)
        await thread.say("a")
        await thread.finish()
    await wait_until(lambda: len(thread.spans.named("deliver")) == 3, "three spans")
    deliveries = thread.room._deliveries
    assert deliveries is not None
    assert (deliveries._turns, deliveries._silent) == ({}, set())


async def test_each_node_with_a_watcher_tells_of_its_own_delivery(gateway_settings: Make, clients: Clients) -> None:
    spans, ref = Spans(), thread_ref("t")
    async with (
        serving(gateway_settings(), spans.traces) as one,
        serving(gateway_settings(), spans.traces) as other,
    ):
        first, second = await clients.connect(one.url), await clients.connect(other.url)
        started = await first.call("chat:start", thread_id="t", message="go", traceparent=CALLER)
        await second.call("thread:subscribe", thread_id="t")
        cancelled = await first.call("chat:cancel", thread_id="t")
        assert cancelled["request_id"] == started["request_id"]
        await wait_until(lambda: len(spans.named("deliver")) == 2, "both nodes have delivered the end")
        nodes = {about(span, "threadline.node_id") for span in spans.named("deliver")}
        assert nodes == {one.backplane.settings.node_id, other.backplane.settings.node_id}
        assert ref.thread_id == about(spans.named("deliver")[0], "threadline.thread_id")
    assert {trace_id(span) for span in spans.named("deliver")} == {TRACE_ID}
