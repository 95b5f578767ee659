"""One socket may call often, but not for ever."""

from __future__ import annotations

import pytest

from backplane.errors import RateLimited
from backplane.settings import Settings
from gateway.limits import Bucket


class Clock:
    """Seconds that move when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_and_the_next_call_is_told_when_to_come_back() -> None:
    bucket = Bucket(rate=20, burst=3, clock=Clock())
    for _ in range(3):
        bucket.take()
    with pytest.raises(RateLimited) as caught:
        bucket.take()
    assert caught.value.details == {"retry_after_ms": 50}
    assert caught.value.as_dict()["retryable"] is True


def test_a_call_made_when_it_was_told_to_passes() -> None:
    clock = Clock()
    bucket = Bucket(rate=20, burst=1, clock=clock)
    bucket.take()
    with pytest.raises(RateLimited) as caught:
        bucket.take()
    clock.now += caught.value.details["retry_after_ms"] / 1000
    bucket.take()


def test_over_a_long_time_only_the_rate_passes() -> None:
    clock = Clock()
    bucket = Bucket(rate=10, burst=5, clock=clock)
    passed = 0
    for _ in range(100):  # one hundred calls a second, for ten seconds
        for _ in range(10):
            try:
                bucket.take()
            except RateLimited:
                continue
            passed += 1
        clock.now += 0.1
    assert 100 <= passed <= 106


def test_a_long_pause_does_not_save_up_more_than_a_burst() -> None:
    clock = Clock()
    bucket = Bucket(rate=10, burst=2, clock=clock)
    clock.now += 3600
    bucket.take()
    bucket.take()
    with pytest.raises(RateLimited):
        bucket.take()


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    clock = Clock()
    bucket = Bucket(rate=10, burst=1, clock=clock)
    bucket.take()
    clock.now -= 100
    with pytest.raises(RateLimited):
        bucket.take()


def test_the_settings_name_the_rate_and_the_burst() -> None:
    bucket = Bucket.of(Settings(calls_per_second=2, calls_burst=1), Clock())
    bucket.take()
    with pytest.raises(RateLimited) as caught:
        bucket.take()
    assert caught.value.details == {"retry_after_ms": 500}
