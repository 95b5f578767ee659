"""`send`, `tail`, `cancel`, `threads`, `rename`, `delete`: one thing each, told by output and exit code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, TextIO

from cli.exits import Exit
from cli.screen import printable
from threadline_client import Cursor, Event, EventStream, Outcome, Snapshot, Thread, Turn, connect

_THREADS = 100
"""Threads that a gateway gives in one page."""
_ENVELOPE = frozenset({"event", "client_id", "thread_id", "request_id", "epoch", "offset", "seq", "ts"})


def exit_of(error_type: str) -> Exit:
    """Return the exit code for how a turn ended; an empty type is an answer."""
    if not error_type:
        return Exit.DONE
    return Exit.CANCELLED if error_type == "cancelled" else Exit.FAILED


class Output:
    """Where results go (`out`) and where everything else goes (`notes`)."""

    def __init__(self, out: TextIO, notes: TextIO, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._out, self._notes = out, notes
        self._utf8 = (out.encoding or "utf-8").lower().replace("-", "") == "utf8"

    def record(self, fields: Mapping[str, Any]) -> None:
        """Write one JSON object on a line of its own."""
        self.text(json.dumps(fields, ensure_ascii=not self._utf8))

    def text(self, text: str) -> None:
        """Write text and end the line."""
        self._out.write(text + "\n")
        self._out.flush()

    def note(self, text: str) -> None:
        """Write a line for a person who looks on."""
        self._notes.write(printable(text) + "\n")
        self._notes.flush()


async def send(
    urls: Iterable[str],
    token: str | None,
    thread_id: str,
    text: str,
    output: Output,
    *,
    wait: bool = False,
    within: float | None = None,
    queue_mode: str | None = None,
) -> Exit:
    """Send a message; with `wait`, print the answer once it is whole. `within` seconds are for all of it."""
    turn: Turn | None = None
    try:
        async with asyncio.timeout(within), connect(urls, token, within=None if within else 10.0) as client:
            turn = await client.thread(thread_id).send(text, queue_mode=queue_mode)
            if not wait:
                _print_turn(turn, output)
                return Exit.DONE
            return _print_outcome(turn, await turn.wait(), output)
    except TimeoutError:
        if turn is None:
            output.note(f"no gateway took the message within {within:g} s; it may be sent again")
        else:
            output.note(
                f"no answer within {within:g} s; the turn goes on, follow it with: "
                f"threadline tail {turn.thread.id} --after {turn.cursor} --until-done"
            )
        return Exit.TIMED_OUT


def _turn_fields(turn: Turn) -> dict[str, Any]:
    return {
        "thread_id": turn.thread.id,
        "request_id": turn.request_id,
        "client_message_id": turn.client_message_id,
        "epoch": turn.cursor.epoch,
        "offset": turn.cursor.offset,
    }


def _print_turn(turn: Turn, output: Output) -> None:
    if output.as_json:
        output.record({"state": turn.state, "lane": turn.lane, "position": turn.position, **_turn_fields(turn)})
    else:
        output.text(turn.request_id)
        output.note(f"{turn.state} at {turn.cursor}")


def _print_outcome(turn: Turn, outcome: Outcome, output: Output) -> Exit:
    if output.as_json:
        output.record(
            {
                "ok": outcome.ok,
                "text": outcome.text,
                "error_type": outcome.error_type or None,
                "message": outcome.message or None,
                **_turn_fields(turn),
            }
        )
    else:
        if outcome.ok or outcome.text:
            output.text(outcome.text)
        if not outcome.ok:
            output.note(f"{outcome.error_type}: {outcome.message}")
    return exit_of(outcome.error_type)


async def cancel(
    urls: Iterable[str], token: str | None, thread_id: str, request_id: str | None, output: Output
) -> Exit:
    """Cancel the running turn, or the one named; say truthfully what became of it."""
    async with connect(urls, token) as client:
        result = await client.thread(thread_id).cancel(request_id)
    if output.as_json:
        output.record({"cancelled": result.cancelled, "request_id": result.request_id, "state": result.state})
    elif result.cancelled:
        output.text(f"cancelled {result.request_id}")
    else:
        output.note(f"nothing to cancel: {result.state or 'no turn runs'}")
    return Exit.DONE if result.cancelled else Exit.NOTHING_TO_CANCEL


async def threads(urls: Iterable[str], token: str | None, output: Output, *, most: int = 50) -> Exit:
    """Print the caller's threads, the one started last first: id, state, and title, a line each."""
    async with connect(urls, token) as client:
        place, left = None, most
        while left > 0:
            page = await client.threads(limit=min(left, _THREADS), before=place)
            for shown in page.threads:
                if output.as_json:
                    output.record(asdict(shown))
                else:
                    output.text(printable(f"{shown.thread_id}\t{shown.state}\t{shown.title}"))
            place, left = page.next, left - len(page.threads)
            if place is None:
                break
    return Exit.DONE


async def rename(urls: Iterable[str], token: str | None, thread_id: str, title: str, output: Output) -> Exit:
    """Give a thread another title."""
    async with connect(urls, token) as client:
        await client.thread(thread_id).rename(title)
    output.note(f"renamed {thread_id}")
    return Exit.DONE


async def delete(urls: Iterable[str], token: str | None, thread_id: str, output: Output) -> Exit:
    """Erase a thread everywhere."""
    async with connect(urls, token) as client:
        deleted = await client.thread(thread_id).delete()
    output.note(f"deleted {thread_id}" if deleted else f"no thread {thread_id}")
    return Exit.DONE


def parse_after(text: str | None) -> Cursor | int | None:
    """Return where to begin: a cursor, 0 for the beginning of the log, None for now.

    Raises:
        ValueError: when the text is neither `EPOCH:OFFSET` nor `0`.
    """
    if text is None:
        return None
    return 0 if text.strip() == "0" else Cursor.parse(text)


async def tail(
    urls: Iterable[str],
    token: str | None,
    thread_id: str,
    output: Output,
    *,
    after: Cursor | int | None = None,
    until_done: bool = False,
) -> Exit:
    """Print a thread's events from `after` on, then as they happen; for ever, or until a turn ends."""
    async with connect(urls, token) as client:
        thread = client.thread(thread_id)
        start = after if isinstance(after, Cursor) else None
        if after == 0:
            start = await _beginning(thread)
        async with thread.events(start) as events:
            return await _print_events(events, output, until_done)


async def _beginning(thread: Thread) -> Cursor | None:
    """Return the place before the first event of the log as it is now, or None when there is none."""
    async with thread.events(history=1) as events:
        item = await anext(events)
    return Cursor(item.epoch, 0) if item.epoch else None


async def _print_events(events: EventStream, output: Output, until_done: bool) -> Exit:
    async for item in events:
        if isinstance(item, Snapshot):
            _print_snapshot(item, output)
            if until_done and (missed := _missed_end(item)) is not None:
                output.note(
                    "a turn has ended meanwhile; its events are no longer in the log, its answer is in the history"
                )
                return missed
            continue
        if output.as_json:
            output.record(item.as_dict())
        else:
            output.text(event_line(item))
        if item.terminal and until_done:
            return exit_of("" if item.name == "chat_done" else str(item.get("error_type", "error")))
    return Exit.DONE


def _missed_end(snapshot: Snapshot) -> Exit | None:
    """Return how the last turn ended, by a snapshot that stands for its events; None when one may still end."""
    if snapshot.recovered is not False or snapshot.turn is not None or snapshot.parallel or not snapshot.messages:
        return None
    last = snapshot.messages[-1]
    return Exit.DONE if last.get("role") == "assistant" and not last.get("interrupted") else Exit.FAILED


def event_line(event: Event) -> str:
    """Return an event as one line for people: place, turn, name, and what it says, as JSON."""
    told = {name: value for name, value in event.fields.items() if name not in _ENVELOPE}
    return printable(f"{event.cursor} {event.request_id or '-'} {event.name} {json.dumps(told, ensure_ascii=False)}")


def _print_snapshot(snapshot: Snapshot, output: Output) -> None:
    if output.as_json:
        output.record(
            {
                "event": "snapshot",
                "thread_id": snapshot.thread_id,
                "exists": snapshot.exists,
                "epoch": snapshot.epoch,
                "offset": snapshot.offset,
                "recovered": snapshot.recovered,
                "messages": list(snapshot.messages),
                "turn": snapshot.turn,
            }
        )
    elif not snapshot.exists:
        output.note(f"thread {snapshot.thread_id} does not exist yet; waiting for it")
    else:
        why = "some events are no longer in the log; " if snapshot.recovered is False else ""
        running = f"turn {snapshot.turn.get('request_id')} runs" if snapshot.turn else "no turn runs"
        output.note(f"{why}thread {snapshot.thread_id} at {snapshot.cursor}: {running}")
