"""The one place that decides when to connect, where to, and when to give up."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import aiohttp

from threadline_client.backoff import Backoff
from threadline_client.errors import ClientError, Closed, NotConnected, Refused
from threadline_client.events import Event, parse_event
from threadline_client.link import Link, LinkLost
from threadline_client.refresher import Refresher

STEADY = 1.0
"""Seconds after which a connection counts as a success, and the next failure is the first one again."""

MOST_REFUSALS = 3
"""Refusals one after another of what a token function returns, before it is believed that it has no better one."""

RECENT = 5_000
"""Events of the live connection that are kept. A gateway sends each event once per connection, so that a stream
which begins behind what has come already finds it here; what is older costs a reconnect."""

Token = str | Callable[[], str | Awaitable[str | None] | None] | None


@dataclass(frozen=True, slots=True)
class NodeChange:
    """A gateway was reached or lost, or has lost Redis (`degraded`) and has it again (`restored`).

    While it is degraded nothing new comes, and calls are answered `unavailable`; afterwards all goes on where it was.
    `reason` is for people.
    """

    state: Literal["connected", "lost", "degraded", "restored"]
    url: str
    reason: str = ""


class Listener(Protocol):
    """Who wants the events of one thread."""

    def event(self, event: Event) -> None:
        """Take an event; called in the order in which they came."""

    def lost(self) -> None:
        """Note that the connection is gone; another follows."""

    def failed(self, error: ClientError) -> None:
        """Note that no connection follows."""

    def exists_now(self, epoch: str) -> None:
        """Note that a start in this thread was acknowledged."""

    def deleted(self, epoch: str) -> None:
        """Note that the thread was erased."""


class Connection:
    """Keeps one link open to one gateway of a list, for ever.

    A lost node is left at once for the next of the list; after that, attempts are spread by back-off.
    """

    def __init__(self, urls: Iterable[str], token: Token, on_change: Callable[[NodeChange], None] | None) -> None:
        self.urls = tuple(url.strip().rstrip("/") for url in urls)
        if not self.urls or not all(url.startswith(("http://", "https://")) for url in self.urls):
            raise ValueError(f"expected URLs such as http://127.0.0.1:8080, got {self.urls!r}")
        self._token = token
        self._on_change = on_change
        self._next = 0
        self._current: Link | None = None
        self._coming: asyncio.Future[Link] | None = None
        self._failure: ClientError | None = None
        self._last_error = "not tried yet"
        self._listeners: dict[str, set[Listener]] = {}
        self._recent: deque[Event] = deque(maxlen=RECENT)
        self._runner: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._refresher: Refresher | None = None
        self._refusals = 0
        self._was_connected = False
        self.degraded = False
        """Whether the gateway in use has told us that Redis is away."""

    @property
    def url(self) -> str | None:
        """The gateway in use, or None between two."""
        return self._current.url if self._current else None

    async def open(self, within: float | None) -> None:
        """Connect for the first time, `within` seconds (None: however long it takes).

        Raises:
            NotConnected: when no gateway of the list could be reached.
            Unauthorized: when one said no.
        """
        self._coming = asyncio.get_running_loop().create_future()
        # DummyCookieJar: a load balancer's stickiness cookie must not follow us to another node.
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        self._runner = asyncio.create_task(self._run(), name="threadline connection")
        try:
            async with asyncio.timeout(within):
                await self.link()
        except TimeoutError:
            await self.close()
            raise NotConnected(
                f"no gateway answered within {within:g} s ({', '.join(self.urls)}; last: {self._last_error}); "
                "check the addresses, and that a gateway runs there"
            ) from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Leave. Calls and streams that wait raise `Closed`."""
        self._fail(Closed("the client was closed"))
        try:
            if self._runner is not None:
                self._runner.cancel()
                await asyncio.gather(self._runner, return_exceptions=True)
            if self._current is not None:
                await self._current.close()
                self._current = None
        finally:  # also when whoever closes it is cancelled meanwhile
            if self._session is not None:
                await self._session.close()

    async def link(self) -> Link:
        """Return the live link, waiting for it if there is none.

        Raises:
            ClientError: `Unauthorized` or `Closed`, when there will be none.
        """
        while True:
            if self._failure is not None:
                raise self._failure
            if self._current is not None and not self._current.gone.is_set():
                return self._current
            if self._coming is None:
                raise Closed("the client is not open; use it in `async with connect(…)`")
            if self._coming.done():
                await asyncio.sleep(0)  # the link is gone, and the runner has not yet seen it
            else:
                await asyncio.shield(self._coming)

    def listen(self, thread_id: str, listener: Listener) -> None:
        """Give a listener the events of a thread from now on."""
        self._listeners.setdefault(thread_id, set()).add(listener)
        if self._failure is not None:
            listener.failed(self._failure)

    async def unlisten(self, thread_id: str, listener: Listener) -> None:
        """Stop that; the last one to leave a thread also tells the gateway."""
        listeners = self._listeners.get(thread_id, set())
        listeners.discard(listener)
        if not listeners and self._listeners.pop(thread_id, None) is not None and self._current is not None:
            await self._current.tell("thread:unsubscribe", {"thread_id": thread_id})

    def recent(self, thread_id: str) -> list[Event]:
        """Return the last events of a thread that came over the live connection, oldest first."""
        return [event for event in self._recent if event.thread_id == thread_id]

    def thread_exists(self, thread_id: str, epoch: str) -> None:
        """Tell the listeners of a thread that a start in it was acknowledged."""
        for listener in tuple(self._listeners.get(thread_id, ())):
            listener.exists_now(epoch)

    async def _run(self) -> None:
        try:
            await self._stay_connected()
        except Exception as error:  # a token callback of the program that uses us
            failure = ClientError(f"the client stopped, because a callback of the program raised {error!r}")
            failure.__cause__ = error
            self._fail(failure)

    async def _stay_connected(self) -> None:
        backoff = Backoff()
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(backoff.delay())
            url = self.urls[self._next % len(self.urls)]
            try:
                link, token = await self._open_link(url)
            except LinkLost as error:
                self._last_error = str(error)
                self._next += 1
                continue
            except Refused as error:
                if not error.retryable and self._is_final():
                    self._fail(error)
                    return
                self._last_error = f"{url}: {error}"
                self._next += 1
                continue
            since = clock()
            self._arrived(link)
            await self._keep(link, token)
            if clock() - since >= STEADY:
                backoff.reset()
            self._next += 1
            self._left(link)
            await link.close()

    async def _open_link(self, url: str) -> tuple[Link, str | None]:
        try:
            token = await self._ask_token()
        except Exception as error:  # it may need the network itself, and that is away just now
            if not self._was_connected:
                raise
            raise LinkLost(f"the token function raised {error!r}") from error
        assert self._session is not None
        link = Link(url, self._session, self._frame)
        await link.open(token)
        return link, token

    async def _ask_token(self) -> str | None:
        token = self._token() if callable(self._token) else self._token
        return await token if inspect.isawaitable(token) else token

    def _is_final(self) -> bool:
        """Whether a refusal is the last word: a function may have returned a token that ended on its way."""
        self._refusals += 1
        return not callable(self._token) or self._refusals >= MOST_REFUSALS

    async def _keep(self, link: Link, token: str | None) -> None:
        """Return when the link is gone; until then its token is kept fresh, if the program gave a function."""
        if not callable(self._token):
            await link.gone.wait()
            return
        self._refresher = Refresher(link, self._ask_token, token)
        refreshing = asyncio.create_task(self._refresher.run(), name="threadline token")
        try:
            await link.gone.wait()
        finally:
            self._refresher = None
            refreshing.cancel()
            await asyncio.gather(refreshing, return_exceptions=True)

    def _arrived(self, link: Link) -> None:
        self._was_connected, self._refusals = True, 0
        self._current = link
        if self._coming is not None and not self._coming.done():
            self._coming.set_result(link)
        self._tell(NodeChange("connected", link.url))

    def _left(self, link: Link) -> None:
        self._current = None
        self.degraded = False  # the next gateway says how it is there
        self._recent.clear()
        self._coming = asyncio.get_running_loop().create_future()
        for listener in self._everyone():
            listener.lost()
        self._tell(NodeChange("lost", link.url, link.reason))

    def _tell(self, change: NodeChange) -> None:
        """Tell the program. An error of its callback is reported as asyncio does, and ends no conversation."""
        if self._on_change is None:
            return
        try:
            self._on_change(change)
        except Exception as error:
            context = {"message": f"on_change of threadline_client raised at {change.state!r}", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    def _fail(self, error: ClientError) -> None:
        if self._failure is not None:
            return
        self._failure = error
        if self._coming is not None and not self._coming.done():
            self._coming.set_exception(error)
            self._coming.exception()  # somebody may or may not wait for it; that is no warning's matter
        for listener in self._everyone():
            listener.failed(error)

    def _everyone(self) -> list[Listener]:
        return [listener for listeners in self._listeners.values() for listener in listeners]

    def _told_degraded(self, data: object) -> None:
        active = isinstance(data, dict) and data.get("active") is True
        if active is self.degraded:
            return
        self.degraded = active
        if self._current is not None:
            self._tell(NodeChange("degraded" if active else "restored", self._current.url))

    def _frame(self, name: str, data: object) -> None:
        if name == "degraded":
            self._told_degraded(data)
            return
        if name == "auth_expired" and self._refresher is not None:
            self._refresher.expired()
        if name == "thread_deleted" and isinstance(data, dict):
            for listener in tuple(self._listeners.get(str(data.get("thread_id")), ())):
                listener.deleted(str(data.get("epoch", "")))
            return
        event = parse_event(name, data)
        if event is not None:
            self._recent.append(event)
            for listener in tuple(self._listeners.get(event.thread_id, ())):
                listener.event(event)
