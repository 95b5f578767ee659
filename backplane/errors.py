"""Every error that a caller can meet.

    ThreadlineError
    ├── InvalidPayload          the caller's side: a field is missing, of a wrong type, or not text
    │   ├── InvalidThreadId
    │   └── TooLarge
    ├── UnknownEvent            the caller's side: no such verb
    ├── Unauthorized            the caller's side: no token, or one that is not valid
    ├── NotFound                no such thread, or another's: the two cannot be told apart
    ├── IdempotencyConflict     the same key came with another text
    ├── EditConflict            what was to be edited is no longer there, or more was said meanwhile
    ├── TurnRunning             `queue_mode: reject` met a running turn
    ├── QueueFull               the lane is at its limit
    ├── TooManyThreads          this socket watches as many threads as it may
    ├── RateLimited             too many calls; `retry_after_ms` says when to come back
    ├── Unavailable             our side: Redis did not answer; nothing was acknowledged
    ├── Misconfigured           the operator's side: a setting contradicts what is stored
    └── Internal                our side: a defect

`code` is stable and part of the protocol; `retryable` says whether the same call may succeed later.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ThreadlineError(Exception):
    """An error with a stable code. The message says what was expected, what came, and the next step."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def as_dict(self) -> dict[str, Any]:
        """Return `{code, message, retryable, …details}`, the error of an acknowledgement."""
        return {"code": self.code, "message": self.message, "retryable": self.retryable, **self.details}


class InvalidPayload(ThreadlineError):
    """A field is missing, of a wrong type, unknown, or not valid text."""

    code = "invalid_payload"
    http_status = 400


class InvalidThreadId(InvalidPayload):
    """The thread id is not 1 to 128 letters, digits, or `. _ : -`."""

    code = "invalid_thread_id"


class TooLarge(InvalidPayload):
    """A message or a frame is over its limit."""

    code = "too_large"
    http_status = 413


class UnknownEvent(ThreadlineError):
    """The client named a verb that does not exist."""

    code = "unknown_event"
    http_status = 404


class Unauthorized(ThreadlineError):
    """The token is missing, malformed, expired, or not meant for this deployment."""

    code = "unauthorized"
    http_status = 401


class NotFound(ThreadlineError):
    """The thread does not exist, or belongs to somebody else."""

    code = "not_found"
    http_status = 404


class IdempotencyConflict(ThreadlineError):
    """The idempotency key was used before, with another message."""

    code = "idempotency_conflict"
    http_status = 409


class EditConflict(ThreadlineError):
    """The message to edit is not in the conversation any more, or newer ones came than the editor knew of."""

    code = "edit_conflict"
    http_status = 409


class TurnRunning(ThreadlineError):
    """A turn runs, and the message asked to be rejected in that case."""

    code = "turn_running"
    retryable = True
    http_status = 409


class QueueFull(ThreadlineError):
    """The lane of waiting messages is at its limit."""

    code = "queue_full"
    retryable = True
    http_status = 429


class TooManyThreads(ThreadlineError):
    """A socket watches as many threads as it may."""

    code = "too_many_threads"
    http_status = 429


class RateLimited(ThreadlineError):
    """Too many calls in a short time."""

    code = "rate_limited"
    retryable = True
    http_status = 429


class Unavailable(ThreadlineError):
    """Redis did not answer in time. Nothing was acknowledged; the same call may be sent again."""

    code = "unavailable"
    retryable = True
    http_status = 503


class Misconfigured(ThreadlineError):
    """A setting contradicts another, or what Redis holds. The process must not go on."""

    code = "misconfigured"


class Internal(ThreadlineError):
    """A defect on our side. The log has the cause; the client gets only this."""

    code = "internal"
    retryable = True
