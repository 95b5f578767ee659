"""What a model provider's failure means for the person who waits: stable types, our own words.

The provider's text is read to tell the cases apart and is never passed on: it may hold keys, addresses,
prompts, or markup. The original error stays the `__cause__`, for the operator's log.

Source: https://platform.openai.com/docs/guides/error-codes
"""

from __future__ import annotations

import re
from types import MappingProxyType

import openai

from worker.agents.provider_errors import provider_error, retry_after_ms
from worker.turn import AgentError

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
