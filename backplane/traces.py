"""Traces: a turn followed from its client through node, queue and worker, by way of OpenTelemetry.

Spans are made through OpenTelemetry's API alone, which does nothing until a program brings a provider of spans; with
the setting `traces`, `exporting` brings one. A turn carries its W3C trace context in Redis, as one line of text:
`traceparent`, and behind a space `tracestate`, if there is one (https://www.w3.org/TR/trace-context/).

What a span says: which thread, request, tenant, attempt and worker. Never what somebody said, who they are, where they
come from, or their token; and of an error its kind alone, for its message may quote any of these.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from asyncio import CancelledError
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import structlog
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.typing import EventDict, WrappedLogger

from backplane.errors import Misconfigured, ThreadlineError
from backplane.ids import ThreadRef
from backplane.settings import ENV_PREFIX, Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider as SdkProvider

Value = str | int | float | bool
THREAD, REQUEST, TENANT = "threadline.thread_id", "threadline.request_id", "threadline.tenant"
"""Attributes of spans: which thread and tenant, and which turn where that is known."""
ATTEMPT, NODE, STATE = "threadline.attempt", "threadline.node_id", "threadline.state"
ERROR_TYPE, MESSAGE = "error.type", "messaging.message.id"
MAX_HEADER = 512
"""Characters of a `traceparent` or a `tracestate` that are read: so many does W3C want kept of the second."""
FLUSH = 3.0
"""Seconds that a stopping process gives its last spans at most, so that a dead collector holds up no exit."""
_QUEUE = "turns"
_PARENT, _STATE = "traceparent", "tracestate"
_KIND = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_W3C = TraceContextTextMapPropagator()
_log = structlog.get_logger("backplane.traces")
# it quotes what clients send; a malformed tracestate is ignored, as W3C says
logging.getLogger("opentelemetry.trace.span").setLevel(logging.ERROR)


# --- the context -------------------------------------------------------------------------------------------


def received(parent: str | None, state: str | None = None) -> Context | None:
    """Return the context that somebody sent; None when it is missing or malformed, as W3C says."""
    if not parent or len(parent) > MAX_HEADER:
        return None
    fields = {_PARENT: parent}
    if state and len(state) <= MAX_HEADER:
        fields[_STATE] = state
    found = _W3C.extract(fields, Context())
    return found if found else None


def carried() -> str:
    """Return the current context as one line; empty when there is none."""
    fields: dict[str, str] = {}
    _W3C.inject(fields)
    return " ".join(fields[name] for name in (_PARENT, _STATE) if name in fields)


def restored(line: str) -> Context:
    """Return the context that a turn carries; one without a parent when it carries none."""
    parent, _, state = line.partition(" ")
    return received(parent, state) or Context()


def has_current() -> bool:
    """Tell whether what is done now is part of a trace."""
    return trace.get_current_span().get_span_context().is_valid


@contextmanager
def within(found: Context | None) -> Iterator[None]:
    """Do the block as part of a trace that somebody sent; None changes nothing."""
    if found is None:
        yield
        return
    token = context.attach(found)
    try:
        yield
    finally:
        context.detach(token)


def named_in_logs(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
    """Add `trace_id` and `span_id` to a line of the log that is written within a span."""
    current = trace.get_current_span().get_span_context()
    if current.is_valid:
        event_dict.setdefault("trace_id", trace.format_trace_id(current.trace_id))
        event_dict.setdefault("span_id", trace.format_span_id(current.span_id))
    return event_dict


# --- spans -------------------------------------------------------------------------------------------------


def of_turn(ref: ThreadRef, request_id: str = "") -> dict[str, Value]:
    """Return the attributes that say which turn a span belongs to."""
    about: dict[str, Value] = {TENANT: ref.tenant, THREAD: ref.thread_id}
    return about | ({REQUEST: request_id} if request_id else {})


def of_queue(operation: Literal["send", "receive", "process"], ref: ThreadRef, request_id: str) -> dict[str, Value]:
    """Return the attributes of an operation on the queue, by OpenTelemetry's conventions for messaging."""
    return of_turn(ref, request_id) | {
        "messaging.system": "threadline",
        "messaging.destination.name": _QUEUE,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        MESSAGE: request_id,
    }


class Traces:
    """Makes the spans of one process.

    Args:
        provider: where they go; without it to the provider of the whole program, and nowhere when it has none.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("threadline", tracer_provider=provider)
        self.on = not isinstance(self._tracer, trace.NoOpTracer | trace.ProxyTracer)
        """Whether spans go anywhere. Without, a context that came from outside is still passed on."""

    def start(
        self,
        name: str,
        about: Mapping[str, Value],
        kind: SpanKind = SpanKind.INTERNAL,
        parent: Context | None = None,
        at: int | None = None,
    ) -> Span:
        """Begin a span, now or at a time (Unix nanoseconds), which whoever called ends.

        Args:
            name: of the span; one of few.
            about: its attributes.
            kind: which side of a call or of a queue it is.
            parent: what it belongs to; None for the current one.
            at: when it began.
        """
        if not self.on:
            return trace.INVALID_SPAN
        return self._tracer.start_span(name, parent, kind, about, start_time=at)

    @contextmanager
    def span(
        self,
        name: str,
        about: Mapping[str, Value],
        kind: SpanKind = SpanKind.INTERNAL,
        parent: Context | None = None,
    ) -> Iterator[Span]:
        """Do the block within a span, the current one until then. Arguments as of `start`."""
        if not self.on:
            token = None if parent is None else context.attach(parent)
            try:
                yield trace.INVALID_SPAN
            finally:
                if token is not None:
                    context.detach(token)
            return
        with self._tracer.start_as_current_span(
            name, parent, kind, about, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except BaseException as error:
                note_error(span, error)
                raise


def note_error(span: Span, error: BaseException) -> None:
    """Write the kind of an error into a span, and mark it as failed when the fault is on our side."""
    if isinstance(error, ThreadlineError):
        kind, ours = error.code, error.http_status >= 500
    elif isinstance(error, CancelledError):
        kind, ours = "cancelled", False
    else:
        given = getattr(error, "error_type", None)  # what an agent calls its failure
        known = isinstance(given, str) and _KIND.fullmatch(given)
        kind, ours = str(given) if known else type(error).__qualname__, True
    span.set_attribute(ERROR_TYPE, kind)
    if ours:
        span.set_status(StatusCode.ERROR)


# --- the provider ------------------------------------------------------------------------------------------


@contextmanager
def exporting(settings: Settings, service: str) -> Iterator[None]:
    """Send this program's spans to a collector for the length of the block, if the setting `traces` says so.

    What is not sent at its end has `FLUSH` seconds, or `drain_grace` if that is shorter; the rest is lost.

    Args:
        settings: `traces`, `node_id` and `drain_grace` are read.
        service: the name of the service, unless `OTEL_SERVICE_NAME` gives another.

    Raises:
        Misconfigured: when the extra `otel` is not installed, or another protocol than HTTP is asked for.
    """
    if settings.traces == "off":
        yield
        return
    made = provider(settings, service)
    trace.set_tracer_provider(made)  # for the libraries too that an agent brings along
    try:
        yield
    finally:
        shut_down(made, min(FLUSH, settings.drain_grace))


def provider(settings: Settings, service: str) -> SdkProvider:
    """Return a provider that sends spans over OTLP, as the variables `OTEL_…` say.

    Arguments and errors are those of `exporting`.
    """
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if (asked := os.environ.get(name)) not in {None, "", "http/protobuf"}:
            raise Misconfigured(
                f"{name}: expected http/protobuf, got {asked!r}; send to the HTTP port of the collector, mostly 4318"
            )
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider as Provider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise Misconfigured(
            f"{ENV_PREFIX}TRACES: expected the extra `otel` to be installed for otlp, and it is not; "
            "pip install 'threadline[otel]', or set it to off"
        ) from error
    resource = Resource.create({"service.instance.id": settings.node_id})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": service}))
    # its own hook at the exit would wait for a dead collector for as long as it likes
    made = Provider(resource=resource, shutdown_on_exit=False)
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return made


def shut_down(made: SdkProvider, seconds: float) -> bool:
    """Send what is left, for so long at most. Returns whether all was tried."""
    # the library's own time limit does not reach its exporter, so it waits in a thread that no exit waits for
    closing = threading.Thread(target=made.shutdown, name="traces", daemon=True)
    closing.start()
    closing.join(seconds)
    if closing.is_alive():
        _log.warning("the last spans could not be sent in time, and are lost", seconds=seconds)
    return not closing.is_alive()
