"""What may go wrong with a model provider: stable types, and our own words for the person who waits.

The provider's text is never passed on: it may hold keys, addresses, prompts, or markup.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from types import MappingProxyType

from worker.turn import AgentError

MAX_RETRY_AFTER_MS = 24 * 3600 * 1000
"""A provider that says "come back next year" is taken to mean a day."""

WORDS: Mapping[str, tuple[str, bool]] = MappingProxyType(
    {
        # error_type: (words for the person, whether the same message may succeed later)
        "auth": ("The model provider refused this worker's key. The operator must check it.", False),
        "content_filter": ("The model provider's content filter stopped this. Put it in other words.", False),
        "context_length": (
            "The conversation is longer than the model can read. Start a new thread or send less.",
            False,
        ),
        "invalid_request": (
            "The model provider did not accept the request. Try another model or message.",
            False,
        ),
        "invalid_response": ("The model answered in a form that cannot be used. Put it in other words.", False),
        "max_iterations": (
            "The model wanted more rounds than it may have. Ask for less at once.",
            False,
        ),
        "model_not_found": (
            "The model provider has no such model. Name another, or the operator checks which one is set.",
            False,
        ),
        "provider_timeout": ("The model provider took too long to answer. Try again.", True),
        "provider_unavailable": ("The model provider cannot answer at the moment. Try again soon.", True),
        "quota_exceeded": ("The account at the model provider has no quota left. The operator must add some.", False),
        "rate_limited": ("The model provider is receiving too many requests. Try again soon.", True),
    }
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


_BY_STATUS = MappingProxyType(
    {
        401: "auth",
        403: "auth",
        404: "model_not_found",
        408: "provider_timeout",
        429: "rate_limited",
        504: "provider_timeout",
    }
)


def meant_by_status(error: Exception) -> AgentError | None:
    """Return what an error of any provider's SDK means, by its HTTP status; None when it is no such error.

    The SDKs of OpenAI, Anthropic and those made like them give their errors a `status_code` and the `response`; an
    endpoint that was not reached is an `APIConnectionError`, a silent one an `APITimeoutError`.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if "APITimeoutError" in names:
        return provider_error("provider_timeout")
    if "APIConnectionError" in names:
        return provider_error("provider_unavailable")
    status, response = getattr(error, "status_code", None), getattr(error, "response", None)
    if not isinstance(status, int) or response is None:
        return None
    error_type = _BY_STATUS.get(status, "provider_unavailable" if status >= 500 else "invalid_request")
    return provider_error(error_type, retry_after_ms(getattr(response, "headers", {})))
