"""A running turn, event by event."""

from __future__ import annotations

from typing import Any

import pytest

from threadline_client import Event, RunningTurn
from threadline_client.running import PROGRESS, turn_of


class Teller:
    """Tells a turn what happens in it."""

    def __init__(self) -> None:
        self.turn = RunningTurn("r1")
        self._offset = 1

    def __call__(self, name: str, **fields: Any) -> None:
        self._offset += 1
        PROGRESS[name](self.turn, Event(name, "tea", "r1", "e", self._offset, self._offset, fields))


@pytest.fixture
def tell() -> Teller:
    """Return a teller for a turn whose first event is at offset 2."""
    return Teller()


def test_thinking_and_tools_are_kept_beside_the_text(tell: Teller) -> None:
    tell("inference_start", attempt=1)
    tell("thinking_delta", delta="hmm")
    tell("iteration_start", round=2)
    tell("tool_args_delta", delta='{"a"', tool_call_id="t", tool_name="sum")
    tell("tool_call", tool_call_id="t", tool_name="sum", args={"a": 1}, round=2)
    turn = tell.turn
    tool = turn.tool("t")
    assert (tool.tool_name, tool.args, tool.args_text, tool.round, tool.output) == ("sum", {"a": 1}, '{"a"', 2, None)
    tell("tool_result", tool_call_id="t", tool_name="sum", output="1", success=False)
    assert (tool.output, tool.success) == ("1", False)
    assert (turn.state, turn.thinking, turn.round, len(turn.tools)) == ("running", "hmm", 2, 1)


def test_a_restart_drops_what_the_lost_worker_said(tell: Teller) -> None:
    tell("text_delta", delta="half an ans")
    tell("thinking_delta", delta="hmm")
    tell("tool_call", tool_call_id="t", tool_name="sum", args={})
    tell("turn_restarted", attempt=2)
    turn = tell.turn
    assert (turn.state, turn.text, turn.thinking, turn.tools, turn.attempt) == ("ready", "", "", [], 2)
    tell("text_delta", delta="whole")
    assert turn.text == "whole"


def test_a_restart_keeps_what_stands_up_to_the_last_finished_step(tell: Teller) -> None:
    tell("text_delta", delta="kept ")
    tell("tool_call", tool_call_id="t", tool_name="sum", args={})
    tell("step_done")
    tell("tool_result", tool_call_id="t", tool_name="sum", output="1")
    tell("text_delta", delta="void")
    tell("turn_restarted", attempt=2, policy="resume", kept_offset=4)
    assert (tell.turn.text, [tool.output for tool in tell.turn.tools]) == ("kept ", [None])


def test_a_restart_behind_a_step_that_was_not_seen_keeps_as_much_text_as_it_says(tell: Teller) -> None:
    tell("text_delta", delta="kä😀pt void")
    tell("tool_call", tool_call_id="t", tool_name="sum", args={})
    tell("turn_restarted", attempt=2, policy="resume", kept_offset=2, kept_text=6)
    assert (tell.turn.text, tell.turn.tools) == ("kä😀pt ", [])


def test_the_turn_of_a_snapshot_waits_while_it_asks() -> None:
    asked = [{"approval_id": "r.a", "state": "decided"}, {"approval_id": "r.b", "state": "pending"}]
    told = {"request_id": "r", "state": "running", "attempt": 2, "tools": [{"tool_call_id": "t", "round": 3}]}
    assert turn_of(told).state == "running"
    turn = turn_of({**told, "approvals": asked})
    assert (turn.state, turn.attempt, turn.text, turn.tools[0].round) == ("waiting", 2, "", 3)
