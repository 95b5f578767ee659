"""What a node counts, for Prometheus. Each application has a registry of its own, so that two can share a process."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from backplane.watchdog import LAGS
from gateway.latency import Latency

GONE = "gone"
"""The code of a call that was not begun, for its client had left before its body was whole, or before its turn came."""


class Metrics:
    """The metrics of one node.

    Args:
        now: what Redis' clock says, in Unix seconds.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.registry = CollectorRegistry()
        # a process is one core: how much of it is used says when there must be more
        ProcessCollector(namespace="threadline", registry=self.registry)
        self.latency = Latency(self.registry, now)
        self.sockets = self._gauge("sockets", "Connected sockets.")
        self.streams = self._gauge("streams", "Open streams of server-sent events.")
        self.rooms = self._gauge("rooms", "Threads that somebody on this node watches.")
        self.ready = self._gauge("ready", "1 while this node takes clients.")
        self.deaf = self._gauge("deaf", "1 while this node cannot be sure to hear what is published.")
        self.reconnects = self._gauge("live_reconnects", "How often the live connection was made again.")
        self.calls = Counter(
            "threadline_calls",
            "Calls of clients, by verb and by the code of their answer.",
            ["verb", "code"],
            registry=self.registry,
        )
        self.limited = Counter(
            "threadline_rate_limited",
            "Calls and connections that came too often, by whose limit it was: socket, user, tenant or address.",
            ["whose"],
            registry=self.registry,
        )
        self.sent = self._counter("events_sent", "Events sent to members.")
        self.replayed = self._counter("events_replayed", "Events read from the log for members that came back.")
        self.replayed_bytes = self._counter("replayed_bytes", "JSON sent to members that came back, deltas merged.")
        self.gaps_filled = self._counter("gaps_filled", "Events that did not come live and were read from the log.")
        self.live_garbage = self._counter("live_garbage", "Messages on a channel that were not ours, and ignored.")
        self.slow_clients = self._counter("slow_clients", "Members cut because they did not read; they resume.")
        self.waiting = self._gauge("turns_waiting", "Turns of the whole deployment that no worker has taken yet.")
        self.oldest = self._gauge("oldest_waiting_seconds", "For how long the one waits that waits longest.")
        self.under_way = self._gauge("turns_under_way", "Turns of the whole deployment that wait, run or ask a person.")
        self.lapsed = self._counter("leases_lapsed", "Turns whose worker was lost, as this process' recoverer found.")
        self.loop_lag = Histogram(
            "threadline_loop_lag_seconds",
            "How late the event loop came to its beat, twice a second.",
            buckets=LAGS,
            registry=self.registry,
        )

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"threadline_{name}", text, registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"threadline_{name}", text, registry=self.registry)

    def read(self, metric: Counter | Gauge) -> float:
        """Return the value of a metric without labels."""
        (family,) = metric.collect()
        return float(next(sample.value for sample in family.samples if not sample.name.endswith("_created")))

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)
