"""How late a node is, by what it has sent."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from backplane.events import Event
from gateway.latency import BOUNDS, Latency, appended


def event(ts: object) -> Event:
    return Event(
        1,
        "text_delta",
        b'{"event":"text_delta","client_id":"\\"ts\\":1","seq":0,"ts":%s,"delta":"x"}' % str(ts).encode(),
    )


@pytest.fixture
def latency() -> Latency:
    return Latency(CollectorRegistry(), lambda: 1_790_000_000.0)


def test_the_time_of_an_event_is_read_without_decoding_it() -> None:
    assert appended(event(1_790_000_000_123)) == 1_790_000_000.123


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"ts":"no"}', b'{"ts":12}'])
def test_an_event_without_a_time_is_not_counted(latency: Latency, raw: bytes) -> None:
    latency.sent(Event(1, "text_delta", raw))
    assert latency.take()["events"] == 0


def test_half_of_the_events_are_below_the_median_and_almost_all_below_the_p99(latency: Latency) -> None:
    for late in [4] * 98 + [80, 80]:
        latency.sent(event(1_790_000_000_000 - late))
    taken = latency.take()
    assert taken["events"] == 100
    assert 0.003 < taken["p50"] <= 0.005
    assert 0.05 < taken["p99"] <= 0.1


def test_each_report_begins_anew(latency: Latency) -> None:
    latency.sent(event(1_790_000_000_000))
    latency.take()
    assert latency.take() == {"events": 0, "p50": 0.0, "p99": 0.0}


def test_a_clock_that_is_behind_gives_no_negative_time_and_an_outage_no_endless_one(latency: Latency) -> None:
    latency.sent(event(1_790_000_009_000))
    latency.sent(event(1_780_000_000_000))
    taken = latency.take()
    assert 0 <= taken["p50"] <= BOUNDS[0]
    assert taken["p99"] == BOUNDS[-1]
