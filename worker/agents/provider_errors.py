"""What may go wrong with a model provider: stable types, and our own words for the person who waits.

The provider's text is never passed on: it may hold keys, addresses, prompts, or markup.
"""

from __future__ import annotations

import math
import re
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
        402: "quota_exceeded",  # DeepSeek, OpenRouter: no balance
        403: "auth",
        404: "model_not_found",
        408: "provider_timeout",
        409: "provider_unavailable",
        429: "rate_limited",
        504: "provider_timeout",
    }
)
_PLAIN = frozenset({401, 402, 403, 408, 504})
"""The statuses that leave nothing to be read from words."""
_BY_WORD = (
    (re.compile(r"insufficient_quota|billing_hard_limit", re.IGNORECASE), "quota_exceeded"),
    (re.compile(r"rate[_ ]limit|too many requests", re.IGNORECASE), "rate_limited"),
    (re.compile(r"context[ _](?:length|window|size)|prompt is too long", re.IGNORECASE), "context_length"),
    (re.compile(r"content_filter|content_policy|policy_violation|responsible_?ai", re.IGNORECASE), "content_filter"),
    (re.compile(r"invalid_api_key|api key not valid|authentication_error|permission_denied", re.IGNORECASE), "auth"),
    (re.compile(r"model_not_found", re.IGNORECASE), "model_not_found"),
)
_STATUS = re.compile(r"[45]\d\d", re.ASCII)


def type_by_status(status: int, code: str = "", kind: str = "", message: str = "") -> str:
    """Return the type of a response's status; the provider's code, type and message tell apart what shares one."""
    if status in _PLAIN:
        return _BY_STATUS[status]
    words = _read(code, kind, message)
    if status == 429:
        return "quota_exceeded" if words == "quota_exceeded" else "rate_limited"
    if status >= 500:
        return "provider_unavailable"
    return words or _BY_STATUS.get(status, "invalid_request")


def type_by_words(code: str = "", kind: str = "", message: str = "") -> str:
    """Return the type of a failure that was told inside of a stream, where a status may stand as the code."""
    if _STATUS.fullmatch(code):
        return type_by_status(int(code), "", kind, message)
    return _read(code, kind, message) or "provider_unavailable"


def _read(code: str, kind: str, message: str) -> str | None:
    # compatible endpoints fill in only some of the three; the message may quote anything, so it comes last
    for words in (f"{code} {kind}", message):
        for pattern, error_type in _BY_WORD:
            if pattern.search(words):
                return error_type
    return None


def meant_by_status(error: Exception) -> AgentError | None:
    """Return what an error of any provider's SDK means, by its HTTP status; None when it is no such error.

    The SDKs of OpenAI, Anthropic and those made like them give their errors a `status_code` and the `response`; an
    endpoint that was not reached is an `APIConnectionError`, a silent one an `APITimeoutError`, and what was told
    inside of a stream an `APIError`.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if "APITimeoutError" in names:
        return provider_error("provider_timeout")
    if "APIConnectionError" in names:
        return provider_error("provider_unavailable")
    words = str(getattr(error, "code", "")), str(getattr(error, "type", "")), str(error)
    status, response = getattr(error, "status_code", None), getattr(error, "response", None)
    if not isinstance(status, int) or response is None:
        return provider_error(type_by_words(*words)) if "APIError" in names else None
    return provider_error(type_by_status(status, *words), retry_after_ms(getattr(response, "headers", {})))
