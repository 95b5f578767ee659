"""Calls go on in their caller's trace, by whichever wire they came, and say nothing of what was said."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from opentelemetry.trace import SpanKind

from backplane.ids import ThreadRef, thread_ref
from backplane.settings import Settings
from gateway.auth import mint
from gateway.payloads import VERBS, Act
from tests.gateway.conftest import Clients, RunningGateway, serving, working
from tests.support.spans import CALLER, CALLER_ID, TRACE_ID, Spans, about, above, span_id, trace_id
from tests.support.waiting import wait_until
from worker.turn import Turn

Make = Callable[..., Settings]
SECRET = "a secret of at least thirty-two bytes, for tests"
WORDS, SUBJECT, TENANT = "a private sentence", "ada-lovelace", "acme"
HEADER = {"traceparent": CALLER}
OTHER = CALLER.replace(TRACE_ID, "1" * 32)


async def asking(turn: Turn) -> AsyncIterator[str]:
    yield str(await turn.ask(WORDS))


async def carried(node: RunningGateway, ack: dict[str, Any], ref: ThreadRef | None = None) -> str | None:
    """Return the trace context that a turn has in Redis."""
    key = node.backplane.keys.thread(ref or thread_ref("t")).turn(ack["request_id"])
    found: Any = await node.backplane.redis.hget(key, "trace")
    return None if found is None else found.decode()


async def test_a_start_on_a_socket_goes_on_in_the_trace_that_it_names(gateway_settings: Make, clients: Clients) -> None:
    spans = Spans()
    async with serving(gateway_settings(), spans.traces) as node:
        client = await clients.connect(node.url)
        started = await client.call("chat:start", thread_id="t", message=WORDS, traceparent=CALLER, tracestate="rojo=1")
        sent, call = spans.all
        assert (call.name, call.kind, above(call)) == ("chat:start", SpanKind.SERVER, CALLER_ID)
        assert (sent.name, sent.kind, above(sent)) == ("send turns", SpanKind.PRODUCER, span_id(call))
        assert await carried(node, started) == f"00-{TRACE_ID}-{span_id(sent)}-01 rojo=1"
    for span in (call, sent):
        assert trace_id(span) == TRACE_ID
        assert about(span, "threadline.thread_id") == "t"
        assert about(span, "threadline.request_id") == started["request_id"]
        assert about(span, "threadline.state") == "accepted"


async def test_what_begins_ends_or_decides_a_turn_is_traced_and_takes_a_context(
    gateway_settings: Make, clients: Clients
) -> None:
    spans = Spans()
    made = gateway_settings()
    async with serving(made, spans.traces) as node, working(made, asking):
        client = await clients.connect(node.url)
        await client.call("chat:start", thread_id="t", message="go", traceparent=CALLER)
        await client.call("thread:edit", thread_id="t", message="no, this", traceparent=CALLER)
        await client.call("thread:history", thread_id="t", traceparent=CALLER)
        await client.call("thread:subscribe", thread_id="t", traceparent=CALLER)
        await wait_until(lambda: client.named("approval_request") != [], "the agent asks")
        question = client.named("approval_request")[-1]["approval_id"]
        await client.call("approval:decide", thread_id="t", approval_id=question, decision="yes", traceparent=CALLER)
        await client.call("chat:cancel", thread_id="t", traceparent=CALLER)
    calls = [span for span in spans.all if span.kind is SpanKind.SERVER]
    assert [span.name for span in calls] == ["chat:start", "thread:edit", "approval:decide", "chat:cancel"]
    assert {trace_id(span) for span in calls} == {TRACE_ID}
    assert {verb for verb, model in VERBS.items() if issubclass(model, Act)} == {span.name for span in calls}


async def test_http_takes_the_context_from_the_header_and_only_without_one_from_the_body(
    gateway_settings: Make,
) -> None:
    spans = Spans()
    async with serving(gateway_settings(), spans.traces) as node, httpx.AsyncClient(base_url=node.url) as http:
        for headers, body in ((HEADER, OTHER), ({}, CALLER), ({"traceparent": "garbage"}, CALLER)):
            asked = {"message": "go", "traceparent": body}
            answer = await http.post("/v1/threads/t/turns", json=asked, headers=headers)
            assert answer.status_code == 202
        states = [*HEADER.items(), ("tracestate", "a=1"), ("tracestate", "b=2")]
        answer = await http.post("/v1/threads/t/turns", json={"message": "go"}, headers=states)
        assert str(await carried(node, answer.json())).endswith(" a=1,b=2")
        await http.post("/v1/threads/t/cancel", json={}, headers=HEADER)
    assert [trace_id(span) for span in spans.all] == [TRACE_ID] * len(spans.all)
    assert len(spans.named("chat:start")) == 4
    assert len(spans.named("chat:cancel")) == 1


async def test_a_dialect_goes_on_in_the_trace_of_its_header_too(gateway_settings: Make) -> None:
    spans, made = Spans(), gateway_settings()

    async def silent(turn: Turn) -> AsyncIterator[str]:
        yield "."

    body = {"threadId": "t", "runId": "r1", "messages": [{"id": "1", "role": "user", "content": WORDS}]}
    async with (
        serving(made, spans.traces) as node,
        working(made, silent),
        httpx.AsyncClient(base_url=node.url) as http,
    ):
        assert (await http.post("/v1/agui", json=body, headers=HEADER)).status_code == 200
    assert [trace_id(span) for span in spans.named("chat:start")] == [TRACE_ID]


@pytest.mark.parametrize("given", ["garbage", 7, None, {"a": 1}, f"{CALLER}-more", "x" * 100_000])
async def test_a_malformed_context_refuses_nobody(gateway_settings: Make, clients: Clients, given: object) -> None:
    spans = Spans()
    async with serving(gateway_settings(), spans.traces) as node:
        client = await clients.connect(node.url)
        ack = await client.call("chat:start", thread_id="t", message="go", traceparent=given, tracestate=given)
    assert ack["ok"] is True
    (call,) = spans.named("chat:start")
    assert above(call) == ""


async def test_a_followup_goes_on_in_the_trace_of_its_own_start(gateway_settings: Make, clients: Clients) -> None:
    spans = Spans()
    async with serving(gateway_settings(), spans.traces) as node:
        client = await clients.connect(node.url)
        first = await client.call("chat:start", thread_id="t", message="go", traceparent=CALLER)
        second = await client.call("chat:start", thread_id="t", message="on", queue_mode="followup", traceparent=OTHER)
        assert str(await carried(node, first)).startswith(CALLER[:36])
        assert str(await carried(node, second)).startswith(OTHER[:36])
    assert about(spans.named("chat:start")[1], "threadline.state") == "queued"


async def test_a_message_that_is_sent_again_stays_in_the_trace_of_the_first_time(
    gateway_settings: Make, clients: Clients
) -> None:
    spans = Spans()
    async with serving(gateway_settings(), spans.traces) as node:
        client = await clients.connect(node.url)
        asked = {"thread_id": "t", "message": "go", "client_message_id": "m"}
        first = await client.call("chat:start", **asked, traceparent=CALLER)
        again = await client.call("chat:start", **asked, traceparent=OTHER)
        assert again["request_id"] == first["request_id"]
        assert str(await carried(node, first)).startswith(CALLER[:36])
    assert [about(span, "messaging.message.id") for span in spans.named("send turns")] == [first["request_id"]] * 2


async def test_a_refusal_is_told_by_its_code_and_is_no_failure_of_the_node(
    gateway_settings: Make, clients: Clients
) -> None:
    spans = Spans()
    async with serving(gateway_settings(), spans.traces) as node:
        client = await clients.connect(node.url)
        await client.call("chat:cancel", thread_id="none")
    (call,) = spans.all
    assert about(call, "error.type") == "not_found"
    assert call.status.is_ok


async def test_no_span_says_what_was_said_or_by_whom(gateway_settings: Make, clients: Clients) -> None:
    spans, made = Spans(), gateway_settings(jwt_secret=SECRET)
    token = mint(SECRET, SUBJECT, 60, TENANT, settings=made)
    async with serving(made, spans.traces) as node, working(made, asking, spans.traces):
        client = await clients.connect(node.url, token)
        metadata = {"note": f"metadata {WORDS}"}
        await client.call("chat:start", thread_id="t", message=WORDS, metadata=metadata)
        await wait_until(lambda: client.named("approval_request") != [], "the agent asks")
        question = client.named("approval_request")[-1]["approval_id"]
        await client.call("approval:decide", thread_id="t", approval_id=question, decision=f"decided {WORDS}")
        await wait_until(lambda: client.named("chat_done") != [], "the turn ends")
        async with httpx.AsyncClient(base_url=node.url, headers={"Authorization": f"Bearer {token}"}) as http:
            await http.post("/v1/threads/t/edit", json={"message": WORDS})
        await spans.one("process turns")
    said = spans.text()
    assert TENANT in said
    for private in (WORDS, SUBJECT, token, "127.0.0.1"):
        assert private not in said


async def test_without_traces_a_turn_carries_nothing_but_what_its_client_sent(
    gateway_settings: Make, clients: Clients
) -> None:
    async with serving(gateway_settings()) as node:
        client = await clients.connect(node.url)
        assert await carried(node, await client.call("chat:start", thread_id="t", message="go")) is None
        ack = await client.call("chat:start", thread_id="t", message="go", traceparent=CALLER)
        assert await carried(node, ack) == CALLER
