"""A conversation in the terminal: streams, cancels, and goes on at another gateway when its own dies."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol
from urllib.parse import urlsplit

from cli.screen import Screen
from threadline_client import (
    ClientError,
    Event,
    Message,
    NodeChange,
    Refused,
    Snapshot,
    Thread,
    ThreadState,
    Unauthorized,
    connect,
)
from threadline_client.outcome import outcome_in

PROMPT = "you> "
RECENT = 10
"""Messages shown when a thread is opened; /history shows more."""
TOOL_WIDTH = 200
"""Characters of a tool's arguments or output that are shown."""
PATIENCE = 1.0
"""Seconds without a gateway before the person is told; a move to the next node takes far less."""

HELP = """\
/history      the thread's messages
/status       thread, gateway, and what runs
/cancel       stop the running turn (Ctrl-C does too)
/new          begin another thread
/thread ID    go to another thread
/help         this
/quit         leave (Ctrl-D does too); a running turn goes on"""


class Lines(Protocol):
    """Where the person's lines come from."""

    interactive: bool

    async def line(self) -> str | None:
        """Return the next line, or None when there are no more."""


def new_thread_id() -> str:
    """Return an id for a new thread that is short enough to type."""
    return f"chat-{secrets.token_hex(4)}"


def node_name(url: str, urls: Iterable[str]) -> str:
    """Return how a gateway is called among others: its port where that is enough, else host and port."""
    parts = urlsplit(url)
    alone = len({urlsplit(other).hostname for other in urls}) <= 1
    return str(parts.port) if alone and parts.port else parts.netloc


_STORE = {
    "degraded": "degraded: the gateway cannot reach Redis; nothing is lost, the answer goes on when it is back",
    "restored": "Redis is back",
}


class Nodes:
    """Tells the person when the conversation moved to another gateway."""

    def __init__(self, screen: Screen, urls: Iterable[str]) -> None:
        self._screen = screen
        self._urls = tuple(urls)
        self._lost: str | None = None
        self._impatient: asyncio.TimerHandle | None = None

    def __call__(self, change: NodeChange) -> None:
        """Take note of a change; given to the client."""
        if change.state in _STORE:
            self._screen.aside(f"[{_STORE[change.state]}]")
            return
        if self._impatient is not None:
            self._impatient.cancel()
            self._impatient = None
        if change.state == "lost":
            self._lost = change.url
            loop = asyncio.get_running_loop()
            self._impatient = loop.call_later(PATIENCE, self._nobody, change.url)
        elif self._lost is not None:
            old, new = node_name(self._lost, self._urls), node_name(change.url, self._urls)
            gone = f"node {old} is gone; went on at {new}" if old != new else f"node {old} was gone; it is back"
            self._screen.aside(f"[{gone}]")
            self._lost = None

    def close(self) -> None:
        """Say nothing more."""
        if self._impatient is not None:
            self._impatient.cancel()

    def _nobody(self, url: str) -> None:
        self._screen.aside(f"[node {node_name(url, self._urls)} is gone, and no other answers; trying on]")


class Transcript:
    """Turns the items of a thread's stream into what the person reads, each word once."""

    def __init__(self, screen: Screen) -> None:
        self.state = ThreadState()
        self.ended: dict[str, bool] = {}
        """How turns ended whose end was seen: request id -> whether with an answer."""
        self.own: set[str] = set()
        """Idempotency keys of what this person has sent: those messages stand on the screen already."""
        self.awaited: set[str] = set()
        """Turns whose end somebody waits for."""
        self._screen = screen
        self._begun = False
        self._request = ""
        self._shown = ""

    def apply(self, item: Event | Snapshot) -> None:
        """Show one item."""
        if isinstance(item, Snapshot):
            self._snapshot(item)
            self.state.apply(item)
        else:
            show = getattr(self, f"_{item.name}", None)
            if show is not None:
                show(item)
            self.state.apply(item)

    def _snapshot(self, snapshot: Snapshot) -> None:
        running = str((snapshot.turn or {}).get("request_id", ""))
        if not self._begun:
            self._begun = snapshot.exists
            self._history(snapshot, running)
        else:
            for request_id in {self._request, *self.awaited} - {"", running, *self.ended}:
                self._settle(snapshot, request_id)
        if snapshot.turn is not None:
            self._catch_up(running, str(snapshot.turn.get("text") or ""))

    def _settle(self, snapshot: Snapshot, request_id: str) -> None:
        outcome = outcome_in(snapshot, request_id, queued=request_id != self._request)
        if outcome is None:
            return
        self._catch_up(request_id, outcome.text)
        if not outcome.ok:
            self._screen.note(f"[{outcome.message or 'the answer stopped here'}]")
        self._end(request_id, outcome.ok)

    def _history(self, snapshot: Snapshot, running: str) -> None:
        for fields in snapshot.messages[-RECENT:]:
            role, content = str(fields.get("role", "")), str(fields.get("content", ""))
            if role == "assistant" and fields.get("request_id") == running:
                continue  # it is still being written: shown as the running answer
            show_message(self._screen, Message(role, content, interrupted=bool(fields.get("interrupted"))))

    def _catch_up(self, request_id: str, text: str) -> None:
        if request_id != self._request:
            self._request, self._shown = request_id, ""
        if not text.startswith(self._shown):
            self._screen.note("[some of the answer could not be had again; here it is from the start]")
            self._shown = ""
        self._screen.text(text[len(self._shown) :])
        self._shown = text

    def _end(self, request_id: str, ok: bool) -> None:
        self.ended[request_id] = ok
        if request_id == self._request:
            self._request, self._shown = "", ""
        self._screen.end_line()

    def _chat_accepted(self, event: Event) -> None:
        key = event.get("client_message_id")
        if key in self.own:
            self.own.remove(key)
        else:
            show_message(self._screen, Message("user", str(event.get("message", ""))))
        self._request, self._shown = event.request_id, ""

    def _text_delta(self, event: Event) -> None:
        if event.request_id != self._request:
            self._request, self._shown = event.request_id, ""
        self._screen.text(event.delta)
        self._shown += event.delta

    def _thinking_delta(self, event: Event) -> None:
        self._screen.faint(event.delta)

    def _tool_call(self, event: Event) -> None:
        args = json.dumps(event.get("args") or {}, ensure_ascii=False)
        self._screen.note(f"[{event.get('tool_name')} {_cut(args)}]")

    def _tool_result(self, event: Event) -> None:
        arrow = "->" if event.get("success", True) else "failed:"
        self._screen.note(f"[{event.get('tool_name')} {arrow} {_cut(str(event.get('output', '')))}]")

    def _turn_restarted(self, event: Event) -> None:
        self._screen.end_line()
        kept = event.get("kept_text")
        if isinstance(kept, int) and kept == len(self._shown):
            self._screen.note("[worker lost; the answer goes on]")
            return
        self._screen.note("[worker lost; the answer starts again]")
        self._shown = self._shown[:kept] if isinstance(kept, int) else ""
        if self._shown:
            self._screen.text(self._shown)

    def _approval_request(self, event: Event) -> None:
        self._screen.note(f"[waits for approval {event.get('approval_id')}]")

    def _queue_item_queued(self, event: Event) -> None:
        self._screen.aside("[your message waits until the running turn has ended]")

    def _queue_item_removed(self, event: Event) -> None:
        self._screen.aside("[a waiting message was removed]")
        self.ended[event.request_id] = False

    def _chat_done(self, event: Event) -> None:
        answer = str(event.get("full_response", ""))
        # The events carry the whole answer; this is for an agent that says nothing until its end.
        if answer.startswith(self._shown) and event.request_id == self._request:
            self._screen.text(answer[len(self._shown) :])
        self._end(event.request_id, True)

    def _chat_error(self, event: Event) -> None:
        kind, message = str(event.get("error_type", "error")), str(event.get("message", ""))
        self._screen.note("[cancelled]" if kind == "cancelled" else f"[{kind}: {message}]")
        self._end(event.request_id, False)


class Chat:
    """One person at one terminal: a follower of the thread, and a loop over what is typed."""

    def __init__(
        self, thread_of: Callable[[str], Thread], screen: Screen, lines: Lines, command: str = "threadline chat"
    ) -> None:
        self._thread_of = thread_of
        self._thread: Thread
        self._back: Thread | None = None
        self._command_line = command
        self._screen = screen
        self._lines = lines
        self._transcript = Transcript(screen)
        self._follower: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._moved = asyncio.Event()
        self._left = asyncio.Event()
        self._cancelling: asyncio.Task[None] | None = None
        self._failed = False

    async def run(self, thread_id: str) -> int:
        """Talk until the person leaves; 0, or 1 when what a pipe said had no answer."""
        await self._follow(self._thread_of(thread_id))
        talk = asyncio.create_task(self._talk(), name="threadline talk")
        leave = asyncio.create_task(self._left.wait(), name="threadline leave")
        try:
            await asyncio.wait({talk, leave}, return_when=asyncio.FIRST_COMPLETED)
            if talk.done():
                talk.result()
        finally:
            tasks = [task for task in (talk, leave, self._follower, self._cancelling) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._screen.leave()
        return 1 if self._failed else 0

    def interrupt(self) -> None:
        """Ctrl-C: cancel the running turn; leave when none runs, or when it was asked for already."""
        turn = self._transcript.state.turn
        if turn is None or self._cancelling is not None:
            self._left.set()
        else:
            self._cancelling = asyncio.create_task(self._cancel(turn.request_id))

    async def _follow(self, thread: Thread, back: Thread | None = None) -> None:
        """Show a thread from now on; `back` if that one is refused, such as for an id that is none."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        self._thread, self._back, self._transcript = thread, back, Transcript(self._screen)
        self._screen.note(f"thread {thread.id} - come back with: {self._command_line} --thread {thread.id}")
        self._ready.clear()
        self._follower = asyncio.create_task(self._read(thread, self._transcript), name="threadline follower")
        self._follower.add_done_callback(self._read_ended)
        ready = asyncio.create_task(self._ready.wait())
        await asyncio.wait({ready, self._follower}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if back is not None and self._follower.done() and not self._left.is_set():
            await self._follow(back)

    async def _read(self, thread: Thread, transcript: Transcript) -> None:
        async with thread.events() as events:
            async for item in events:
                known = len(transcript.ended)
                transcript.apply(item)
                if len(transcript.ended) > known:
                    self._cancelling = None
                if not self._ready.is_set() or len(transcript.ended) > known:
                    self._prompt()
                self._ready.set()
                self._moved.set()

    def _read_ended(self, follower: asyncio.Task[None]) -> None:
        error = None if follower.cancelled() else follower.exception()
        if error is None:
            return
        self._screen.note(f"[{error}]")
        refused = isinstance(error, Refused) and not isinstance(error, Unauthorized)
        # the next lines of a pipe are meant for the thread that was refused
        if self._back is None or self._ready.is_set() or not refused or not self._lines.interactive:
            self._failed = True
            self._left.set()

    def _prompt(self) -> None:
        if self._transcript.state.turn is None and self._lines.interactive:
            self._screen.prompt(PROMPT)

    async def _talk(self) -> None:
        while (line := await self._lines.line()) is not None:
            self._screen.entered()
            text = line.strip()
            if text.startswith("/"):
                if not await self._command(text):
                    return
                self._prompt()
            elif text:
                await self._say(text)
            else:
                self._prompt()

    async def _say(self, text: str) -> None:
        key = secrets.token_urlsafe(15)
        self._transcript.own.add(key)
        try:
            turn = await self._thread.send(text, client_message_id=key)
        except Refused as refused:
            self._transcript.own.remove(key)
            self._screen.note(f"[not sent: {refused}]")
            self._failed = self._failed or not self._lines.interactive
            self._prompt()
            return
        if not self._lines.interactive:
            self._failed = not await self._until_ended(turn.request_id) or self._failed

    async def _until_ended(self, request_id: str) -> bool:
        # A pipe's next line is said after the answer to this one, not into it.
        self._transcript.awaited.add(request_id)
        while request_id not in self._transcript.ended:
            self._moved.clear()
            await self._moved.wait()
        return self._transcript.ended[request_id]

    async def _cancel(self, request_id: str | None = None) -> None:
        try:
            result = await self._thread.cancel(request_id)
        except ClientError as error:
            self._screen.aside(f"[not cancelled: {error}]")
        else:
            if not result.cancelled:
                self._screen.aside(f"[nothing to cancel: {result.state or 'no turn runs'}]")

    async def _command(self, text: str) -> bool:
        name, _, argument = text.partition(" ")
        argument = argument.strip()
        if name in ("/quit", "/exit"):
            return False
        if name == "/help":
            self._screen.line(HELP)
        elif name == "/status":
            self._status()
        elif name == "/history":
            await self._history()
        elif name == "/cancel":
            await self._cancel()
        elif name == "/new" or (name == "/thread" and argument):
            wanted = argument if name == "/thread" else new_thread_id()
            await self._follow(self._thread_of(wanted), back=self._thread)
        else:
            self._screen.note(f"[no such command: {name}; /help lists them]")
        return True

    async def _history(self) -> None:
        try:
            messages = await self._thread.history()
        except Refused as refused:
            told = "no messages yet" if refused.code == "not_found" else str(refused)
            self._screen.note(f"[{told}]")
            return
        for fields in messages:
            role, content = str(fields.get("role", "")), str(fields.get("content", ""))
            show_message(self._screen, Message(role, content, interrupted=bool(fields.get("interrupted"))))

    def _status(self) -> None:
        state = self._transcript.state
        turn = state.turn
        running = f"turn {turn.request_id} {turn.state}, attempt {turn.attempt}" if turn else "no turn runs"
        place = f"is at {state.epoch}:{state.offset}" if state.exists else "does not exist yet"
        self._screen.line(f"thread {self._thread.id} {place}; {running}; {len(state.queue)} waiting")


def show_message(screen: Screen, message: Message) -> None:
    """Show an earlier message, its author in front."""
    author = "you" if message.role == "user" else message.role
    cut = " [interrupted]" if message.interrupted else ""
    screen.line(f"{author}> {message.content}{cut}")


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= TOOL_WIDTH else f"{flat[:TOOL_WIDTH]}…"


async def chat(
    urls: Iterable[str],
    token: str | None,
    thread_id: str | None,
    screen: Screen,
    lines: Lines,
    *,
    command: str = "threadline chat",
) -> int:
    """Talk in a thread (a new one unless named) until the person leaves; the exit code.

    `command` is how this conversation was started, for the line that says how to come back to it.
    """
    addresses = tuple(urls)
    nodes = Nodes(screen, addresses)
    async with connect(addresses, token, on_change=nodes) as client:
        talk = Chat(client.thread, screen, lines, command)
        loop = asyncio.get_running_loop()
        with suppress(NotImplementedError, RuntimeError, ValueError):  # Windows; not the main thread
            loop.add_signal_handler(signal.SIGINT, talk.interrupt)
        try:
            return await talk.run(thread_id or new_thread_id())
        finally:
            nodes.close()
            with suppress(NotImplementedError, RuntimeError, ValueError):
                loop.remove_signal_handler(signal.SIGINT)
