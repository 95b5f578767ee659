"""Shows a gateway newer tokens over one connection, before the old ones end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from threadline_client.errors import refusal
from threadline_client.link import Link, LinkLost
from threadline_client.token import SHORTEST, due_in

_log = logging.getLogger("threadline_client")


class Refresher:
    """Keeps the token of one link fresh, for as long as `run` runs.

    Args:
        link: the live connection.
        ask: returns the token to use now.
        token: the one that the link was opened with.
    """

    def __init__(self, link: Link, ask: Callable[[], Awaitable[str | None]], token: str | None) -> None:
        self._link = link
        self._ask = ask
        self._token = token
        self._expired = asyncio.Event()

    def expired(self) -> None:
        """Note that the gateway says that the token has ended."""
        self._expired.set()

    async def run(self) -> None:
        """Ask for a token in time, and show it. A token that is refused ends the link: the next one brings another."""
        while True:
            await self._until_due()
            try:
                token = await self._ask()
            except Exception as error:  # a callback of the program; the old token may do for a while yet
                _log.warning("the token function raised %r; it is asked again", error)
                token = None
            if token is None or not await self._shown(token):
                await asyncio.sleep(SHORTEST)
                self._expired.set()

    async def _until_due(self) -> None:
        try:
            async with asyncio.timeout(due_in(self._token)):
                await self._expired.wait()
        except TimeoutError:
            pass
        self._expired.clear()

    async def _shown(self, token: str) -> bool:
        try:
            answer = await self._link.call("auth:refresh", {"token": token})
        except LinkLost:
            return False
        if answer.get("ok"):
            self._token = token
            return True
        refused = refusal(answer.get("error"))
        if not refused.retryable:
            self._link.cut(f"the gateway refused the new token: {refused}")
        return False
