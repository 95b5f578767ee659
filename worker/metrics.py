"""What a worker counts, for Prometheus. Each worker has a registry of its own, so that two can share a process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from backplane.watchdog import LAGS

_WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_DURATIONS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)


class Metrics:
    """The metrics of one worker."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # a process is one core: how much of it is used says when there must be more
        ProcessCollector(namespace="threadline", registry=self.registry)
        self.slots = Gauge("threadline_slots", "Turns that this worker runs at once at most.", registry=self.registry)
        self.running = Gauge("threadline_turns_running", "Turns that this worker runs now.", registry=self.registry)
        self.ended = Counter(
            "threadline_turns_ended",
            "Turns that ended here: done, failed, cancelled, fenced, handed_back, parked, crashed.",
            ["outcome"],
            registry=self.registry,
        )
        self.takeovers = Counter(
            "threadline_turn_takeovers", "Turns that an earlier attempt had begun.", registry=self.registry
        )
        self.lapsed = Counter(
            "threadline_leases_lapsed",
            "Turns whose worker was lost, as this process' recoverer found.",
            registry=self.registry,
        )
        self.wait = Histogram(
            "threadline_turn_wait_seconds",
            "From the entry of a turn's message into the session to its first claim.",
            buckets=_WAITS,
            registry=self.registry,
        )
        self.duration = Histogram(
            "threadline_turn_seconds",
            "How long a turn was in a slot of this worker.",
            buckets=_DURATIONS,
            registry=self.registry,
        )

        self.loop_lag = Histogram(
            "threadline_loop_lag_seconds",
            "How late the event loop came to its beat, twice a second.",
            buckets=LAGS,
            registry=self.registry,
        )

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)
