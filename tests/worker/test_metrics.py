"""A worker's metrics by HTTP."""

from __future__ import annotations

import socket

import httpx
import pytest

from backplane.embedded import free_port
from backplane.errors import Misconfigured
from backplane.settings import Settings
from worker.metrics import Metrics, serving


def test_they_are_served_on_a_port_of_their_own() -> None:
    port, metrics = free_port(), Metrics()
    metrics.slots.set(7)
    with serving(metrics, Settings(metrics_port=port)):
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    assert "threadline_slots 7.0" in text
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False)


def test_without_a_port_nothing_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.metrics.start_http_server", None)
    with serving(Metrics(), Settings()):
        pass


def test_a_port_that_is_taken_stops_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Misconfigured, match=f"got {port}"), serving(Metrics(), Settings(metrics_port=port)):
            pass
