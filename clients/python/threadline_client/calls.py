"""A call that goes on until a gateway has answered it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from threadline_client.backoff import Backoff
from threadline_client.connection import Connection
from threadline_client.errors import refusal
from threadline_client.link import LinkLost

_ANSWERS = frozenset({"turn_running", "queue_full"})
"""Codes that are retryable, but say something about the thread that the caller asked to know."""


async def call(connection: Connection, event: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the acknowledgement of a call, sent again over lost connections and when it may succeed later.

    Args:
        connection: whose gateway is asked.
        event: the call, such as `chat:start`.
        payload: its fields; one that is None is not sent.

    Raises:
        Refused: when the gateway said no.
        ClientError: when no connection follows.
    """
    given = {name: value for name, value in payload.items() if value is not None}
    backoff = Backoff(at_once=False)
    while True:
        link = await connection.link()
        try:
            answer = await link.call(event, given)
        except LinkLost:
            continue  # the connection spaces its attempts
        if answer.get("ok"):
            return answer
        refused = refusal(answer.get("error"))
        if not refused.retryable or refused.code in _ANSWERS:
            raise refused
        await asyncio.sleep(max(backoff.delay(), (refused.retry_after_ms or 0) / 1000))
