"""Clients of a fleet that hide nothing: what a node sends is kept as it came.

The product's own client drops doubles and mends holes, as it should; here they must be seen. Only its transport
(threadline_client.link) is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

import aiohttp

from tests.fleet.conditions import PATIENCE
from tests.fleet.invariants import TERMINAL, Acknowledged, Fields, Segment, Transcript
from threadline_client.errors import Refused
from threadline_client.link import Link, LinkLost

_AGAIN = 0.05
"""Seconds between two tries to connect, or to subscribe."""

Ack = Mapping[str, Any]


class Caller:
    """A socket at one node, for calls."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def call(self, verb: str, **payload: Any) -> Ack:
        """Return the acknowledgement, be it yes or no."""
        return await self._link.call(verb, payload)

    async def start(self, thread_id: str, message: str, *, delay_ms: float | None = None, **payload: Any) -> Ack:
        """Start a turn, at a pace of the demo agent. The acknowledgement must be yes."""
        if delay_ms is not None:
            payload["metadata"] = {"delay_ms": delay_ms}
        ack = await self.call("chat:start", thread_id=thread_id, message=message, **payload)
        assert ack.get("ok") is True, f"a start was refused: {ack}"
        return ack

    async def cancel(self, thread_id: str, request_id: str | None = None) -> Ack:
        """Cancel a turn. The acknowledgement must be yes; what it says is for the test."""
        ack = await self.call("chat:cancel", thread_id=thread_id, request_id=request_id)
        assert ack.get("ok") is True, f"a cancel was refused: {ack}"
        return ack


@asynccontextmanager
async def caller(url: str, token: Callable[[], str] | None = None) -> AsyncIterator[Caller]:
    """Connect to one node, for the length of this block."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        link = Link(url, session, lambda name, data: None)
        try:
            await link.open(token() if token is not None else None)
            yield Caller(link)
        finally:
            await link.close()


def acknowledged(message: str, ack: Ack) -> Acknowledged:
    """Return what a start's acknowledgement promised."""
    return Acknowledged(message, ack["request_id"], ack["epoch"], ack["offset"], ack["state"])


class Watcher:
    """A client that follows one thread, moves on when its node is lost, and resumes behind what it has.

    Args:
        urls: its node, and those that it moves to.
        thread_id: a thread that exists.
        epoch: of the log, to begin at its very beginning; None begins with a snapshot of now.
        name: how it is called when something is wrong.
        after: the offset behind which it begins.
        token: what it shows at each handshake; asked for anew each time.
    """

    def __init__(
        self,
        urls: Sequence[str],
        thread_id: str,
        epoch: str | None = None,
        name: str = "",
        *,
        after: int = 0,
        token: Callable[[], str] | None = None,
    ) -> None:
        self.thread_id = thread_id
        self.transcript = Transcript(name or f"the watcher at {urls[0]}")
        self.arrivals: list[str] = []
        """The nodes at which it has subscribed, in order."""
        self.others: list[str] = []
        """The names of what it was sent beside events of the log."""
        self.times: list[float] = []
        """When each of `frames` came, on the loop's clock (seconds)."""
        if epoch is not None:
            self.transcript.segments.append(Segment(epoch, after))
        self._token = token
        self._urls = list(urls)
        self._link: Link | None = None
        self._news = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._keeper = asyncio.create_task(self._keep(), name=f"watch {self.thread_id}")
        try:
            await self.arrived(1)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    @property
    def frames(self) -> list[Fields]:
        """What it was sent so far."""
        return self.transcript.frames

    def text(self, request_id: str) -> str:
        """Return what the last attempt of a turn has said so far."""
        text = ""
        for frame in self.frames:
            if frame["request_id"] == request_id:
                text = "" if frame["event"] == "turn_restarted" else text
                text += frame["delta"] if frame["event"] == "text_delta" else ""
        return text

    def terminal(self, request_id: str) -> Fields | None:
        """Return the event that ended a turn, if it was sent already."""
        mine = [f for f in self.frames if f["request_id"] == request_id and f["event"] in TERMINAL]
        return mine[0] if mine else None

    async def until(self, seen: Callable[[], Any], what: str, within: float = PATIENCE) -> Any:
        """Wait until `seen` is true; return what it returned.

        Raises:
            AssertionError: when that takes too long.
        """
        try:
            async with asyncio.timeout(within):
                while not (found := seen()):
                    if self._keeper is not None and self._keeper.done():
                        self._keeper.result()
                    self._news.clear()
                    await self._news.wait()
                return found
        except TimeoutError:
            shown = [(frame["offset"], frame["event"]) for frame in self.frames[-5:]]
            raise AssertionError(
                f"{self.transcript.name}: expected {what} within {within:g} s; its last events: {shown}"
            ) from None

    async def words(self, request_id: str, count: int) -> None:
        """Wait until a turn has said so many words."""
        await self.until(lambda: len(self.text(request_id).split()) >= count, f"{count} words of {request_id}")

    async def event(self, request_id: str, name: str) -> Fields:
        """Wait for an event of a turn."""

        def look() -> Fields | None:
            return next((f for f in self.frames if f["request_id"] == request_id and f["event"] == name), None)

        found: Fields = await self.until(look, f"{name} of {request_id}")
        return found

    async def ended(self, request_id: str, within: float = PATIENCE) -> Fields:
        """Wait for the end of a turn; return the event that ended it."""
        found: Fields = await self.until(lambda: self.terminal(request_id), f"the end of {request_id}", within)
        return found

    async def reached(self, offset: int) -> None:
        """Wait until it was sent everything up to an offset."""
        await self.until(lambda: self.transcript.segments[-1].last >= offset, f"offset {offset}")

    async def arrived(self, times: int) -> None:
        """Wait until it has subscribed so many times."""
        await self.until(lambda: len(self.arrivals) >= times, f"to subscribe {times} times")

    async def event_after(self, moment: float, within: float = PATIENCE) -> None:
        """Wait until it was sent anything later than a moment."""
        await self.until(lambda: bool(self.times) and self.times[-1] > moment, "an event", within)

    async def told_of_a_loss(self, within: float = PATIENCE) -> None:
        """Wait until a node has told it that something is lost."""
        await self.until(lambda: len(self.transcript.segments) > 1, "to be told of a loss", within)

    def silence(self, since: float = 0.0) -> float:
        """Return the longest time without an event from a moment on, up to the last event."""
        times = [since, *(at for at in self.times if at > since)] if since else self.times
        return max((later - before for before, later in pairwise(times)), default=0.0)

    def move(self) -> None:
        """Leave the node for the next one, as a client that lost its network does."""
        if self._link is not None:
            self._link.cut("moving on")

    # --- connections -----------------------------------------------------------------------------------

    async def _keep(self) -> None:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            while True:
                link = self._link_to(self._urls[0], session)
                try:
                    await self._stay(link)
                except (LinkLost, Refused):
                    await asyncio.sleep(_AGAIN)
                finally:
                    self._link = None
                    await link.close()
                self._urls.append(self._urls.pop(0))

    def _link_to(self, url: str, session: aiohttp.ClientSession) -> Link:
        def on_frame(name: str, data: object) -> None:
            if not link.gone.is_set():
                self._frame(name, data)

        link = Link(url, session, on_frame)
        return link

    async def _stay(self, link: Link) -> None:
        await link.open(self._token() if self._token is not None else None)
        self._link = link
        while True:
            ack = await link.call("thread:subscribe", self._asked(), on_answer=self._answered)
            if ack.get("ok"):
                break
            await asyncio.sleep(_AGAIN)
        self.arrivals.append(link.url)
        self._news.set()
        await link.gone.wait()

    def _asked(self) -> dict[str, Any]:
        payload: dict[str, Any] = {"thread_id": self.thread_id}
        if self.transcript.segments:
            last = self.transcript.segments[-1]
            payload |= {"epoch": last.epoch_now, "after": last.last}
        return payload

    def _answered(self, ack: Ack) -> None:
        if not ack.get("ok"):
            return
        if ack["recovered"] is not True:
            self.transcript.segments.append(Segment(ack["epoch"], ack["offset"]))
        elif (last := self.transcript.segments[-1].last) < ack["offset"]:
            self.transcript.broken.append(f"was told that it has everything up to {ack['offset']}, and had {last}")

    def _frame(self, name: str, data: object) -> None:
        if ":" in name or not isinstance(data, dict) or "offset" not in data:
            self.others.append(name)
            return
        if data.get("thread_id") != self.thread_id or data.get("event") != name:
            self.transcript.broken.append(f"was sent an event of another thread or name: {name} {data}")
        elif not self.transcript.segments:
            self.transcript.broken.append(f"was sent an event before it was told where it stands: {data}")
        else:
            self.transcript.segments[-1].frames.append(data)
            self.times.append(asyncio.get_running_loop().time())
        self._news.set()
