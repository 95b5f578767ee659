"""Sessions, snapshots, and local copies."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backplane import sessions
from backplane.connection import Backplane
from backplane.errors import NotFound
from backplane.events import body
from backplane.ids import ThreadRef, thread_ref
from backplane.sessions import SessionCache
from backplane.turns import Batch, Ending, Start

REF = thread_ref("session")


async def one_turn(backplane: Backplane, question: str, answer: str) -> None:
    started = await backplane.turns.start(REF, Start(question, "ann", "sid"))
    claim = await backplane.turns.claim(backplane.keys.thread(REF).member(started.request_id), "w")
    assert claim is not None
    await backplane.turns.finish(claim, Batch(1, []), Ending("done", "chat_done", body({}), answer))


async def test_history_comes_oldest_first_and_in_pages(backplane: Backplane) -> None:
    for n in range(3):
        await one_turn(backplane, f"q{n}", f"a{n}")
    _, newest = await backplane.sessions.history(REF, most=2)
    assert [m["content"] for m in newest] == ["q2", "a2"]
    _, before = await backplane.sessions.history(REF, before=newest[0]["id"], most=3)
    assert [m["content"] for m in before] == ["a0", "q1", "a1"]
    _, nothing = await backplane.sessions.history(REF, before=1)
    assert nothing == []


async def test_who_asks_for_no_messages_gets_none(backplane: Backplane) -> None:
    await one_turn(backplane, "q", "a")
    assert (await backplane.sessions.history(REF, most=0))[1] == []
    assert (await backplane.sessions.snapshot(REF, subject="ann", most=0)).messages == []


@pytest.mark.parametrize(("size", "at_once"), [(3_000, 6), (20_000, 1)])
async def test_a_client_is_given_so_many_bytes_at_once_and_the_rest_in_further_pages(
    backplane: Backplane, monkeypatch: pytest.MonkeyPatch, size: int, at_once: int
) -> None:
    """Always one message, however long it is; none is left out, and the short one at the beginning comes last."""
    monkeypatch.setattr(sessions, "PAGE_BYTES", 10_000)
    for name in ("short", *"abcdef"):
        await one_turn(backplane, name, name if name == "short" else name * size)
    _, whole = await backplane.sessions.history(REF, most=200)
    assert len(whole) == 14, "an agent is given all of it"
    pages: list[list[dict[str, Any]]] = []
    while not pages or pages[0][0]["id"] > 1:
        before = pages[0][0]["id"] if pages else 0
        _, page, _ = await backplane.sessions.conversation(REF, subject="ann", before=before, most=200)
        pages.insert(0, page)
    assert [message for page in pages for message in page] == whole
    assert all(len(page) == 1 or len(json.dumps(page)) < 10_500 for page in pages)
    snapshot = await backplane.sessions.snapshot(REF, subject="ann", most=200)
    assert snapshot.messages == whole[-at_once:] == pages[-1]


async def test_the_version_changes_with_every_message(backplane: Backplane) -> None:
    await one_turn(backplane, "q", "a")
    first, _ = await backplane.sessions.history(REF)
    await one_turn(backplane, "q", "a")
    assert (await backplane.sessions.history(REF))[0] > first


async def test_a_session_has_an_end(open_backplane: Any) -> None:
    async with open_backplane(session_max_messages=10) as backplane:
        for n in range(80):
            await one_turn(backplane, f"q{n}", f"a{n}")
        _, messages = await backplane.sessions.history(REF, most=1000)
        assert len(messages) < 160
        assert messages[-1]["content"] == "a79"


async def test_a_snapshot_shows_the_running_turn_so_far(backplane: Backplane) -> None:
    await one_turn(backplane, "q", "a")
    started = await backplane.turns.start(REF, Start("more", "ann", "sid"))
    claim = await backplane.turns.claim(backplane.keys.thread(REF).member(started.request_id), "w")
    assert claim is not None
    call = {"tool_name": "clock", "args": {"z": 1}, "tool_call_id": "c1", "round": 1}
    result = {"tool_name": "clock", "output": "noon", "success": True, "tool_call_id": "c1", "round": 1}
    events = [
        ("thinking_delta", body({"delta": "hm, ", "round": 1})),
        ("thinking_delta", body({"delta": "yes", "round": 1})),
        ("tool_call", body(call)),
        ("tool_result", body(result)),
        ("text_delta", body({"delta": "It is ", "round": 2})),
    ]
    _, offset = await backplane.turns.append(claim, Batch(1, events, "It is "))
    snapshot = await backplane.sessions.snapshot(REF, subject="ann", most=2)
    assert (snapshot.epoch, snapshot.offset) == (claim.epoch, offset)
    assert [m["content"] for m in snapshot.messages] == ["a", "more"]
    assert snapshot.turn is not None
    assert snapshot.turn.as_dict() == {
        "request_id": claim.request_id,
        "lane": "",
        "state": "running",
        "attempt": 1,
        "text": "It is ",
        "thinking": "hm, yes",
        "tools": [call | {"output": "noon", "success": True}],
        "approvals": [],
    }


async def test_a_snapshot_has_the_last_outputs_of_tools_and_says_which_it_left_out(
    backplane: Backplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything else about them is there, in order; another turn's do not count, and quotes lead nobody astray."""
    monkeypatch.setattr(sessions, "PAGE_BYTES", 10_000)
    tricky = '","success":false,"output":"' * 50

    def ran(name: str, output: str) -> list[tuple[str, str]]:
        call = {"tool_name": ',"output":"', "args": {"z": "y" * 1000}, "tool_call_id": name, "round": 1}
        result = {"tool_name": ',"output":"', "output": output, "success": True, "tool_call_id": name, "round": 1}
        return [("tool_call", body(call)), ("tool_result", body(result))]

    claims = []
    for mode in ("interrupt", "parallel"):
        started = await backplane.turns.start(REF, Start("go", "ann", "sid", queue_mode=mode))
        claim = await backplane.turns.claim(backplane.keys.thread(REF).member(started.request_id), "w")
        assert claim is not None
        claims.append(claim)
    primary, beside = claims
    first = [event for number in range(90) for event in ran(f"c{number}", tricky)]
    await backplane.turns.append(primary, Batch(1, first))
    last = [*ran("long", "x" * 4000), *ran("last", "é" * 1000)]
    await backplane.turns.append(primary, Batch(2, last))
    await backplane.turns.append(beside, Batch(1, ran("other", "x" * 3000)))
    await backplane.turns.finish(beside, Batch(2, []), Ending("done", "chat_done", body({}), "a"))
    snapshot = await backplane.sessions.snapshot(REF, subject="ann")
    assert snapshot.turn is not None
    tools = snapshot.turn.tools
    assert [tool["tool_call_id"] for tool in tools] == [*(f"c{number}" for number in range(90)), "long", "last"]
    assert {(tool["success"], tool["tool_name"], len(tool["args"]["z"])) for tool in tools} == {
        (True, ',"output":"', 1000)
    }
    assert [tool["output"] for tool in tools[-2:]] == ["x" * 4000, "é" * 1000]
    assert tools[-3]["output"] == tricky
    left_out = len(json.dumps(tricky)) - 2
    assert {tool["output"] for tool in tools[:-3]} == {f"[cut: {left_out} bytes left out]"}


async def test_a_snapshot_shows_every_turn_that_runs_and_what_each_of_them_thought(backplane: Backplane) -> None:
    thoughts = iter("012")
    for mode in ("interrupt", "parallel", "parallel"):
        started = await backplane.turns.start(REF, Start("go", "ann", "sid", queue_mode=mode))
        claim = await backplane.turns.claim(backplane.keys.thread(REF).member(started.request_id), "w")
        assert claim is not None
        await backplane.turns.append(claim, Batch(1, [("thinking_delta", body({"delta": next(thoughts), "round": 1}))]))
    snapshot = await backplane.sessions.snapshot(REF, subject="ann")
    assert snapshot.turn is not None
    assert [turn.thinking for turn in (snapshot.turn, *snapshot.parallel)] == ["0", "1", "2"]


async def test_a_snapshot_of_anothers_thread_is_like_one_of_none(backplane: Backplane) -> None:
    await one_turn(backplane, "q", "a")
    for ref, subject in ((REF, "bob"), (thread_ref("nowhere"), "ann")):
        with pytest.raises(NotFound):
            await backplane.sessions.snapshot(ref, subject=subject)


async def test_a_snapshot_of_an_idle_thread_has_no_turn(backplane: Backplane) -> None:
    await one_turn(backplane, "q", "a")
    assert (await backplane.sessions.snapshot(REF, subject="ann")).turn is None


def test_a_local_copy_counts_only_at_its_version() -> None:
    cache = SessionCache()
    cache.put(REF, "e", 4, [{"content": "x"}])
    assert cache.get(REF, "e", 4) == [{"content": "x"}]
    assert cache.get(REF, "e", 5) is None
    assert cache.get(REF, "e", 3) is None
    assert cache.get(REF, "another epoch", 4) is None


def test_what_is_kept_under_a_callers_spelling_is_forgotten_under_another() -> None:
    """The defect that this began with: entries kept under one form of the key, dropped under an older one."""
    cache = SessionCache()
    cache.put(thread_ref(" my-thread "), "e", 1, [])
    cache.invalidate(thread_ref("my-thread"))
    assert cache.get(thread_ref("my-thread\n"), "e", 1) is None
    assert len(cache) == 0
    cache.put(ThreadRef("other", "my-thread"), "e", 1, [])
    cache.invalidate(thread_ref("my-thread"))
    assert len(cache) == 1


def test_the_copy_used_longest_ago_makes_room() -> None:
    cache = SessionCache(size=2)
    refs = [thread_ref(name) for name in "abc"]
    cache.put(refs[0], "e", 1, [])
    cache.put(refs[1], "e", 1, [])
    assert cache.get(refs[0], "e", 1) is not None
    cache.put(refs[2], "e", 1, [])
    assert [cache.get(ref, "e", 1) is not None for ref in refs] == [True, False, True]
