"""Spans as a test sees them: what was made, what stands below what, and every text in it."""

from __future__ import annotations

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased

from backplane.traces import Traces
from tests.support.waiting import wait_until

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
"""A caller's `traceparent`: that of W3C's examples."""
TRACE_ID, CALLER_ID = CALLER.split("-")[1:3]


class Spans:
    """Makes spans and keeps those that have ended.

    Args:
        sampler: of the provider; without it, what a caller says is followed, and everything else kept.
    """

    def __init__(self, sampler: Sampler | None = None) -> None:
        self._kept = InMemorySpanExporter()
        provider = TracerProvider(sampler or ParentBased(TraceIdRatioBased(1.0)), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self.traces = Traces(provider)

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        """All that have ended, in this order."""
        return self._kept.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        """Return those of a name, in the order in which they ended."""
        return [span for span in self.all if span.name == name]

    async def one(self, name: str) -> ReadableSpan:
        """Wait for the first span of a name."""
        await wait_until(lambda: self.named(name) != [], f"a span {name}")
        return self.named(name)[0]

    def text(self) -> str:
        """Return everything that they say."""
        return "\n".join(span.to_json() for span in self.all)


def trace_id(span: ReadableSpan) -> str:
    """Return the id of the trace that a span belongs to."""
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def span_id(span: ReadableSpan) -> str:
    """Return the id of a span."""
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def above(span: ReadableSpan) -> str:
    """Return the id of the span that a span stands below; empty for the first of a trace."""
    return "" if span.parent is None else f"{span.parent.span_id:016x}"


def about(span: ReadableSpan, name: str) -> object:
    """Return an attribute of a span; None when it lacks it."""
    return (span.attributes or {}).get(name)
