"""The fold of a thread: no sockets, only items."""

from __future__ import annotations

from typing import Any

import pytest

from threadline_client import Event, Snapshot, ThreadState
from threadline_client.events import parse_event
from threadline_client.state import outcome_in, outcome_of


class Writer:
    """Writes a log in memory and applies it."""

    def __init__(self) -> None:
        self.state = ThreadState()
        self.offset = 0

    def __call__(self, name: str, request_id: str = "r1", **fields: Any) -> Event:
        self.offset += 1
        envelope = {"thread_id": "tea", "request_id": request_id, "epoch": "e", "offset": self.offset, "ts": 5}
        event = parse_event(name, envelope | fields)
        assert event is not None
        self.state.apply(event)
        return event


@pytest.fixture
def write() -> Writer:
    """Return a writer on a fresh state."""
    return Writer()


def snapshot(**fields: Any) -> Snapshot:
    return Snapshot("tea", "e", 9, **fields)


def test_an_answer_grows_and_becomes_a_message(write: Writer) -> None:
    write("chat_accepted", message="hi")
    write("inference_start")
    write("text_delta", delta="Hel")
    write("text_delta", delta="lo")
    turn = write.state.turn
    assert turn is not None
    assert (turn.text, turn.state, write.state.status) == ("Hello", "running", "running")
    write("chat_done", full_response="Hello.")
    assert write.state.turn is None
    assert write.state.status == "idle"
    assert [(message.role, message.content) for message in write.state.messages] == [
        ("user", "hi"),
        ("assistant", "Hello."),
    ]
    assert write.state.last is not None
    assert write.state.last.ok


def test_thinking_and_tools_are_kept_beside_the_text(write: Writer) -> None:
    write("thinking_delta", delta="hmm")
    write("iteration_start", round=2)
    write("tool_args_delta", delta='{"a"', tool_call_id="t", tool_name="sum")
    write("tool_call", tool_call_id="t", tool_name="sum", args={"a": 1}, round=2)
    turn = write.state.turn
    assert turn is not None
    tool = turn.tool("t")
    assert (tool.tool_name, tool.args, tool.args_text, tool.round, tool.output) == ("sum", {"a": 1}, '{"a"', 2, None)
    write("tool_result", tool_call_id="t", tool_name="sum", output="1", success=False)
    assert (tool.output, tool.success) == ("1", False)
    assert (turn.thinking, turn.round, len(turn.tools)) == ("hmm", 2, 1)


def test_a_restart_drops_what_the_lost_worker_said(write: Writer) -> None:
    write("chat_accepted", message="hi")
    write("text_delta", delta="half an ans")
    write("thinking_delta", delta="hmm")
    write("tool_call", tool_call_id="t", tool_name="sum", args={})
    write("turn_restarted", attempt=2)
    turn = write.state.turn
    assert turn is not None
    assert (turn.text, turn.thinking, turn.tools, turn.attempt) == ("", "", [], 2)
    write("text_delta", delta="whole")
    assert turn.text == "whole"


def test_a_restart_keeps_what_stands_up_to_the_last_finished_step(write: Writer) -> None:
    write("chat_accepted", message="hi")
    write("text_delta", delta="kä😀pt void")
    write("tool_call", tool_call_id="t", tool_name="sum", args={})
    write("turn_restarted", attempt=2, policy="resume", kept_offset=2, kept_text=6)
    turn = write.state.turn
    assert turn is not None
    assert (turn.text, turn.tools) == ("kä😀pt ", [])


def test_a_snapshot_brings_what_is_asked_and_not_decided(write: Writer) -> None:
    asked = [{"approval_id": "r.a", "state": "pending"}, {"approval_id": "r.b", "state": "decided"}]
    write.state.apply(snapshot(turn={"request_id": "r", "approvals": asked}))
    assert set(write.state.approvals) == {"r.a"}
    write("approval_decided", approval_id="r.a")
    assert write.state.approvals == {}


def test_a_turn_that_fails_leaves_its_text_as_an_interrupted_message(write: Writer) -> None:
    write("chat_accepted", message="hi")
    write("text_delta", delta="half")
    write("chat_error", error_type="cancelled", message="stopped")
    last = write.state.messages[-1]
    assert (last.content, last.interrupted) == ("half", True)
    assert write.state.last is not None
    assert (write.state.last.ok, write.state.last.error_type) == (False, "cancelled")


def test_a_turn_that_fails_without_a_word_leaves_no_message(write: Writer) -> None:
    write("chat_accepted", message="hi")
    write("chat_error", error_type="worker_lost", message="gone")
    assert [message.role for message in write.state.messages] == ["user"]


def test_what_waits_is_known_until_it_is_delivered_or_removed(write: Writer) -> None:
    write("queue_item_queued", "r2", item_id="i2")
    write("queue_item_queued", "r3", item_id="i3")
    assert list(write.state.queued) == ["i2", "i3"]
    write("queue_item_delivered", "r2", item_id="i2")
    write("chat_accepted", "r2", message="second")
    write("queue_item_removed", "r3", item_id="i3")
    assert write.state.queued == {}
    assert write.state.turn is not None
    assert write.state.turn.request_id == "r2"


def test_an_approval_waits_until_it_is_decided(write: Writer) -> None:
    write("approval_request", approval_id="a")
    assert list(write.state.approvals) == ["a"]
    write("approval_decided", approval_id="a", decision="yes")
    assert write.state.approvals == {}


def test_an_unknown_event_moves_the_cursor_only(write: Writer) -> None:
    write("subagent_started")
    assert (write.state.offset, write.state.turns, write.state.messages) == (1, {}, [])


def test_a_snapshot_replaces_everything(write: Writer) -> None:
    write("chat_accepted", message="old")
    write("text_delta", delta="old")
    write.state.apply(
        snapshot(
            recovered=False,
            messages=({"id": "7", "role": "user", "content": "new", "ts": 3, "request_id": "r9"},),
            turn={
                "request_id": "r9",
                "state": "running",
                "attempt": 2,
                "text": "so far",
                "thinking": "hm",
                "tools": [{"tool_call_id": "t", "tool_name": "sum", "args": {}, "round": 1}],
            },
        )
    )
    state = write.state
    assert [(message.id, message.content, message.ts) for message in state.messages] == [("7", "new", 3)]
    assert list(state.turns) == ["r9"]
    turn = state.turns["r9"]
    assert (turn.text, turn.thinking, turn.attempt, turn.tools[0].tool_name) == ("so far", "hm", 2, "sum")
    assert (state.epoch, state.offset) == ("e", 9)


def test_a_snapshot_of_nothing_says_that_the_thread_does_not_exist(write: Writer) -> None:
    write.state.apply(Snapshot("tea", "", 0, exists=False))
    assert (write.state.exists, write.state.status) == (False, "idle")


def test_a_terminal_event_is_an_outcome(write: Writer) -> None:
    done = outcome_of(write("chat_done", full_response="all"))
    failed = outcome_of(write("chat_error", error_type="turn_timeout", message="too long"), "part")
    assert (done.ok, done.text, done.error_type) == (True, "all", "")
    assert (failed.ok, failed.text, failed.error_type, failed.message) == (False, "part", "turn_timeout", "too long")


@pytest.mark.parametrize(
    ("told", "queued", "expected"),
    [
        ({"turn": {"request_id": "r1"}}, False, None),
        ({}, True, None),
        ({}, False, (False, "unknown", "")),
        ({"exists": False}, True, (False, "unknown", "")),
        ({"messages": ({"role": "assistant", "request_id": "r1", "content": "a"},)}, False, (True, "", "a")),
        (
            {"messages": ({"role": "assistant", "request_id": "r1", "content": "a", "interrupted": True},)},
            False,
            (False, "unknown", "a"),
        ),
        ({"messages": ({"role": "user", "request_id": "r1", "content": "q"},)}, True, (False, "unknown", "")),
    ],
)
def test_a_snapshot_may_tell_how_a_turn_ended(
    told: dict[str, Any], queued: bool, expected: tuple[bool, str, str] | None
) -> None:
    outcome = outcome_in(snapshot(**told), "r1", queued=queued)
    assert (outcome and (outcome.ok, outcome.error_type, outcome.text)) == expected
