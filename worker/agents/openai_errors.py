"""What a model provider's failure means for the person who waits: stable types, our own words.

The provider's text is read to tell the cases apart and is never passed on: it may hold keys, addresses,
prompts, or markup. The original error stays the `__cause__`, for the operator's log.

Source: https://platform.openai.com/docs/guides/error-codes
"""

from __future__ import annotations

import openai

from worker.agents.provider_errors import provider_error, retry_after_ms, type_by_status, type_by_words
from worker.turn import AgentError


def as_agent_error(error: openai.OpenAIError) -> AgentError:
    """Return what an error of the SDK means, without any of its text."""
    if isinstance(error, openai.APIStatusError):
        error_type = type_by_status(error.status_code, *_words(error))
        return provider_error(error_type, retry_after_ms(error.response.headers))
    if isinstance(error, openai.APITimeoutError):
        return provider_error("provider_timeout")
    if isinstance(error, openai.APIError) and not isinstance(error, openai.APIConnectionError):
        return provider_error(type_by_words(*_words(error)))  # told inside the stream
    return provider_error("provider_unavailable")


def _words(error: openai.APIError) -> tuple[str, str, str]:
    return str(error.code), str(error.type), error.message
