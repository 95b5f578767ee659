"""Every error that this client raises.

ClientError
├── Refused            the gateway answered with an error; `code` is the protocol's
│   ├── Unauthorized   no token, or one that is not valid: never retried
│   └── NotFound       no such thread, or another's: the two cannot be told apart
├── NotConnected       no gateway of the list answered in time
└── Closed             the client was closed while a call waited
"""

from __future__ import annotations

from typing import Any


class ClientError(Exception):
    """Something went wrong between this program and the gateways."""


class Refused(ClientError):
    """The gateway said no.

    Args:
        code: the protocol's stable word, such as `too_large` or `turn_running`.
        message: what was expected, what came, and the next step.
        retryable: whether the same call may succeed later.
        retry_after_ms: when to come back, if the gateway said so.
    """

    def __init__(self, code: str, message: str, *, retryable: bool = False, retry_after_ms: int | None = None) -> None:
        super().__init__(message or code)
        self.code = code
        self.message = message or code
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms


class Unauthorized(Refused):
    """The token is missing, expired, or not meant for this deployment."""


class NotFound(Refused):
    """The thread does not exist, or belongs to somebody else."""


class NotConnected(ClientError):
    """No gateway of the list could be reached in the time given."""


class Closed(ClientError):
    """The client was closed."""


_KINDS: dict[str, type[Refused]] = {"unauthorized": Unauthorized, "not_found": NotFound}


def refusal(error: object) -> Refused:
    """Return the exception for the `error` of an acknowledgement, whatever its form."""
    fields: dict[str, Any] = error if isinstance(error, dict) else {}
    code = str(fields.get("code") or "invalid_answer")
    after = fields.get("retry_after_ms")
    return _KINDS.get(code, Refused)(
        code,
        str(fields.get("message") or f"expected an acknowledgement of the protocol, got {error!r:.200}"),
        retryable=bool(fields.get("retryable")),
        retry_after_ms=after if isinstance(after, int) else None,
    )
