"""Calls as spans: one for each that begins, ends or decides a turn, whichever wire it came by.

What only looks is not traced: when a node is lost, hundreds subscribe again within a second.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import structlog
from opentelemetry.trace import SpanKind
from starlette.datastructures import Headers

from backplane.ids import ThreadRef
from backplane.traces import REQUEST, STATE, Traces, has_current, of_turn, received, within
from gateway.auth import Identity
from gateway.payloads import Act


class Tracing(Protocol):
    """Who has calls that are traced."""

    traces: Traces


Owner = TypeVar("Owner", bound=Tracing)
Asked = TypeVar("Asked", bound=Act)
P = ParamSpec("P")
Ack = dict[str, Any]
Verb = Callable[Concatenate[Owner, Identity, Asked, P], Awaitable[Ack]]


def traced(call: str) -> Callable[[Verb[Owner, Asked, P]], Verb[Owner, Asked, P]]:
    """Return a decorator of a verb, by which each call is a span, and its log lines name the thread."""

    def decorated(verb: Verb[Owner, Asked, P]) -> Verb[Owner, Asked, P]:
        @wraps(verb)
        async def spanned(self: Owner, identity: Identity, asked: Asked, /, *args: P.args, **kwargs: P.kwargs) -> Ack:
            about = of_turn(ThreadRef(identity.tenant, asked.thread_id))
            # a header was taken already: each hop writes it anew, and none of them changes a body
            parent = None if has_current() else received(asked.traceparent, asked.tracestate)
            with (
                structlog.contextvars.bound_contextvars(thread_id=asked.thread_id),
                self.traces.span(call, about, SpanKind.SERVER, parent) as span,
            ):
                ack = await verb(self, identity, asked, *args, **kwargs)
                for name, attribute in (("request_id", REQUEST), ("state", STATE)):
                    if value := ack.get(name):
                        span.set_attribute(attribute, value)
                return ack

        return spanned

    return decorated


def sent_with(headers: Headers) -> AbstractContextManager[None]:
    """Return a block that belongs to the trace which a request names in its headers, if it names one."""
    parent = headers.get("traceparent")
    if parent is None or has_current():
        return within(None)
    return within(received(parent, ",".join(headers.getlist("tracestate"))))
