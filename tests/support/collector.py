"""A collector of traces: takes what OTLP exporters post over HTTP, and keeps it."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

Value = str | int | float | bool


@dataclass(frozen=True)
class Collected:
    """A span as it came."""

    service: str
    instance: str
    name: str
    trace_id: str
    span_id: str
    above: str
    """The id of the span that it stands below; empty for the first of a trace."""
    about: dict[str, Value]
    """Its attributes."""


@dataclass
class Collector:
    """What has come so far."""

    url: str
    spans: list[Collected] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def named(self, name: str, **about: Value) -> list[Collected]:
        """Return the spans of a name; keyword arguments are attributes of ours that they have to have."""
        wanted = {f"threadline.{key}": value for key, value in about.items()}
        return [span for span in self.spans if span.name == name and wanted.items() <= span.about.items()]

    def take(self, body: bytes) -> None:
        """Keep what an exporter has posted."""
        self.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            of = _about(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [
                    Collected(
                        str(of["service.name"]),
                        str(of["service.instance.id"]),
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        _about(span.attributes),
                    )
                    for span in scope.spans
                ]


def _about(pairs: object) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for pair in pairs:  # type: ignore[attr-defined]  # a repeated field, whose class protobuf does not show
        assert isinstance(pair, KeyValue)
        kind = pair.value.WhichOneof("value")
        found[pair.key] = getattr(pair.value, kind) if kind else ""
    return found


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a free port for the length of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.take(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # named by the library
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
