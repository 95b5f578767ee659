"""What a process says about itself: one line per event, on standard error, as text for people or as JSON.

A line can hold what a stranger sent. So every value is escaped, long ones are cut, tokens are blotted out, and a
line that repeats is bounded: whoever can make a node write a line must not be able to fill its disk, to forge
another line, or to reach the terminal of who reads it.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from backplane.settings import Settings
from backplane.traces import named_in_logs

LINES_PER_SECOND = 10
"""Lines of one event in a second, before the rest is counted instead of written."""
UNBOUNDED = frozenset({"audit"})
"""Loggers whose lines are never left out: what they write is bounded by the limits of calls."""
MAX_VALUE = 2_000
"""Characters of one value."""
MAX_EVENTS = 1_000
"""Different events that are counted at once; beyond that they share one count."""
WINDOW = 1.0

QUIET = (
    "asyncio", "engineio", "httpcore", "httpx", "openai", "socketio", "sse_starlette", "uvicorn", "websockets",
)  # fmt: skip
"""Libraries that write at the level info what clients send and where requests go; theirs begins at warning."""

# Control characters, what ends a line, what turns the direction of text round (Trojan Source, CVE-2021-42574),
# and halves of characters, which no UTF-8 stream can hold.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SECRET_NAME = re.compile(r"token|secret|password|authorization|api_?key", re.IGNORECASE)
_SECRET_TEXT = re.compile(r"((?:access_token|token)=|Bearer\s+)[^\s&\"',;]+", re.IGNORECASE)
_OWN = frozenset({"event", "exception", "exc_info", "level", "logger", "timestamp", "_record", "_from_structlog"})


def configure(settings: Settings, *, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
    """Set up structlog and the standard library's logging for this process, by `log_level` and `log_format`.

    What was set up before is replaced. Run uvicorn with `log_config=None`, or it sets up its own.

    Args:
        settings: `log_level` and `log_format` are read.
        stream: where to write; standard error without it.
        clock: seconds that never go back, by which repeated lines are bounded.
    """
    level = logging.getLevelName(settings.log_level.upper())
    target = stream or sys.stderr
    added: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        named_in_logs,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*added, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    handler = BoundedHandler(target, clock)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=added,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(settings, target)],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old, BoundedHandler):
            root.removeHandler(old)
            old.close()
    root.addHandler(handler)
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _rendering(settings: Settings, target: TextIO) -> list[Processor]:
    if settings.log_format == "json":
        return [escape, structlog.processors.JSONRenderer()]
    colours = target.isatty() and not os.environ.get("NO_COLOR")  # https://no-color.org
    return [
        escape,
        indent_exception,
        structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback),
    ]


def escape(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
    """Escape what could end a line or reach a terminal, blot out tokens, and cut long values."""
    return {
        _clean(str(name)): value if name == "exception" else _safe(str(name), value)
        for name, value in event_dict.items()
    }


def _safe(name: str, value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if name not in _OWN and _SECRET_NAME.search(name):
        return "[hidden]"
    if isinstance(value, Mapping):
        return {_clean(str(key)): _safe(str(key), inner) for key, inner in list(value.items())[:100]}
    if isinstance(value, list | tuple | set | frozenset):
        return [_safe(name, inner) for inner in list(value)[:100]]
    return _clean(str(value))


def _clean(text: str) -> str:
    cut = text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}… ({len(text) - MAX_VALUE} more)"
    return _UNSAFE.sub(_escaped, _SECRET_TEXT.sub(r"\1[hidden]", cut))


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return {10: "\\n", 13: "\\r", 9: "\\t"}.get(code, f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def indent_exception(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
    """Set a traceback's lines off, so that no message of an exception can look like a line of the log."""
    trace = event_dict.get("exception")
    if isinstance(trace, str):
        event_dict["exception"] = "\n".join(f"    | {_clean(line)}" for line in trace.split("\n"))
    return event_dict


@dataclass(slots=True)
class _Window:
    began: float
    written: int = 0
    suppressed: int = 0


class BoundedHandler(logging.StreamHandler[TextIO]):
    """Writes at most `LINES_PER_SECOND` lines of one event, then one line that says how many it left out.

    An event is a logger's name and the constant part of a line: structlog's event, or the standard library's
    format before its arguments are filled in.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._clock = clock
        self._windows: dict[tuple[str, str], _Window] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it."""
        if record.name in UNBOUNDED:
            super().emit(record)
            return
        now = self._clock()
        self._report(now)
        key = self._key(record)
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = _Window(now)
        if window.written < LINES_PER_SECOND:
            window.written += 1
            super().emit(record)
        else:
            window.suppressed += 1

    def close(self) -> None:
        """Say what was left out last, and close."""
        self._report(float("inf"))
        super().close()

    def _key(self, record: logging.LogRecord) -> tuple[str, str]:
        event = record.msg.get("event", "") if isinstance(record.msg, Mapping) else record.msg
        key = (record.name, str(event)[:200])
        # A library that puts a stranger's text into the format makes each line a new event.
        return key if key in self._windows or len(self._windows) < MAX_EVENTS else ("", "other events")

    def _report(self, now: float) -> None:
        over = [key for key, window in self._windows.items() if now - window.began >= WINDOW]
        for logger, event in over:
            suppressed = self._windows.pop((logger, event)).suppressed
            if suppressed:
                super().emit(_suppression(logger, event, suppressed))


def _suppression(logger: str, event: str, count: int) -> logging.LogRecord:
    said: MutableMapping[str, Any] = {"suppressed": count, "of": event, "of_logger": logger}
    text = "suppressed %(suppressed)d lines of %(of_logger)s: %(of)s"
    return logging.LogRecord("backplane.logs", logging.WARNING, __file__, 0, text, (said,), None)
