"""The client manages threads: on two real gateways, one of which goes away."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from backplane.settings import Settings
from cli import scripting
from cli.exits import Exit
from tests.gateway.conftest import serving, working
from tests.support.waiting import wait_until
from threadline_client import Event, NotFound, Refused, Snapshot, ThreadState, connect
from threadline_client.events import Cursor, parse_event
from threadline_client.tracker import Standing, Tracker
from worker.turn import Turn

Make = Callable[..., Settings]


@pytest.fixture
def redis_url(valkey: str) -> str:
    """Return the real server: these are whole gateways."""
    return valkey


async def echo(turn: Turn) -> AsyncIterator[str]:
    yield turn.message.upper()


async def test_threads_are_listed_renamed_edited_and_deleted(settings: Make) -> None:
    one, two = settings(port=0), settings(port=0)
    async with (
        serving(one) as first,
        serving(two) as second,
        working(one, echo),
        connect([first.url, second.url]) as client,
        connect(second.url) as other,
    ):
        for name in ("a", "b", "c"):
            await (await client.thread(name).send(f"about {name}")).wait()
        page = await other.threads(limit=2)
        assert [(shown.thread_id, shown.title, shown.preview) for shown in page.threads] == [
            ("c", "about c", "ABOUT C"), ("b", "about b", "ABOUT B"),
        ]  # fmt: skip
        assert [shown.thread_id for shown in (await other.threads(before=page.next)).threads] == ["a"]
        thread = other.thread("a")
        await thread.rename("Tea")
        assert (await client.threads()).threads[-1].title == "Tea"
        turn = await thread.edit("better", message_id=1, newest_id=2)
        assert (await turn.wait()).text == "BETTER"
        assert [m["content"] for m in await thread.history()] == ["better", "BETTER"]
        assert [m["content"] for m in await thread.history(branch=turn.request_id)] == ["about a", "ABOUT A"]
        assert (await (await thread.edit()).wait()).text == "BETTER"
        with pytest.raises(Refused) as caught:
            await thread.edit("late", message_id=1)
        assert caught.value.code == "edit_conflict"
        watched = await thread.presence()
        assert (watched.running, watched.state, watched.worker) == (None, "idle", None)
        assert await thread.delete() is True
        assert await thread.delete() is False
        with pytest.raises(NotFound):
            await thread.rename("Tea")
        assert [shown.thread_id for shown in (await client.threads()).threads] == ["c", "b"]


async def test_a_message_without_a_number_is_edited_by_its_turn(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threadline_client.thread._LOOK", 2)
    given = settings(port=0)
    async with serving(given) as node, working(given, echo), connect(node.url) as client:
        thread, state = client.thread("t"), ThreadState()
        async with thread.events() as events:
            for said in ("one", "two", "three"):
                await (await thread.send(said)).wait()
            while len(state.messages) < 6:
                state.apply(await anext(events))
        second = state.messages[2]
        assert (second.content, second.id) == ("two", None)
        with pytest.raises(TypeError, match="request_id"):
            await thread.edit("other", message_id=second.id)  # type: ignore[arg-type]  # what mypy refuses too
        turn = await thread.edit("other", request_id=second.request_id, policy="resume", locale="de")
        assert (await turn.wait()).text == "OTHER"
        assert [m["content"] for m in await thread.history()] == ["one", "ONE", "other", "OTHER"]
        with pytest.raises(Refused) as caught:
            await thread.edit("late", request_id=second.request_id)
        assert caught.value.code == "edit_conflict"


async def test_a_stream_of_a_deleted_thread_says_so_and_waits_for_the_next_one(settings: Make) -> None:
    given = settings(port=0)
    async with serving(given) as node, working(given, echo), connect(node.url) as client, connect(node.url) as other:
        await (await client.thread("t").send("hi")).wait()
        async with other.thread("t").events() as events:
            assert (await anext(events)).epoch
            await client.thread("t").delete()
            gone = await anext(events)
            assert isinstance(gone, Snapshot)
            assert gone.exists is False
            await client.thread("t").send("anew")
            async with asyncio.timeout(10):
                found = await anext(events)
            assert found.epoch


class Paper(scripting.Output):
    """An output that can be read."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.out, self.notes = io.StringIO(), io.StringIO()
        super().__init__(self.out, self.notes, as_json=as_json)


async def test_the_commands_print_what_they_did(settings: Make) -> None:
    given = settings(port=0)
    async with serving(given) as node, working(given, echo):
        urls = [node.url]
        async with connect(urls) as client:
            for name in ("a", "b"):
                await (await client.thread(name).send(f"about {name}")).wait()
        await scripting.rename(urls, None, "a", "Tea", Paper())
        await scripting.threads(urls, None, paper := Paper())
        assert paper.out.getvalue() == "b\tidle\tabout b\na\tidle\tTea\n"
        await scripting.threads(urls, None, paper := Paper(as_json=True), most=1)
        assert json.loads(paper.out.getvalue())["thread_id"] == "b"
        for note in ("deleted a\n", "no thread a\n"):
            assert await scripting.delete(urls, None, "a", paper := Paper()) is Exit.DONE
            assert paper.notes.getvalue() == note
        await wait_until(lambda: len(node.gateway.rooms) == 0, "nobody watches")


def event(name: str, offset: int, request_id: str, **fields: Any) -> Event:
    found = parse_event(
        name, {"event": name, "thread_id": "t", "request_id": request_id, "epoch": "e", "offset": offset, **fields}
    )
    assert found is not None
    return found


def test_an_edit_takes_its_message_and_all_behind_it_out_of_the_picture() -> None:
    state = ThreadState()
    said = [
        event("chat_accepted", 1, "r1", message="a"),
        event("chat_done", 2, "r1", full_response="A"),
        event("chat_accepted", 3, "r2", message="b"),
        event("chat_done", 4, "r2", full_response="B"),
        event("thread_edited", 5, "r3", branch="r3", message_id=3, edited_request_id="r2"),
        event("chat_accepted", 6, "r3", message="c"),
    ]
    for item in said:
        state.apply(item)
    assert [message.content for message in state.messages] == ["a", "A", "c"]
    state.apply(event("thread_edited", 7, "r4", branch="r4", message_id=0, edited_request_id="before all these"))
    assert state.messages == []


def test_a_deletion_counts_only_for_the_log_that_it_is_of() -> None:
    tracker = Tracker("t", Cursor("new", 3))
    assert tracker.deleted("old") == []
    assert (tracker.standing, tracker.cursor) == (Standing.STALE, Cursor("new", 3)), "it asks what stands"
    (told,) = tracker.deleted("new")
    assert isinstance(told, Snapshot)
    assert (told.exists, tracker.standing, tracker.cursor) == (False, Standing.ABSENT, None)
    assert tracker.deleted("new") == []
