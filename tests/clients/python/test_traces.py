"""The client says which trace its calls belong to: the one that it is given, or the program's own."""

from __future__ import annotations

from opentelemetry.sdk.trace import TracerProvider

from tests.clients.python.scripted_gateway import gateways
from tests.support.spans import CALLER
from threadline_client import connect
from threadline_client.traces import trace_fields


def test_a_trace_that_is_given_counts() -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    with tracer.start_as_current_span("program"):
        assert trace_fields(CALLER, "a=1") == {"traceparent": CALLER, "tracestate": "a=1"}
        assert trace_fields(CALLER) == {"traceparent": CALLER, "tracestate": None}


def test_without_one_that_of_the_current_span_counts() -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    with tracer.start_as_current_span("program") as span:
        made = span.get_span_context()
        fields = trace_fields()
    assert str(fields["traceparent"]).split("-")[1:3] == [f"{made.trace_id:032x}", f"{made.span_id:016x}"]
    assert trace_fields() == {}


async def test_a_message_and_a_cancel_carry_it() -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    async with gateways(1) as (deployment, (gateway,)), connect(gateway.url) as client:
        thread = client.thread("tea")
        await thread.send("one", traceparent=CALLER, tracestate="a=1")
        await thread.send("two")
        with tracer.start_as_current_span("program") as span:
            turn = await thread.send("three")
            await turn.cancel()
    own = f"{span.get_span_context().trace_id:032x}"
    one, two, three = deployment.starts
    assert (one["traceparent"], one["tracestate"]) == (CALLER, "a=1")
    assert "traceparent" not in two
    assert own in three["traceparent"]
    assert own in deployment.cancels[0]["traceparent"]
