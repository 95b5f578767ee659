"""`threadline revoke`: takes tokens back on all gateways, by asking any of them (docs/operations.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx

from backplane.errors import Misconfigured, Unavailable
from cli.screen import printable

TIMEOUT = 10.0
"""Seconds for a gateway to answer; it waits for Redis at the most as long as `redis_timeout`."""


class _NotDone(Exception):
    """What a gateway answered that could not do it."""


async def revoke(
    urls: Sequence[str],
    token: str | None,
    *,
    subject: str | None = None,
    token_id: str | None = None,
    tenant: str | None = None,
) -> str:
    """Take back all tokens of a subject that were issued until now, or the one of an id; return what was done.

    Raises:
        Misconfigured: when not one of the two is named, or the gateway does not let this token do that.
        Unavailable: when no gateway could do it.
    """
    named = {"subject": subject, "token_id": token_id, "tenant": tenant}
    asked = {name: value for name, value in named.items() if value is not None}
    if (subject is None) is (token_id is None):
        raise Misconfigured("expected a subject or --token-id, got both or none; name whose tokens, or which one")
    said = []
    async with httpx.AsyncClient(trust_env=False, timeout=TIMEOUT) as http:
        for url in urls:
            try:
                return _done(await _ask(http, url, token, asked), subject, token_id)
            except (httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError, _NotDone) as error:
                said.append(f"{url}: {printable(str(error)) or type(error).__name__}")
            except (ValueError, LookupError, TypeError):
                said.append(f"{url}: what it answers is not of a gateway of this version")
    raise Unavailable(
        f"no gateway confirmed it ({'; '.join(said)}); see that one runs, or name it with --url, and ask again"
    )


async def _ask(http: httpx.AsyncClient, url: str, token: str | None, asked: dict[str, str]) -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = await http.post(f"{url.strip().rstrip('/')}/v1/revocations", headers=headers, json=asked)
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise Misconfigured(
            f"{url} does not let you take tokens back; give --token of a subject that THREADLINE_OPERATORS names"
        )
    if answer.status_code in (httpx.codes.BAD_REQUEST, httpx.codes.UNAUTHORIZED):
        raise Misconfigured(f"{url}: {printable(answer.json()['error']['message'])}")
    if answer.is_error:
        raise _NotDone(f"{answer.status_code} {answer.text[:200]}")
    return answer.json()


def _done(answer: Any, subject: str | None, token_id: str | None) -> str:
    whose = f"the token {token_id}" if subject is None else f"all tokens of {subject} that were issued until now"
    return printable(f"took back {whose}, tenant {answer['tenant']}; every gateway knows within a second")
