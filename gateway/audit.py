"""The audit log: who did what, from where, and how it went. One line of the logger `audit` for each act.

Written are starts, edits, cancels, decisions, deletes, what is taken out of a queue, revocations and pulled plugs,
whichever wire they came by, and those that were refused too. Never what somebody said, and no token; of a token its id
(`jti`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import structlog

from backplane.errors import Internal, ThreadlineError
from gateway.auth import Identity

_NAMED = ("thread_id", "request_id", "approval_id", "message_id", "item_id")
"""What of a call is written, and of its answer, which knows better."""
_TOLD = ("state", "cancelled", "decided", "deleted", "removed")
"""What else of an answer is written: an act may be in order and have changed nothing."""
_DECISIONS = frozenset({"approved", "denied"})
"""Decisions about a tool. Any other is an answer to a question, which is what somebody said."""
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


@contextmanager
def acting(act: str, identity: Identity) -> Iterator[dict[str, Any]]:
    """Write one line at the end of a block: `outcome` is `ok` or the code of its error, with what the block put in."""
    outcome, what = Internal.code, dict[str, Any]()
    try:
        yield what
        outcome = "ok"
    except ThreadlineError as error:
        outcome = error.code
        raise
    finally:
        note(act, identity, outcome, **what)


def audited(act: str) -> Callable[[Verb[Owner, P]], Verb[Owner, P]]:
    """Return a decorator of a verb, by which each call is written."""

    def decorated(verb: Verb[Owner, P]) -> Verb[Owner, P]:
        @wraps(verb)
        async def noting(self: Owner, identity: Identity, /, *args: P.args, **kwargs: P.kwargs) -> Ack:
            asked = args[0] if args else None
            with acting(act, identity) as what:
                what.update(_of({name: getattr(asked, name, None) for name in _NAMED}))
                ack = await verb(self, identity, *args, **kwargs)
                what.update(_of({name: ack.get(name) for name in (*_NAMED, *_TOLD)}))
                if (decision := ack.get("decision")) is not None:
                    what["decision"] = decision if decision in _DECISIONS else "answered"
            return ack

        return noting

    return decorated


def _of(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if value is not None}
