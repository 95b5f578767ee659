"""A trace goes on from whoever began it, says nothing that is private, and holds up nobody."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from backplane import traces
from backplane.errors import Misconfigured, NotFound, Unavailable
from backplane.ids import thread_ref
from backplane.settings import Settings
from backplane.traces import Traces, carried, received, restored, within
from tests.support.spans import CALLER, CALLER_ID, TRACE_ID, Spans, about, above, trace_id

SECRET = "a private sentence"
MALFORMED = [
    "", " ", "x", TRACE_ID, CALLER[:-1], f"{CALLER}x", f"ff{CALLER[2:]}", CALLER.upper(), f"{CALLER}-more",
    CALLER.replace(TRACE_ID, "0" * 32), CALLER.replace(CALLER_ID, "0" * 16), CALLER.replace("-", "_"),
    f"{CALLER}{' ' * 600}", "\ud800", "é" * 55,
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the variables of whoever runs the tests away."""
    for name in ("OTEL_SERVICE_NAME", "OTEL_SDK_DISABLED", "OTEL_TRACES_SAMPLER", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        monkeypatch.delenv(name, raising=False)


# --- the context -------------------------------------------------------------------------------------------


def test_a_context_comes_through_redis_as_it_was_sent() -> None:
    for state in (None, "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"):
        with within(received(CALLER, state)):
            line = carried()
        assert line == (CALLER if state is None else f"{CALLER} {state}")
        with within(restored(line)):
            assert carried() == line


@pytest.mark.parametrize("parent", MALFORMED)
def test_a_malformed_context_is_ignored(parent: str, caplog: pytest.LogCaptureFixture) -> None:
    """As W3C has it (section 4.3): the trace begins anew, and nobody is refused. Nor can a stranger fill the log."""
    assert received(parent) is None
    with within(received(parent)):
        assert carried() == ""
    assert caplog.records == []


@pytest.mark.parametrize("state", ["=", "a", f"a={'x' * 600}", ",,,", "\n"])
def test_a_malformed_state_is_left_out_and_the_rest_counts(state: str, caplog: pytest.LogCaptureFixture) -> None:
    with within(received(CALLER, state)):
        assert carried() == CALLER
    assert [record for record in caplog.records if record.levelname == "WARNING" and "exceeded" in record.message] == []


def test_a_turn_without_a_context_begins_a_trace_of_its_own() -> None:
    spans = Spans()
    with spans.traces.span("outer", {}), spans.traces.span("inner", {}, parent=restored("")):
        pass
    inner, outer = spans.all
    assert above(inner) == ""
    assert trace_id(inner) != trace_id(outer)


def test_lines_of_the_log_name_the_span_that_is_current() -> None:
    spans = Spans()
    assert traces.named_in_logs(None, "", {"event": "x"}) == {"event": "x"}
    with within(received(CALLER)), spans.traces.span("call", {}) as span:
        line = traces.named_in_logs(None, "", {"event": "x"})
    assert line["trace_id"] == TRACE_ID
    assert line["span_id"] == f"{span.get_span_context().span_id:016x}"


# --- spans -------------------------------------------------------------------------------------------------


class Failure(Exception):
    """An agent's error, which names its kind."""

    def __init__(self, kind: str) -> None:
        super().__init__(SECRET)
        self.error_type = kind


@pytest.mark.parametrize(
    ("error", "kind", "failed"),
    [
        (NotFound(SECRET), "not_found", False),
        (Unavailable(SECRET), "unavailable", True),
        (asyncio.CancelledError(SECRET), "cancelled", False),
        (Failure("rate_limited"), "rate_limited", True),
        (Failure(SECRET), "Failure", True),
        (ValueError(SECRET), "ValueError", True),
    ],
)
def test_of_an_error_a_span_says_the_kind_and_never_the_message(error: BaseException, kind: str, failed: bool) -> None:
    spans = Spans()
    with pytest.raises(type(error)), spans.traces.span("call", {}):
        raise error
    (span,) = spans.all
    assert about(span, "error.type") == kind
    assert span.status.is_ok is not failed
    assert SECRET not in spans.text()


def test_without_a_provider_nothing_is_made_and_a_context_is_still_passed_on() -> None:
    off = Traces()
    assert not off.on
    with within(received(CALLER)), off.span("call", {}) as span, off.span("inner", {}):
        assert not span.is_recording()
        assert carried() == CALLER
    with off.span("call", {}):
        assert carried() == ""


def test_what_a_sampler_leaves_out_is_left_out_behind_the_queue_too() -> None:
    node, worker = Spans(ALWAYS_OFF), Spans()
    with node.traces.span("call", {}):
        line = carried()
    assert int(line[-2:], 16) & 1 == 0, "the flag says that it is not sampled"
    with worker.traces.span("attempt", {}, parent=restored(line)):
        pass
    assert node.all == worker.all == ()


def test_the_attributes_of_a_turn_name_its_thread_and_nobody() -> None:
    assert traces.of_turn(thread_ref("t", "acme"), "r") == {
        "threadline.tenant": "acme",
        "threadline.thread_id": "t",
        "threadline.request_id": "r",
    }


# --- the provider ------------------------------------------------------------------------------------------


def test_traces_are_off_and_load_no_library_unless_they_are_asked_for() -> None:
    code = (
        "import sys; from backplane import traces; from backplane.settings import Settings\n"
        "with traces.exporting(Settings(), 'x'): pass\n"
        "assert not [name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_extra_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(Misconfigured, match=r"THREADLINE_TRACES: .*threadline\[otel\]"):
        traces.provider(Settings(traces="otlp"), "x")


def test_another_protocol_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(Misconfigured, match="expected http/protobuf, got 'grpc'"):
        traces.provider(Settings(traces="otlp"), "x")


@pytest.mark.parametrize(
    ("name", "value", "key", "expected"),
    [
        ("", "", "service.name", "threadline-gateway"),
        ("OTEL_SERVICE_NAME", "chat", "service.name", "chat"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=chat", "service.name", "chat"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test", "deployment.environment", "test"),
        ("", "", "service.instance.id", "node-1"),
    ],
)
def test_the_service_has_a_name_that_the_usual_variables_change(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, key: str, expected: str
) -> None:
    if name:
        monkeypatch.setenv(name, value)
    made = traces.provider(Settings(traces="otlp", node_id="node-1"), "threadline-gateway")
    assert made.resource.attributes[key] == expected
    made.shutdown()


@pytest.mark.parametrize(("name", "value"), [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_SAMPLER", "always_off")])
def test_the_usual_variables_switch_spans_off(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    made = traces.provider(Settings(traces="otlp"), "x")
    with Traces(made).span("call", {}) as span:
        assert not span.is_recording()
    made.shutdown()


def test_a_collector_that_hangs_holds_up_the_end_for_no_longer_than_it_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{hangs.getsockname()[1]}")
        made = traces.provider(Settings(traces="otlp"), "x")
        with Traces(made).span("call", {}):
            pass
        # the library itself would wait for ten seconds, and then again
        assert traces.shut_down(made, 0.05) is False


def test_an_end_with_nothing_to_send_waits_for_nobody() -> None:
    assert traces.shut_down(traces.provider(Settings(traces="otlp"), "x"), 10.0) is True


def test_the_provider_of_a_block_is_shut_down_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    shut_down = traces.shut_down
    monkeypatch.setattr(trace, "set_tracer_provider", given.append)

    def noted(made: Any, seconds: float) -> bool:
        given.extend((made, seconds))
        return shut_down(made, seconds)

    monkeypatch.setattr(traces, "shut_down", noted)
    with traces.exporting(Settings(traces="otlp", drain_grace=0.5), "x"):
        (made,) = given
        assert Traces(made).on
    assert given == [made, made, 0.5]
