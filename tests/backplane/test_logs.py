"""Nobody outside can forge a line, fill the disk, read a token, or reach the reader's terminal."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from backplane import logs
from backplane.settings import Settings
from backplane.traces import received, within
from tests.support.spans import CALLER, CALLER_ID, TRACE_ID


class Clock:
    """Seconds that move when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


Start = Callable[..., tuple[io.StringIO, Clock]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Configure logging into a text, and put back what was there."""
    root = logging.getLogger()
    level = root.level
    levels = {name: logging.getLogger(name).level for name in logs.QUIET}
    kept: list[logging.Handler] = []

    def configured(**settings: Any) -> tuple[io.StringIO, Clock]:
        # pytest keeps what is logged for its report, which cannot hold a lone surrogate
        for handler in list(root.handlers):
            if not isinstance(handler, logs.BoundedHandler):
                kept.append(handler)
                root.removeHandler(handler)
        text, clock = io.StringIO(), Clock()
        logs.configure(Settings(**settings), stream=text, clock=clock)
        return text, clock

    yield configured
    structlog.reset_defaults()
    root.setLevel(level)
    for handler in list(root.handlers):
        if isinstance(handler, logs.BoundedHandler):
            root.removeHandler(handler)
            handler.close()
    root.handlers.extend(kept)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def lines(text: io.StringIO) -> list[str]:
    return text.getvalue().splitlines()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_line_says_what_happened_where_and_how_bad_it_is(start: Start, log_format: str) -> None:
    text, _ = start(log_format=log_format)
    structlog.get_logger("gateway.sockets").warning("connection_cut", session="s1", count=3)
    (line,) = lines(text)
    for word in ("connection_cut", "s1", "3", "warning", "gateway.sockets"):
        assert word in line


def test_json_is_for_machines(start: Start) -> None:
    text, _ = start(log_format="json")
    structlog.get_logger("gateway").info("ready", port=8080, nested={"a": [1, None, True]})
    logging.getLogger("some.library").warning("%s is odd", "x")
    own, foreign = (json.loads(line) for line in lines(text))
    assert own["event"] == "ready"
    assert own["port"] == 8080
    assert own["nested"] == {"a": [1, None, True]}
    assert (own["level"], own["logger"]) == ("info", "gateway")
    assert own["timestamp"].endswith("Z")
    assert (foreign["event"], foreign["level"], foreign["logger"]) == ("x is odd", "warning", "some.library")


def test_lines_within_a_span_name_its_trace_those_of_libraries_too(start: Start) -> None:
    text, _ = start(log_format="json")
    with within(received(CALLER)):
        structlog.get_logger("gateway").info("own")
        logging.getLogger("library").warning("foreign")
    structlog.get_logger("gateway").info("outside")
    own, foreign, outside = (json.loads(line) for line in lines(text))
    assert (own["trace_id"], own["span_id"]) == (foreign["trace_id"], foreign["span_id"]) == (TRACE_ID, CALLER_ID)
    assert "trace_id" not in outside


FORGERIES = ["a\nCRITICAL root", "a\r\nb", "\x1b[2Jx", "\x9b31m", "\u2028x", "\u202ex", "\x00", "\x07", "\ud800"]


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("forgery", FORGERIES)
def test_no_value_ends_a_line_or_reaches_the_terminal(start: Start, log_format: str, forgery: str) -> None:
    text, _ = start(log_format=log_format)
    log = structlog.get_logger("gateway")
    log.warning("event", value=forgery)
    log.warning("event", value={forgery: [forgery]})
    log.warning("event", value=ValueError(forgery))
    log.warning(forgery)
    library = logging.getLogger("library")
    library.warning("got %s", forgery)
    library.warning(forgery)
    written = text.getvalue()
    assert written.count("\n") == 6
    assert not logs._UNSAFE.search(written.replace("\n", ""))


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_traceback_cannot_be_taken_for_other_lines(start: Start, log_format: str) -> None:
    text, _ = start(log_format=log_format)
    try:
        raise ValueError("bad\n2026-01-01 CRITICAL root \x1b[2J")
    except ValueError:
        structlog.get_logger("gateway").exception("handler_failed")
    first, *rest = lines(text)
    assert "handler_failed" in first
    assert "\x1b" not in text.getvalue()
    assert all(line.startswith("    | ") for line in rest)
    assert "ValueError" in text.getvalue()
    assert (rest == []) == (log_format == "json")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_tokens_are_never_written(start: Start, log_format: str) -> None:
    text, _ = start(log_format=log_format)
    log = structlog.get_logger("gateway")
    log.info("a", token="s3cret", jwt_secret="s3cret", headers={"Authorization": "Bearer s3cret"})
    log.info("b", path="/threads/t/events?access_token=s3cret&x=1", note="Bearer s3cret")
    logging.getLogger("library").warning("GET %s", "/x?token=s3cret")
    assert "s3cret" not in text.getvalue()
    assert "&x=1" in text.getvalue()
    log.info("c", token=None, input_tokens=12)
    assert lines(text)[-1].count("hidden") == 0


def test_a_long_value_is_cut(start: Start) -> None:
    text, _ = start()
    structlog.get_logger("gateway").info("event", value="x" * 1_000_000, many=list(range(10_000)))
    assert len(text.getvalue()) < 2 * logs.MAX_VALUE
    assert "998000 more" in text.getvalue()


def test_lines_below_the_level_are_not_written(start: Start) -> None:
    text, _ = start(log_level="warning")
    structlog.get_logger("gateway").info("quiet")
    logging.getLogger("library").info("quiet")
    structlog.get_logger("gateway").warning("loud")
    assert [line for line in lines(text) if "quiet" in line] == []
    assert len(lines(text)) == 1


@pytest.mark.parametrize("name", ["uvicorn.access", "uvicorn.error", "engineio.server", "socketio.server", "httpx"])
def test_libraries_that_write_what_clients_send_begin_at_warning(
    start: Start, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a uvicorn that served in this process before has cut its access log off
    monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    text, _ = start(log_level="debug")
    logging.getLogger(name).info("GET /?access_token=x")
    assert lines(text) == []
    logging.getLogger(name).warning("something is wrong")
    assert len(lines(text)) == 1


# --- repeated lines ---------------------------------------------------------------------------------------


def test_a_repeated_line_is_written_ten_times_a_second_and_then_counted(start: Start) -> None:
    text, clock = start()
    log = structlog.get_logger("gateway")
    for number in range(1000):
        log.warning("packet_refused", number=number)
    assert len(lines(text)) == logs.LINES_PER_SECOND
    clock.now += logs.WINDOW
    log.warning("packet_refused", number=1000)
    assert len(lines(text)) == logs.LINES_PER_SECOND + 2
    assert "suppressed 990 lines of gateway: packet_refused" in lines(text)[-2]


def test_what_was_left_out_is_said_with_the_next_line_of_any_kind(start: Start) -> None:
    text, clock = start(log_format="json")
    for _ in range(12):
        logging.getLogger("library").warning("odd %s", "thing")
    clock.now += logs.WINDOW
    structlog.get_logger("gateway").info("other")
    events = [json.loads(line)["event"] for line in lines(text)]
    assert events[-2:] == ["suppressed 2 lines of library: odd %s", "other"]


def test_one_noisy_event_takes_no_lines_from_another(start: Start) -> None:
    text, _ = start()
    log = structlog.get_logger("gateway")
    for _ in range(100):
        log.warning("noisy")
    log.warning("rare")
    assert "rare" in lines(text)[-1]


def test_events_that_are_all_different_are_bounded_too(start: Start) -> None:
    text, clock = start()
    for number in range(3 * logs.MAX_EVENTS):
        logging.getLogger("library").warning(f"client text {number}")
    assert len(lines(text)) == logs.MAX_EVENTS + logs.LINES_PER_SECOND
    clock.now += logs.WINDOW
    structlog.get_logger("gateway").info("later")
    assert "other events" in lines(text)[-2]


def test_what_was_left_out_last_is_said_at_the_end(start: Start) -> None:
    text, _ = start()
    for _ in range(15):
        structlog.get_logger("gateway").warning("noisy")
    start()
    assert "suppressed 5 lines" in lines(text)[-1]


def test_configuring_again_writes_each_line_once(start: Start) -> None:
    start()
    text, _ = start()
    structlog.get_logger("gateway").info("once")
    assert len(lines(text)) == 1
