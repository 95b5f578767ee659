import math

import pytest

from scripts.endurance.flat import growth, judge


def test_what_happens_while_a_process_gets_warm_does_not_count() -> None:
    points = [(float(at), min(at, 30) * 10.0) for at in range(91)]
    assert growth(points) == pytest.approx(0.0)


def test_a_leak_is_told_by_how_much_it_took() -> None:
    points = [(float(at), 1000.0 + 2 * at) for at in range(91)]
    assert growth(points) == pytest.approx(120.0)


def test_noise_around_a_level_is_flat() -> None:
    points = [(float(at), 1000.0 + (at % 7) * 5) for at in range(200)]
    assert judge("gateway-0", "memory", points, least=1.0).flat


def test_a_process_that_grows_by_more_than_a_twentieth_is_not_flat() -> None:
    assert not judge("worker-0", "memory", [(float(at), 1000.0 + at) for at in range(301)], least=1.0).flat
    assert judge("worker-0", "memory", [(float(at), 1000.0 + at / 10) for at in range(301)], least=1.0).flat


def test_a_small_number_may_grow_by_a_few() -> None:
    points = [(float(at), 20.0 + at // 100) for at in range(301)]
    assert not judge("gateway-0", "files", points, least=1.0).flat
    assert judge("gateway-0", "files", points, least=8.0).flat


def test_too_few_samples_show_nothing() -> None:
    assert math.isnan(growth([(0.0, 1.0), (1.0, 1.0)]))
    assert not judge("gateway-0", "memory", [], least=1.0).flat
