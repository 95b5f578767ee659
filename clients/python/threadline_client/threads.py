"""A person's threads, as a list shows them, and who watches one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from threadline_client.events import whole


@dataclass(frozen=True, slots=True)
class ThreadSummary:
    """What a list shows of a thread."""

    thread_id: str
    title: str
    preview: str
    """The beginning of its newest message."""
    role: str
    """Whose message that is: `user` or `assistant`."""
    running: str | None
    """The turn in flight."""
    state: str
    """`ready`, `running`, `waiting`, or `idle`."""
    created: int
    active: int
    """When it was last started. Unix milliseconds, as `created`."""


@dataclass(frozen=True, slots=True)
class ThreadPage:
    """A page of a list, the thread started last first."""

    threads: tuple[ThreadSummary, ...]
    next: str | None
    """Where the page behind begins; None when there is none."""


@dataclass(frozen=True, slots=True)
class Watched:
    """Who watches a thread, on all gateways, and which worker answers."""

    connections: Mapping[str, int]
    """Subject -> connections."""
    running: str | None
    state: str
    worker: str | None


def parse_page(answer: Mapping[str, Any]) -> ThreadPage:
    """Return the page that the acknowledgement of `thread:list` carries."""
    shown = answer.get("threads")
    following = answer.get("next")
    return ThreadPage(
        tuple(_summary(fields) for fields in shown if isinstance(fields, dict)) if isinstance(shown, list) else (),
        following if isinstance(following, str) else None,
    )


def parse_watched(answer: Mapping[str, Any]) -> Watched:
    """Return what the acknowledgement of `thread:presence` carries."""
    watchers = answer.get("watchers")
    found = [one for one in watchers if isinstance(one, dict)] if isinstance(watchers, list) else []
    return Watched(
        {str(one.get("subject", "")): whole(one.get("connections")) for one in found},
        _text(answer.get("running")),
        str(answer.get("state", "")),
        _text(answer.get("worker")),
    )


def _summary(fields: Mapping[str, Any]) -> ThreadSummary:
    return ThreadSummary(
        thread_id=str(fields.get("thread_id", "")),
        title=str(fields.get("title", "")),
        preview=str(fields.get("preview", "")),
        role=str(fields.get("role", "")),
        running=_text(fields.get("running")),
        state=str(fields.get("state", "idle")),
        created=whole(fields.get("created")),
        active=whole(fields.get("active")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
