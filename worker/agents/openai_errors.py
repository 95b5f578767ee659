"""What a model provider's failure means for the person who waits: stable types, our own words.

The provider's text is read to tell the cases apart and is never passed on: it may hold keys, addresses,
prompts, or markup. The original error stays the `__cause__`, for the operator's log.

Source: https://platform.openai.com/docs/guides/error-codes
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from types import MappingProxyType

import openai

from worker.turn import AgentError

MAX_RETRY_AFTER_MS = 24 * 3600 * 1000
"""A provider that says "come back next year" is taken to mean a day."""

WORDS: Mapping[str, tuple[str, bool]] = MappingProxyType(
    {
        # error_type: (words for the person, whether the same message may succeed later)
        "auth": ("The model provider refused this worker's key. The operator must check OPENAI_API_KEY.", False),
        "content_filter": ("The model provider's content filter stopped this. Put it in other words.", False),
        "context_length": (
            "The conversation is longer than the model can read. Start a new thread or send less.",
            False,
        ),
        "invalid_request": (
            "The model provider did not accept the request. Try another model or message.",
            False,
        ),
        "model_not_found": (
            "The model provider has no such model. Name another, or the operator checks OPENAI_MODEL and "
            "OPENAI_BASE_URL.",
            False,
        ),
        "provider_timeout": ("The model provider took too long to answer. Try again.", True),
        "provider_unavailable": ("The model provider cannot answer at the moment. Try again soon.", True),
        "quota_exceeded": ("The account at the model provider has no quota left. The operator must add some.", False),
        "rate_limited": ("The model provider is receiving too many requests. Try again soon.", True),
    }
)

_BY_STATUS = MappingProxyType(
    {
        401: "auth",
        403: "auth",
        404: "model_not_found",
        408: "provider_timeout",
        409: "provider_unavailable",
        429: "rate_limited",
        504: "provider_timeout",
    }
)
# Matched with the provider's code and type first, then with its message: compatible endpoints fill in
# only some of the three.
_BY_WORD = (
    (re.compile(r"insufficient_quota|billing_hard_limit", re.IGNORECASE), "quota_exceeded"),
    (re.compile(r"rate_limit|too many requests", re.IGNORECASE), "rate_limited"),
    (re.compile(r"context[ _](?:length|window|size)|prompt is too long", re.IGNORECASE), "context_length"),
    (re.compile(r"content_filter|content_policy|responsible_?ai", re.IGNORECASE), "content_filter"),
    (re.compile(r"invalid_api_key|api key not valid|authentication_error|permission_denied", re.IGNORECASE), "auth"),
    (re.compile(r"model_not_found", re.IGNORECASE), "model_not_found"),
)


def provider_error(error_type: str, retry_after_ms: int | None = None) -> AgentError:
    """Return the error of one of the types in `WORDS`, with the provider as its source."""
    message, retryable = WORDS[error_type]
    return AgentError(
        message,
        error_type=error_type,
        source="provider",
        retryable=retryable,
        retry_after_ms=retry_after_ms if retryable else None,
    )


def as_agent_error(error: openai.OpenAIError) -> AgentError:
    """Return what an error of the SDK means, without any of its text."""
    if isinstance(error, openai.APIStatusError):
        return provider_error(_type_of_status(error), retry_after_ms(error.response.headers))
    if isinstance(error, openai.APITimeoutError):
        return provider_error("provider_timeout")
    if isinstance(error, openai.APIError) and not isinstance(error, openai.APIConnectionError):
        return provider_error(_type_of_words(error) or "provider_unavailable")  # told inside the stream
    return provider_error("provider_unavailable")


def _type_of_status(error: openai.APIStatusError) -> str:
    status = error.status_code
    if status in (401, 403, 408, 504):
        return _BY_STATUS[status]
    words = _type_of_words(error)
    if status == 429:
        return words if words == "quota_exceeded" else "rate_limited"
    if status >= 500:
        return "provider_unavailable"
    return words or _BY_STATUS.get(status, "invalid_request")


def _type_of_words(error: openai.APIError) -> str | None:
    for words in (f"{error.code} {error.type}", error.message):
        for pattern, error_type in _BY_WORD:
            if pattern.search(words):
                return error_type
    return None


def retry_after_ms(headers: Mapping[str, str], now: float | None = None) -> int | None:
    """Return when to come back, in milliseconds, from `retry-after-ms` or `retry-after`; None when unsaid.

    Args:
        headers: the response's headers.
        now: Unix time in seconds, for a `retry-after` that is a date; None reads this machine's clock.
    """
    for name, unit in (("retry-after-ms", 1), ("retry-after", 1000)):
        value = headers.get(name, "")
        try:
            wait = float(value) * unit
        except ValueError:
            continue
        if math.isfinite(wait) and wait >= 0:
            return min(math.ceil(wait), MAX_RETRY_AFTER_MS)
    try:
        date = parsedate_to_datetime(headers.get("retry-after", "")).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    wait = (date - (time.time() if now is None else now)) * 1000
    return min(max(math.ceil(wait), 0), MAX_RETRY_AFTER_MS)
