"""What a provider says about when to come back, and the words for each type."""

from __future__ import annotations

import pytest

from worker.agents.provider_errors import MAX_RETRY_AFTER_MS, WORDS, provider_error, retry_after_ms

NOW = 1_772_366_400.0  # 2026-03-01 12:00:00 UTC


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3000),
        ({"retry-after": "0.5"}, 500),
        ({"retry-after-ms": "1200.2", "retry-after": "9"}, 1201),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9000),
        ({"retry-after": "Sun, 01 Mar 2026 12:00:05 GMT"}, 5000),
        ({"retry-after": "Sun, 01 Mar 2026 11:00:00 GMT"}, 0),
        ({"retry-after": "99999999999"}, MAX_RETRY_AFTER_MS),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "tomorrow"}, None),
    ],
)
def test_when_to_come_back_is_read_from_the_headers(headers: dict[str, str], wait: int | None) -> None:
    assert retry_after_ms(headers, NOW) == wait


@pytest.mark.parametrize("error_type", WORDS)
def test_only_what_may_succeed_later_says_when(error_type: str) -> None:
    error = provider_error(error_type, 500)
    assert error.retry_after_ms == (500 if error.retryable else None)
    assert error.source == "provider"
