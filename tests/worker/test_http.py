"""What a worker answers by HTTP: its metrics, and whether its event loop goes on."""

from __future__ import annotations

import socket

import httpx
import pytest

from backplane.embedded import free_port
from backplane.errors import Misconfigured
from backplane.settings import Settings
from worker.http import serving
from worker.metrics import Metrics


def well() -> None:
    """Have nothing to complain of."""


def get(port: int, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False)


def test_the_metrics_are_served_on_a_port_of_their_own() -> None:
    port, metrics = free_port(), Metrics()
    metrics.slots.set(7)
    with serving(metrics, well, Settings(metrics_port=port)):
        text = get(port, "/metrics").text
    assert "threadline_slots 7.0" in text
    with pytest.raises(httpx.HTTPError):
        get(port, "/metrics")


def test_it_is_healthy_until_there_is_trouble_and_then_says_which() -> None:
    port, troubles = free_port(), [None, "the event loop has been blocked for 3.0 s at agent.py:7"]
    with serving(Metrics(), lambda: troubles.pop(0), Settings(metrics_port=port)):
        healthy, blocked = get(port, "/healthz"), get(port, "/healthz")
    assert (healthy.status_code, healthy.text) == (200, "ok\n")
    assert (blocked.status_code, blocked.text) == (503, "the event loop has been blocked for 3.0 s at agent.py:7\n")


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_an_ipv6_address_may_be_listened_on() -> None:
    port = free_port()
    with serving(Metrics(), well, Settings(metrics_port=port, host="::1")):
        assert httpx.get(f"http://[::1]:{port}/healthz", trust_env=False).text == "ok\n"


def test_without_a_port_nothing_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.http.make_server", None)
    with serving(Metrics(), well, Settings()):
        pass


def test_a_port_that_is_taken_stops_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Misconfigured, match=f"got {port}"), serving(Metrics(), well, Settings(metrics_port=port)):
            pass
