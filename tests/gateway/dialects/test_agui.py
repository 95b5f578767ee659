"""AG-UI: what each kind of turn becomes, event by event, and that no order of events breaks the protocol's rules."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.agui import AgUi
from gateway.dialects.view import Frame
from tests.gateway.dialects.steps import (
    DONE,
    ENDS,
    MEANINGLESS,
    QUEUED,
    REMOVED,
    STEPS,
    TAKEN_IN,
    TURN,
    R,
    Step,
    approval,
    args,
    call,
    ended,
    failed,
    result,
    text,
    thinking,
)


class Told:
    """Feeds a view, and gives each event its offset."""

    def __init__(self, **options: Any) -> None:
        self.view = AgUi("t", "run", R, **options)
        self.frames = self.view.begin()
        self._offset = 0

    def __call__(self, name: str, **fields: Any) -> list[Frame]:
        self._offset += 1
        frames = self.view.feed(name, {"request_id": R, "offset": self._offset, **fields})
        self.frames += frames
        return frames

    @property
    def types(self) -> list[str]:
        return [frame["type"] for frame in self.frames]


def told(*steps: Step, **options: Any) -> Told:
    found = Told(**options)
    for name, fields in steps:
        found(name, **fields)
    return found


def verified(frames: list[Frame]) -> None:
    """Hold the frames to the rules of the protocol: what is opened once is closed once, and a run has one end."""
    opened: set[tuple[str, str]] = set()
    assert frames[0]["type"] == "RUN_STARTED"
    for place, frame in enumerate(frames[1:], 1):
        kind, _, act = frame["type"].rpartition("_")
        about = (kind, frame.get("messageId") or frame.get("toolCallId") or "")
        if act == "START":
            assert about not in opened
            opened.add(about)
        elif act in {"CONTENT", "ARGS"}:
            assert about in opened
        elif act == "END":
            opened.remove(about)
        elif frame["type"] in {"RUN_FINISHED", "RUN_ERROR"}:
            assert not opened
            assert place == len(frames) - 1


def test_a_turn_of_text_is_one_message() -> None:
    assert told(text("Hel"), text("lo"), DONE).frames == [
        {"type": "RUN_STARTED", "threadId": "t", "runId": "run"},
        {"type": "TEXT_MESSAGE_START", "messageId": "turn-1", "role": "assistant"},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "turn-1", "delta": "Hel"},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "turn-1", "delta": "lo"},
        {"type": "TEXT_MESSAGE_END", "messageId": "turn-1"},
        {"type": "RUN_FINISHED", "threadId": "t", "runId": "run", "outcome": {"type": "success"}},
    ]


def test_thinking_tools_and_text_follow_each_other() -> None:
    found = told(
        ("iteration_start", {"round": 1}), thinking("Hm."), args('{"x":'), args("1}"), call(x=1), result(),
        ("iteration_start", {"round": 2}), text("Three."), DONE,
    )  # fmt: skip
    verified(found.frames)
    assert found.types[1:] == [
        "REASONING_START", "REASONING_MESSAGE_START", "REASONING_MESSAGE_CONTENT",
        "REASONING_MESSAGE_END", "REASONING_END",
        "TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_ARGS", "TOOL_CALL_END", "TOOL_CALL_RESULT",
        "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END", "RUN_FINISHED",
    ]  # fmt: skip


def test_a_call_without_deltas_has_its_arguments_whole() -> None:
    found = told(call(x=1), result())
    assert found.frames[1:] == [
        {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "add", "parentMessageId": "turn-1"},
        {"type": "TOOL_CALL_ARGS", "toolCallId": "c", "delta": '{"x":1}'},
        {"type": "TOOL_CALL_END", "toolCallId": "c"},
        {"type": "TOOL_CALL_RESULT", "messageId": "turn-c", "toolCallId": "c", "content": "3", "role": "tool"},
    ]


def test_calls_belong_to_the_text_before_them_and_the_answer_to_a_result_is_a_new_message() -> None:
    found = told(text("Look."), call("a"), call("b"), result("a"), result("b"), text("Done."))
    starts = [frame for frame in found.frames if frame["type"].endswith("_START")]
    assert [frame.get("parentMessageId", frame.get("messageId")) for frame in starts] == [
        "turn-1", "turn-1", "turn-1", "turn-2",
    ]  # fmt: skip


def test_what_comes_twice_is_told_once() -> None:
    assert told(call(), call(), args("{}"), result(), result(), call()).types.count("TOOL_CALL_START") == 1


@pytest.mark.parametrize("error_type", ["cancelled", "superseded"])
def test_a_turn_that_was_stopped_is_cancelled(error_type: str) -> None:
    found = told(text("Hel"), failed(error_type))
    verified(found.frames)
    assert found.frames[-1]["outcome"] == {"type": "cancelled"}


def test_a_turn_that_failed_is_an_error() -> None:
    found = told(thinking("Hm"), args("{"), failed("worker_lost"))
    verified(found.frames)
    assert found.frames[-1] == {"type": "RUN_ERROR", "message": "It broke.", "code": "worker_lost"}


def test_what_a_turn_cost_is_told() -> None:
    usage = {"input_tokens": 3, "output_tokens": 4, "model": "m"}
    found = told(("chat_done", {"full_response": "", "timing": {}, "usage": usage}))
    assert found.frames[-1]["usage"] == [{"inputTokens": 3, "outputTokens": 4, "model": "m"}]


def test_an_approval_ends_the_run_with_an_interrupt() -> None:
    found = told(text("May I?"), call(x=1), approval(x=1))
    verified(found.frames)
    [interrupt] = found.frames[-1]["outcome"]["interrupts"]
    assert found.view.ended
    assert interrupt["id"] == "turn.a"
    assert interrupt["toolCallId"] == "c"
    assert interrupt["reason"] == "tool_call"
    assert interrupt["expiresAt"] == "2023-11-14T22:13:20+00:00"
    assert interrupt["metadata"] == {"toolName": "add", "args": {"x": 1}}


def test_a_question_ends_the_run_with_what_may_be_answered() -> None:
    asked = {"kind": "question", "question": "Which?", "options": ["a", "b"], "approval_id": "turn.q"}
    found = told(("approval_request", {**asked, "expires_at": 0}))
    [interrupt] = found.frames[-1]["outcome"]["interrupts"]
    assert interrupt["message"] == "Which?"
    assert interrupt["responseSchema"]["properties"]["answer"]["enum"] == ["a", "b"]
    assert "toolCallId" not in interrupt


def test_a_question_that_is_decided_does_not_end_the_run() -> None:
    view = AgUi("t", "run", R)
    view.settle(frozenset({"turn.a"}))
    assert view.feed(approval()[0], {"request_id": R, "offset": 1, **approval()[1]}) == []
    assert not view.ended


def test_a_restart_takes_back_what_was_said() -> None:
    given = [{"id": "u1", "role": "user", "content": "hi"}, {"id": "turn-1", "role": "assistant", "content": "old"}]
    found = told(
        text("Hel"), call("a"), result("a"), ("turn_restarted", {"attempt": 2}), text("Again."), DONE, given=given
    )
    verified(found.frames)
    [snapshot] = [frame for frame in found.frames if frame["type"] == "MESSAGES_SNAPSHOT"]
    assert snapshot["messages"] == given[:1]
    assert found.frames[-3] == {"type": "TEXT_MESSAGE_CONTENT", "messageId": "turn-2", "delta": "Again."}


def test_a_restart_that_keeps_a_part_takes_back_the_rest() -> None:
    """Up to the offset, and a tool that has run there is not told again."""
    restart = ("turn_restarted", {"attempt": 2, "kept_offset": 3})
    found = told(text("Kept. "), call("a", x=1), result("a"), text("Void."), call("b"), restart, call("a", x=1))
    verified(found.frames)
    [snapshot] = [frame for frame in found.frames if frame["type"] == "MESSAGES_SNAPSHOT"]
    function = {"name": "add", "arguments": '{"x":1}'}
    assert snapshot["messages"] == [
        {
            "id": "turn-1",
            "role": "assistant",
            "content": "Kept. ",
            "toolCalls": [{"id": "a", "type": "function", "function": function}],
        },
        {"id": "turn-a", "role": "tool", "toolCallId": "a", "content": "3"},
    ]
    assert found.frames[-1] == snapshot


def test_a_restart_before_anything_was_said_takes_nothing_back() -> None:
    assert told(("turn_restarted", {"attempt": 2})).types == ["RUN_STARTED"]


def test_a_stream_that_goes_on_opens_again_what_is_being_written() -> None:
    view = AgUi("t", "run", R)
    for place, (name, fields) in enumerate([text("Hel"), call("a"), args("{", "b"), args("{", "c")]):
        view.feed(name, {"request_id": R, "offset": place, **fields})
    assert [frame["type"] for frame in view.begin()] == ["RUN_STARTED", "TOOL_CALL_START", "TOOL_CALL_START"]
    frames = view.feed("chat_done", {"request_id": R, "offset": 9, "full_response": "", "timing": {}})
    assert [frame["type"] for frame in frames] == ["TOOL_CALL_END", "TOOL_CALL_END", "RUN_FINISHED"]


def test_a_stream_behind_the_end_tells_the_end_alone() -> None:
    view = AgUi("t", "run", R)
    view.feed("chat_error", {"request_id": R, "offset": 1, **failed("cancelled")[1]})
    assert [frame["type"] for frame in view.begin()] == ["RUN_STARTED", "RUN_FINISHED"]


def test_a_message_that_waits_is_told_and_its_end_without_a_turn_too() -> None:
    begun: Step = ("queue_item_delivered", {"item_id": R, "lane": "followup"})
    assert told(QUEUED).frames[-1]["value"] == {"lane": "steer", "position": 1}
    assert told(QUEUED, TAKEN_IN).frames[-1]["result"] == {"deliveredInto": "other"}
    assert told(QUEUED, REMOVED).frames[-1]["outcome"] == {"type": "cancelled"}
    assert not told(QUEUED, begun).view.ended


def test_other_turns_and_what_has_no_meaning_here_are_passed_over() -> None:
    view = AgUi("t", "run", R)
    assert view.feed("text_delta", {"request_id": "other", "offset": 1, "delta": "x"}) == []
    for name in MEANINGLESS:
        assert view.feed(name, {"request_id": R, "offset": 2}) == []
    assert view.feed("degraded", {"degraded": True})[-1]["value"] == {"degraded": True}
    assert view.feed("thread_deleted", {})[-1]["code"] == "thread_deleted"


def test_each_frame_has_the_time_of_its_event() -> None:
    view = AgUi("t", "run", R)
    assert view.feed("text_delta", {"request_id": R, "offset": 1, "delta": "x", "ts": 5})[0]["timestamp"] == 5


def test_a_snapshot_stands_for_what_the_log_lost() -> None:
    view = AgUi("t", "run", R, [{"id": "u", "role": "user", "content": "hi"}])
    [frame] = view.adopt({"turn": TURN, "parallel": [], "messages": []})
    assert [message["role"] for message in frame["messages"]] == ["user", "reasoning", "assistant", "tool", "assistant"]
    assert frame["messages"][-1]["content"] == "so far"
    frames = [*view.begin(), frame]
    for name, fields in (result("b"), text("more"), DONE):
        frames += view.feed(name, {"request_id": R, "offset": 9, **fields})
    verified(frames)


def test_a_snapshot_of_a_turn_that_waits_asks_again() -> None:
    pending = {"state": "pending", "decision": None, "by": None, **approval()[1]}
    decided = {**pending, "state": "decided", "approval_id": "turn.old"}
    turn = {**TURN, "tools": [], "approvals": [decided, pending]}
    frames = AgUi("t", "run", R).adopt({"turn": None, "parallel": [turn], "messages": []})
    assert frames[-1]["outcome"]["interrupts"][0]["id"] == "turn.a"


def test_a_snapshot_of_a_turn_that_asks_several_things_has_one_end() -> None:
    pending = [{"state": "pending", **approval(f"turn.{number}")[1]} for number in range(2)]
    view = AgUi("t", "run", R)
    verified([*view.begin(), *view.adopt({"turn": {**TURN, "approvals": pending}, "parallel": [], "messages": []})])


def test_a_restart_takes_back_what_a_snapshot_said() -> None:
    view = AgUi("t", "run", R)
    view.adopt({"turn": TURN, "parallel": [], "messages": []})
    [snapshot] = view.feed("turn_restarted", {"request_id": R, "offset": 9, "attempt": 2})
    assert snapshot["messages"] == []


def test_a_restart_that_keeps_a_part_of_a_snapshot_takes_back_the_rest() -> None:
    view = AgUi("t", "run", R)
    view.adopt({"turn": TURN, "parallel": [], "messages": []})
    restart = {"request_id": R, "offset": 9, "attempt": 2, "kept_offset": 5, "kept_text": 2}
    [snapshot] = view.feed("turn_restarted", restart)
    assert [message.get("content") for message in snapshot["messages"]] == ["Hm", None, "3", "so"]
    assert [call["id"] for call in snapshot["messages"][1]["toolCalls"]] == ["a"]


@pytest.mark.parametrize(("more", "outcome"), [({}, "success"), ({"interrupted": True}, "cancelled")])
def test_a_snapshot_without_the_turn_has_its_answer(more: Any, outcome: str) -> None:
    frames = AgUi("t", "run", R).adopt(ended(**more))
    assert frames[0]["messages"][-1]["content"] == "It was."
    assert frames[-1]["outcome"]["type"] == outcome


@settings(deadline=None, max_examples=300)
@given(st.lists(STEPS, max_size=12), ENDS, st.integers(0, 12))
def test_no_order_of_events_breaks_the_rules(steps: list[Step], end: Step, cut: int) -> None:
    """Whatever an agent yields, and wherever a stream broke off and went on."""
    whole = told(*steps, end)
    verified(whole.frames)
    json.dumps(whole.frames)
    again = AgUi("t", "run", R)
    events = list(enumerate([*steps, end], 1))
    for place, (name, fields) in events[:cut]:
        again.feed(name, {"request_id": R, "offset": place, **fields})
    frames = again.begin()
    for place, (name, fields) in events[cut:]:
        frames += again.feed(name, {"request_id": R, "offset": place, **fields})
    verified(frames)
