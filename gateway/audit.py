"""The audit log: who did what, from where, and how it went. One line of the logger `audit` for each act.

Written are starts, edits, cancels, decisions, deletes and revocations, whichever wire they came by, and those that were
refused too. Never what somebody said, and no token; of a token its id (`jti`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import structlog

from backplane.errors import Internal, ThreadlineError
from gateway.auth import Identity

_NAMED = ("thread_id", "request_id", "approval_id", "message_id")
"""What of a call and of its answer is written."""
_log = structlog.get_logger("audit")
Owner = TypeVar("Owner")
P = ParamSpec("P")
Ack = dict[str, Any]
Verb = Callable[Concatenate[Owner, Identity, P], Awaitable[Ack]]


@dataclass(frozen=True, slots=True)
class Where:
    """Where a call came from."""

    address: str
    """The client's; empty when it is not known."""
    socket: str = ""
    """The socket's `sid`; empty for a call by HTTP."""


HERE: ContextVar[Where] = ContextVar("here", default=Where(""))  # noqa: B039 # it is frozen
"""Where the call that is being handled came from; set by whoever takes calls."""


def note(act: str, identity: Identity, outcome: str, **what: Any) -> None:
    """Write one line."""
    where = HERE.get()
    _log.info(
        act,
        tenant=identity.tenant,
        subject=identity.subject,
        jti=identity.token_id,
        address=where.address,
        socket=where.socket,
        outcome=outcome,
        **what,
    )


def audited(act: str) -> Callable[[Verb[Owner, P]], Verb[Owner, P]]:
    """Return a decorator of a verb, by which each call is written: `outcome` is `ok` or the code of its error."""

    def decorated(verb: Verb[Owner, P]) -> Verb[Owner, P]:
        @wraps(verb)
        async def noting(self: Owner, identity: Identity, /, *args: P.args, **kwargs: P.kwargs) -> Ack:
            outcome, ack = Internal.code, {}
            try:
                ack = await verb(self, identity, *args, **kwargs)
                outcome = "ok"
            except ThreadlineError as error:
                outcome = error.code
                raise
            else:
                return ack
            finally:
                asked = args[0] if args else None
                found = {name: ack.get(name) or getattr(asked, name, None) for name in _NAMED}
                note(act, identity, outcome, **{name: value for name, value in found.items() if value is not None})

        return noting

    return decorated
