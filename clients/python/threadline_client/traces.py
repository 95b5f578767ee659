"""The trace that a call belongs to, by W3C Trace Context: the one that is given, or the one that the program is in."""

from __future__ import annotations

from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_W3C = TraceContextTextMapPropagator()


def trace_fields(traceparent: str | None = None, tracestate: str | None = None) -> dict[str, str | None]:
    """Return the fields of a call that name its trace; empty when there is none.

    Args:
        traceparent: as somebody else handed it over; without it, that of OpenTelemetry's current span counts.
        tracestate: belongs to `traceparent`.
    """
    if traceparent is not None:
        return {"traceparent": traceparent, "tracestate": tracestate}
    found: dict[str, str | None] = {}
    _W3C.inject(found)
    return found
