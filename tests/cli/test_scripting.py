"""send, tail and cancel, against scripted gateways: what they print, and their exit codes."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cli.exits import Exit
from cli.scripting import Output, cancel, parse_after, send, tail
from tests.clients.python.scripted_gateway import Deployment, ScriptedGateway, ScriptedThread, gateways
from threadline_client import Cursor


class Paper(Output):
    """An output that can be read."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.out, self.notes = io.StringIO(), io.StringIO()
        super().__init__(self.out, self.notes, as_json=as_json)

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.getvalue().splitlines()]


Fleet = tuple[Deployment, list[ScriptedGateway]]


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    """Return a deployment with two gateways."""
    async with gateways(2) as running:
        yield running


def urls(fleet: Fleet) -> list[str]:
    return [node.url for node in fleet[1]]


def answers(deployment: Deployment, *events: tuple[str, dict[str, Any]]) -> None:
    """Write these events into the log right behind each accepted message."""

    def write(thread: ScriptedThread, request_id: str, payload: dict[str, Any]) -> None:
        for name, fields in events:
            deployment.append(thread.id, request_id, name, **fields)

    deployment.on_start = write


async def test_send_prints_the_request_id(fleet: Fleet) -> None:
    paper = Paper()
    assert await send(urls(fleet), None, "tea", "hi", paper) is Exit.DONE
    assert paper.out.getvalue() == "r1\n"
    assert paper.notes.getvalue() == "accepted at e1:1\n"


async def test_send_and_wait_prints_the_answer_exactly(fleet: Fleet) -> None:
    answers(fleet[0], ("text_delta", {"delta": "**3**  "}), ("chat_done", {"full_response": "**3**  minutes"}))
    paper = Paper()
    assert await send(urls(fleet), None, "tea", "hi", paper, wait=True) is Exit.DONE
    assert paper.out.getvalue() == "**3**  minutes\n"


@pytest.mark.parametrize(("error_type", "code"), [("cancelled", Exit.CANCELLED), ("worker_lost", Exit.FAILED)])
async def test_send_and_wait_tells_a_failed_turn_by_its_exit_code(fleet: Fleet, error_type: str, code: Exit) -> None:
    answers(fleet[0], ("text_delta", {"delta": "half"}), ("chat_error", {"error_type": error_type, "message": "why"}))
    paper = Paper()
    assert await send(urls(fleet), None, "tea", "hi", paper, wait=True) is code
    assert (paper.out.getvalue(), paper.notes.getvalue()) == ("half\n", f"{error_type}: why\n")


async def test_send_and_wait_as_json_is_one_object(fleet: Fleet) -> None:
    answers(fleet[0], ("chat_done", {"full_response": "ok"}))
    paper = Paper(as_json=True)
    await send(urls(fleet), None, "tea", "hi", paper, wait=True)
    (record,) = paper.records
    assert (record["ok"], record["text"], record["error_type"], record["request_id"]) == (True, "ok", None, "r1")


async def test_send_gives_up_in_time_and_says_how_to_go_on(fleet: Fleet) -> None:
    paper = Paper()
    # long enough for the message to be taken on any machine
    assert await send(urls(fleet), None, "tea", "hi", paper, wait=True, within=2) is Exit.TIMED_OUT
    assert "threadline tail tea --after e1:1 --until-done" in paper.notes.getvalue()


async def test_send_gives_up_in_time_also_when_no_gateway_answers(fleet: Fleet) -> None:
    paper = Paper()
    for node in fleet[1]:
        await node.kill()
    assert await send(urls(fleet), None, "tea", "hi", paper, within=0.2) is Exit.TIMED_OUT
    assert "may be sent again" in paper.notes.getvalue()


async def test_cancel_says_what_became_of_it(fleet: Fleet) -> None:
    fleet[0].thread("tea").turn = {"request_id": "r7", "state": "running"}
    first, second = Paper(), Paper(as_json=True)
    assert await cancel(urls(fleet), None, "tea", None, first) is Exit.DONE
    assert first.out.getvalue() == "cancelled r7\n"
    assert await cancel(urls(fleet), None, "tea", "r7", second) is Exit.NOTHING_TO_CANCEL
    assert second.records == [{"cancelled": False, "request_id": None, "state": "none"}]


async def test_tail_replays_from_the_beginning_and_stops_at_the_end_of_a_turn(fleet: Fleet) -> None:
    deployment = fleet[0]
    deployment.append("tea", "r1", "chat_accepted", message="hi")
    deployment.append("tea", "r1", "text_delta", delta="yes\x1b[2J")
    deployment.append("tea", "r1", "chat_done", full_response="yes")
    paper = Paper()
    assert await tail(urls(fleet), None, "tea", paper, after=0, until_done=True) is Exit.DONE
    lines = paper.out.getvalue().splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["e1:1", "r1", "chat_accepted"],
        ["e1:2", "r1", "text_delta"],
        ["e1:3", "r1", "chat_done"],
    ]
    assert "\x1b" not in paper.out.getvalue()


async def test_tail_goes_on_behind_a_cursor_over_the_death_of_its_node(fleet: Fleet) -> None:
    deployment, (one, _) = fleet
    await deployment.say("tea", "r1", "a", "b")
    paper = Paper(as_json=True)
    running = asyncio.create_task(tail(urls(fleet), None, "tea", paper, after=Cursor("e1", 1), until_done=True))
    await one.asked("thread:subscribe")
    deployment.append("tea", "r1", "text_delta", delta="c")
    deployment.append("tea", "r1", "chat_error", error_type="cancelled", message="")
    await one.kill()
    assert await running is Exit.CANCELLED
    assert [record["offset"] for record in paper.records] == [2, 3, 4]


async def test_tail_begins_now_with_a_snapshot(fleet: Fleet) -> None:
    deployment, (one, _) = fleet
    await deployment.say("tea", "r1", "a")
    paper = Paper(as_json=True)
    running = asyncio.create_task(tail(urls(fleet), None, "tea", paper, until_done=True))
    await one.asked("thread:subscribe")
    await deployment.emit("tea", "r1", "chat_done", full_response="a")
    assert await running is Exit.DONE
    assert [(record["event"], record["offset"]) for record in paper.records] == [("snapshot", 1), ("chat_done", 2)]


async def test_tail_says_that_events_are_lost(fleet: Fleet) -> None:
    deployment, (one, _) = fleet
    deployment.thread("tea").epoch = "e2"
    paper = Paper()
    running = asyncio.create_task(tail(urls(fleet), None, "tea", paper, after=Cursor("e1", 9), until_done=True))
    await one.asked("thread:subscribe")
    await deployment.emit("tea", "r1", "chat_done", full_response="a")
    assert await running is Exit.DONE
    assert "no longer in the log" in paper.notes.getvalue()


@pytest.mark.parametrize(
    ("last", "code"),
    [
        ({"role": "assistant", "content": "a"}, Exit.DONE),
        ({"role": "assistant", "content": "a", "interrupted": True}, Exit.FAILED),
        ({"role": "user", "content": "hi"}, Exit.FAILED),
    ],
)
async def test_tail_does_not_wait_for_a_turn_that_ended_in_what_was_lost(fleet: Fleet, last: Any, code: Exit) -> None:
    thread = fleet[0].thread("tea")
    thread.epoch, thread.messages = "e2", [last]
    paper = Paper()
    assert await tail(urls(fleet), None, "tea", paper, after=Cursor("e1", 9), until_done=True) is code
    assert "a turn has ended meanwhile" in paper.notes.getvalue()


def test_after_is_a_place_the_beginning_or_now() -> None:
    assert (parse_after("e:3"), parse_after("0"), parse_after(None)) == (Cursor("e", 3), 0, None)
    with pytest.raises(ValueError, match="expected EPOCH:OFFSET"):
        parse_after("yesterday")
