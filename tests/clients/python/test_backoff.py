"""When the client tries again."""

from __future__ import annotations

from threadline_client.backoff import LONGEST, Backoff


def test_the_first_retry_is_at_once_and_the_ceiling_doubles() -> None:
    backoff = Backoff(chance=lambda: 1.0)
    assert [backoff.delay() for _ in range(5)] == [0.0, 0.1, 0.2, 0.4, 0.8]


def test_the_ceiling_has_a_ceiling() -> None:
    backoff = Backoff(chance=lambda: 1.0)
    assert max(backoff.delay() for _ in range(100)) == LONGEST


def test_jitter_spreads_but_never_to_nothing() -> None:
    lowest = Backoff(at_once=False, chance=lambda: 0.0)
    assert [lowest.delay() for _ in range(3)] == [0.025, 0.05, 0.1]


def test_success_begins_anew() -> None:
    backoff = Backoff(chance=lambda: 1.0)
    for _ in range(5):
        backoff.delay()
    backoff.reset()
    assert backoff.delay() == 0.0
