"""The way in: `async with connect(["http://127.0.0.1:8080"]) as client: …`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from threadline_client.calls import call
from threadline_client.connection import Connection, NodeChange, Token
from threadline_client.thread import Thread
from threadline_client.threads import ThreadPage, parse_page


class Client:
    """A connection to whichever gateway lives; made by `connect`, opened by `async with`."""

    def __init__(self, connection: Connection, within: float | None) -> None:
        self._connection = connection
        self._within = within

    async def __aenter__(self) -> Self:
        await self._connection.open(self._within)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.close()

    @property
    def url(self) -> str | None:
        """The gateway in use, or None between two."""
        return self._connection.url

    @property
    def degraded(self) -> bool:
        """Whether the gateway in use has lost Redis: nothing new comes until it has it again."""
        return self._connection.degraded

    @property
    def urls(self) -> tuple[str, ...]:
        """Every gateway that may be used."""
        return self._connection.urls

    async def threads(self, *, limit: int | None = None, before: str | None = None) -> ThreadPage:
        """Return a page of the threads of whoever the token names, the one started last first.

        Args:
            limit: how many at most; the gateway has a limit of its own.
            before: the `next` of the page before.
        """
        return parse_page(await call(self._connection, "thread:list", {"limit": limit, "before": before}))

    def thread(self, thread_id: str) -> Thread:
        """Return a thread by its id: 1 to 128 letters, digits, or `. _ : -`."""
        return Thread(self._connection, thread_id)


def connect(
    urls: str | Iterable[str],
    token: Token = None,
    *,
    within: float | None = 10.0,
    on_change: Callable[[NodeChange], None] | None = None,
) -> Client:
    """Return a client of one or more gateways of the same deployment.

    Once open it reconnects for ever, to the next of the list at once and then with growing pauses; it gives
    up only when a gateway refuses the token.

    Args:
        urls: where the gateways are, in the order in which they are tried.
        token: what to show them, or a function (plain or async) that returns it, asked at each connection
            and before the token ends.
        within: seconds for the first connection; None waits for as long as it takes.
        on_change: called when a gateway was reached or lost, or has lost Redis and has it again.

    Raises:
        ValueError: for something that is not a list of URLs.
        NotConnected: on `async with`, when no gateway answered in time.
        Unauthorized: on `async with`, when one refused the token.
    """
    return Client(Connection([urls] if isinstance(urls, str) else urls, token, on_change), within)
