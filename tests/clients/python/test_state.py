"""The fold of a thread: no sockets, only items."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from threadline_client import Event, Message, RunningTurn, Snapshot, ThreadState, ToolUse
from threadline_client.events import parse_event, parse_snapshot

SEQUENCES = Path(__file__).parents[1] / "sequences"


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


def test_a_snapshot_brings_what_is_asked_and_not_decided(write: Writer) -> None:
    asked = [{"approval_id": "r.a", "state": "pending"}, {"approval_id": "r.b", "state": "decided"}]
    write.state.apply(snapshot(turn={"request_id": "r", "approvals": asked}))
    assert [approval.approval_id for approval in write.state.approvals] == ["r.a"]
    write("approval_decided", "r", approval_id="r.a")
    assert write.state.approvals == []


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
    write("queue_item_queued", "r2", item_id="r2", lane="followup", position=1)
    write("queue_item_queued", "r3", item_id="r3", lane="followup", position=2)
    assert [(item.item_id, item.position) for item in write.state.queue] == [("r2", 1), ("r3", 2)]
    write("queue_item_delivered", "r2", item_id="r2", lane="followup")
    write("chat_accepted", "r2", message="second")
    assert [(item.item_id, item.position) for item in write.state.queue] == [("r3", 1)]
    write("queue_item_removed", "r3", item_id="r3", lane="followup")
    assert write.state.queue == []
    assert write.state.turn is not None
    assert write.state.turn.request_id == "r2"


def test_an_approval_waits_until_it_is_decided(write: Writer) -> None:
    write("approval_request", approval_id="a")
    assert [approval.approval_id for approval in write.state.approvals] == ["a"]
    assert write.state.status == "waiting"
    write("approval_decided", approval_id="a", decision="yes")
    assert write.state.approvals == []
    assert write.state.status == "running"


def test_an_unknown_event_moves_the_cursor_only(write: Writer) -> None:
    write("subagent_started")
    assert (write.state.offset, write.state.turn, write.state.messages) == (1, None, [])


def test_a_snapshot_replaces_everything(write: Writer) -> None:
    write("chat_accepted", message="old")
    write("text_delta", delta="old")
    write.state.apply(
        snapshot(
            recovered=False,
            messages=({"id": 7, "role": "user", "content": "new", "ts": 3, "request_id": "r9"},),
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
    assert [(message.id, message.content, message.ts) for message in state.messages] == [(7, "new", 3)]
    turn = state.turn
    assert turn is not None
    assert turn.request_id == "r9"
    assert (turn.text, turn.thinking, turn.attempt, turn.tools[0].tool_name) == ("so far", "hm", 2, "sum")
    assert (state.epoch, state.offset) == ("e", 9)


def test_a_snapshot_of_nothing_says_that_the_thread_does_not_exist(write: Writer) -> None:
    write.state.apply(Snapshot("tea", "", 0, exists=False))
    assert (write.state.exists, write.state.status) == (False, "idle")


def item_of(line: dict[str, Any]) -> Event | Snapshot:
    """Return the item that a line of a sequence stands for."""
    if line["event"] == "snapshot":
        told = parse_snapshot("tea", line)
        return told if line.get("exists", True) else Snapshot("tea", "", 0, exists=False)
    event = parse_event(line["event"], {"thread_id": "tea", **line})
    assert event is not None, line
    return event


def shown(state: ThreadState) -> dict[str, Any]:
    """Return what both clients have to agree on."""

    def turn(one: RunningTurn) -> dict[str, Any]:
        return {name: value for name, value in asdict(one).items() if name != "kept"}

    def message(one: Message) -> dict[str, Any]:
        return asdict(one)

    outcome = None if state.last is None else {k: v for k, v in asdict(state.last).items() if k != "fields"}
    view = {
        "exists": state.exists,
        "epoch": state.epoch,
        "offset": state.offset,
        "status": state.status,
        "messages": [message(one) for one in state.messages],
        "turn": None if state.turn is None else turn(state.turn),
        "parallel": [turn(one) for one in state.parallel],
        "queue": [asdict(one) for one in state.queue],
        "approvals": [asdict(one) for one in state.approvals],
        "last": outcome,
    }
    plain: dict[str, Any] = json.loads(json.dumps(view))
    return plain


@pytest.mark.parametrize("path", sorted(SEQUENCES.glob("*.json")), ids=lambda path: path.stem)
def test_a_sequence_comes_to_the_same_end_as_in_the_typescript_client(path: Path) -> None:
    sequence = json.loads(path.read_text())
    state = ThreadState()
    for line in sequence["items"]:
        state.apply(item_of(line))
    assert shown(state) == sequence["expected"], sequence["what"]


def test_a_parallel_turn_that_has_ended_stays_until_it_is_dismissed(write: Writer) -> None:
    write("chat_accepted", message="aside", lane="parallel")
    write.state.dismiss("r1")
    assert len(write.state.parallel) == 1
    write("chat_done", full_response="yes")
    write.state.dismiss("r1")
    assert write.state.parallel == []


def test_of_many_parallel_turns_that_have_ended_the_newest_are_kept(write: Writer) -> None:
    for number in range(20):
        write("chat_accepted", f"r{number}", message="aside", lane="parallel")
        write("chat_done", f"r{number}", full_response="yes")
    assert [turn.request_id for turn in write.state.parallel] == [f"r{number}" for number in range(4, 20)]


def test_the_lanes_of_a_status_replace_what_waits(write: Writer) -> None:
    write("queue_item_queued", "r2", item_id="r2", lane="followup", position=1)
    write.state.lanes({"followup": [{"item_id": "r4", "preview": "d"}], "steer": [{"item_id": "r3", "preview": "c"}]})
    assert [(item.item_id, item.lane, item.position) for item in write.state.queue] == [
        ("r3", "steer", 1),
        ("r4", "followup", 1),
    ]


def test_what_a_message_keeps_of_its_tools_does_not_change_with_a_later_turn(write: Writer) -> None:
    write("tool_call", tool_call_id="t", tool_name="sum", args={})
    write("chat_done", full_response="5")
    write("tool_result", "r2", tool_call_id="t", tool_name="sum", output="6")
    assert write.state.messages[-1].tools == [ToolUse("t", "sum", {})]
