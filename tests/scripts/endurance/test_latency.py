import math

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from gateway.latency import Latency
from scripts.endurance.latency import added, buckets, quantile, since


def test_the_histogram_is_found_in_what_a_gateway_tells() -> None:
    registry = CollectorRegistry()
    Latency(registry, lambda: 0.0)
    found = buckets(generate_latest(registry).decode())
    assert math.inf in found
    assert set(found.values()) == {0.0}


def test_a_quantile_lies_within_its_bucket() -> None:
    histogram = {0.01: 50.0, 0.02: 100.0, math.inf: 100.0}
    assert quantile(histogram, 0.5) == pytest.approx(0.01)
    assert quantile(histogram, 0.75) == pytest.approx(0.015)


def test_a_quantile_behind_the_last_bound_is_that_bound() -> None:
    assert quantile({0.01: 1.0, math.inf: 100.0}, 0.99) == pytest.approx(0.01)


def test_there_is_no_quantile_of_nothing() -> None:
    assert math.isnan(quantile({}, 0.99))
    assert math.isnan(quantile({0.01: 0.0, math.inf: 0.0}, 0.99))


def test_histograms_are_added_up_and_taken_off() -> None:
    both = added([{0.01: 1.0, math.inf: 2.0}, {0.01: 3.0, math.inf: 3.0}])
    assert both == {0.01: 4, math.inf: 5}
    assert since(both, {0.01: 1.0, math.inf: 2.0}) == {0.01: 3.0, math.inf: 3.0}
