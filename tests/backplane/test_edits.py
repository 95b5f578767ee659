"""Edits: a turn in the place of an earlier message, and what was cut off (lua/lib/branch.lua)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from backplane import sessions
from backplane.connection import Backplane
from backplane.errors import EditConflict, IdempotencyConflict, NotFound
from backplane.ids import new_id, thread_ref
from backplane.turns import Batch, Claim, Edit, Ending, Start, Started

REF = thread_ref("t")


async def asked(backplane: Backplane, message: str, *, subject: str = "ann", **fields: Any) -> Started:
    return await backplane.turns.start(REF, Start(message, subject, "sid", **fields))


async def claimed(backplane: Backplane, started: Started) -> Claim:
    claim = await backplane.turns.claim(backplane.keys.thread(REF).member(started.request_id), "w1")
    assert claim is not None
    return claim


async def answered(backplane: Backplane, message: str, **fields: Any) -> Started:
    """Let a turn begin and end. Its answer is its message in capitals."""
    started = await asked(backplane, message, **fields)
    claim = await claimed(backplane, started)
    ending = Ending("done", "chat_done", '"full_response":"x"', claim.message.upper())
    await backplane.turns.finish(claim, Batch(1, []), ending)
    return started


async def says(backplane: Backplane, branch: str = "", **given: Any) -> list[str]:
    _, messages, _ = await backplane.sessions.conversation(REF, subject="ann", branch=branch, **given)
    return [message["content"] for message in messages]


async def test_an_edit_puts_a_message_in_the_place_of_another_and_of_all_behind_it(backplane: Backplane) -> None:
    for message in ("a", "b", "c"):
        await answered(backplane, message)
    edit = await answered(backplane, "new", edit=Edit(message_id=3))
    assert edit.edited == 3
    assert await says(backplane) == ["a", "A", "new", "NEW"]
    assert await says(backplane, edit.request_id) == ["a", "A", "b", "B", "c", "C"]
    assert await says(backplane, edit.request_id, before=9_999_999_999_999_999_999) == ["a", "A", "b", "B", "c", "C"]
    page = await backplane.log.read(REF)
    (event,) = [event for event in page.events if event.name == "thread_edited"]
    assert event.offset == edit.offset - 1
    first = next(event for event in page.events if event.fields.get("message") == "b")
    assert (event.fields["branch"], event.fields["message_id"], event.fields["edited_request_id"]) == (
        edit.request_id, 3, first.request_id,
    )  # fmt: skip
    assert [event.offset for event in page.events] == list(range(1, page.top + 1)), "the log keeps everything"


async def test_the_agent_hears_the_conversation_as_it_stands(backplane: Backplane) -> None:
    await answered(backplane, "a")
    old = await answered(backplane, "b")
    claim = await claimed(backplane, await asked(backplane, "new", edit=Edit(3)))
    _, history = await backplane.sessions.history(REF, before=claim.message_id)
    assert [message["content"] for message in history] == ["a", "A"]
    assert claim.message == "new"
    assert old.request_id != claim.request_id


async def test_without_a_text_the_same_is_asked_once_more(backplane: Backplane) -> None:
    await answered(backplane, "a")
    await answered(backplane, 'what "is"\n\\ it? é\U0001f375')
    again = await answered(backplane, "", edit=Edit())
    assert again.edited == 3
    assert (await says(backplane))[2] == 'what "is"\n\\ it? é\U0001f375'
    assert len(await says(backplane, again.request_id)) == 4


async def test_the_turn_that_runs_ends_in_the_same_step_and_what_waits_is_removed(backplane: Backplane) -> None:
    first = await asked(backplane, "a")
    claim = await claimed(backplane, first)
    await backplane.turns.append(claim, Batch(1, [("text_delta", '"delta":"half"')], "half"))
    waiting = [await asked(backplane, mode, queue_mode=mode) for mode in ("followup", "steer", "collect")]
    beside = await asked(backplane, "beside", queue_mode="parallel")
    edit = await asked(backplane, "new", edit=Edit())
    page = await backplane.log.read(REF)
    names = [event.name for event in page.events]
    assert names[-6:] == [*["queue_item_removed"] * 3, "chat_error", "thread_edited", "chat_accepted"]
    assert page.events[-3].fields["error_type"] == "superseded"
    assert (await backplane.turns.append(claim, Batch(2, [], "late")))[0] == "fenced"
    running, _, lanes = await backplane.turns.lanes(REF, "ann")
    assert (running, [item.item_id for item in lanes]) == (edit.request_id, [beside.request_id])
    assert len(waiting) == 3
    assert await says(backplane) == ["new"]
    assert await says(backplane, edit.request_id) == ["a", "half"]


async def test_a_steer_and_context_are_no_place_to_edit(backplane: Backplane) -> None:
    await asked(backplane, "context", queue_mode="collect")
    claim = await claimed(backplane, await asked(backplane, "a"))
    await asked(backplane, 'so "steer":true', queue_mode="steer")
    await backplane.turns.steers(claim, 0)
    assert await says(backplane) == ["context", "a", 'so "steer":true']
    for place in (1, 3, 4, 99):
        with pytest.raises(EditConflict):
            await asked(backplane, "new", edit=Edit(place))
    edit = await asked(backplane, "new", edit=Edit())
    assert edit.edited == 2
    assert await says(backplane) == ["context", "new"]


async def test_an_answer_cannot_be_edited(backplane: Backplane) -> None:
    await answered(backplane, "a")
    with pytest.raises(EditConflict):
        await asked(backplane, "new", edit=Edit(2))


async def test_an_edit_of_what_was_cut_off_is_refused_and_changes_nothing(backplane: Backplane) -> None:
    for message in ("a", "b"):
        await answered(backplane, message)
    await answered(backplane, "first", edit=Edit(1))
    before = await backplane.log.read(REF)
    for place in (1, 3):
        with pytest.raises(EditConflict):
            await asked(backplane, "second", edit=Edit(place))
    assert (await backplane.log.read(REF)).top == before.top
    assert await says(backplane) == ["first", "FIRST"]


async def test_an_editor_who_has_not_seen_the_newest_message_is_refused(backplane: Backplane) -> None:
    await answered(backplane, "a")
    await answered(backplane, "b")
    with pytest.raises(EditConflict):
        await asked(backplane, "new", edit=Edit(1, newest=2))
    assert (await asked(backplane, "new", edit=Edit(1, newest=4))).edited == 1


async def test_one_key_is_one_edit(backplane: Backplane) -> None:
    await answered(backplane, "a")
    first = await asked(backplane, "", edit=Edit(), client_message_id="k")
    assert await asked(backplane, "", edit=Edit(), client_message_id="k") == first
    _, _, branches = await backplane.sessions.conversation(REF)
    assert [branch.branch for branch in branches] == [first.request_id]
    for other in (Edit(1), None):
        with pytest.raises(IdempotencyConflict):
            await asked(backplane, "", edit=other, client_message_id="k")


async def test_an_edit_whose_answer_was_lost_is_made_once(backplane: Backplane) -> None:
    await answered(backplane, "a")
    start = Start("", "ann", "sid", edit=Edit())
    assert await backplane.turns.start(REF, start) == await backplane.turns.start(REF, start)
    assert await says(backplane) == ["a"]


async def test_nothing_of_anothers_thread_can_be_edited_and_an_edit_makes_no_thread(backplane: Backplane) -> None:
    with pytest.raises(NotFound):
        await asked(backplane, "new", edit=Edit())
    assert not await backplane.redis.exists(backplane.keys.thread(REF).thread)
    edit = await answered(backplane, "a")
    with pytest.raises(NotFound):
        await asked(backplane, "new", edit=Edit(), subject="bob")
    with pytest.raises(NotFound):
        await backplane.sessions.conversation(REF, subject="bob", branch=edit.request_id)
    with pytest.raises(NotFound):
        await backplane.sessions.conversation(REF, subject="ann", branch="nowhere")


async def test_the_title_follows_the_first_message_until_the_thread_is_named(backplane: Backplane) -> None:
    async def title() -> str:
        await backplane.threads.note(REF, "ann")
        return (await backplane.threads.page("default", "ann"))[0][0].title

    await answered(backplane, "first")
    edit = await answered(backplane, "better", edit=Edit())
    assert await title() == "better"
    await answered(backplane, "", edit=Edit())
    assert await title() == "better"
    await answered(backplane, "second")
    await answered(backplane, "other", edit=Edit())
    assert await title() == "better"
    await backplane.threads.rename(REF, "ann", "named")
    _, messages, _ = await backplane.sessions.conversation(REF)
    await answered(backplane, "third", edit=Edit(messages[0]["id"]))
    assert (await title(), edit.edited) == ("named", 1)


async def test_the_oldest_branch_makes_room(open_backplane: Any) -> None:
    async with open_backplane(max_branches=2) as backplane:
        await answered(backplane, "a")
        edits = [await answered(backplane, str(number), edit=Edit()) for number in range(4)]
        _, _, branches = await backplane.sessions.conversation(REF)
        assert [branch.branch for branch in branches] == [edit.request_id for edit in edits[2:]]
        keys = backplane.keys.thread(REF)
        assert [await backplane.redis.exists(keys.branch + edit.request_id) for edit in edits] == [0, 0, 1, 1]
        assert await says(backplane, edits[2].request_id) == ["1", "1"]


@example([4, 4, 4], 2)
@example([0, 4, 1, 4, 0], 50)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(1, 4))
@given_settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
async def test_every_branch_is_what_the_conversation_was_before_its_edit(
    backplane: Backplane, edits: list[int], page: int
) -> None:
    """Whatever is edited in whatever order; also read in pages."""
    ref = thread_ref(new_id().strip("-_") + "x")

    async def talk(message: str, edit: Edit | None = None) -> str:
        started = await backplane.turns.start(ref, Start(message, "ann", "sid", edit=edit))
        claim = await backplane.turns.claim(backplane.keys.thread(ref).member(started.request_id), "w")
        assert claim is not None
        ending = Ending("done", "chat_done", '"full_response":"x"', message.upper())
        await backplane.turns.finish(claim, Batch(1, []), ending)
        return started.request_id

    async def whole(branch: str) -> list[tuple[int, str]]:
        found: list[Any] = []
        while True:
            _, part, _ = await backplane.sessions.conversation(
                ref, branch=branch, before=found[0]["id"] if found else 0, most=page
            )
            if not part:
                return [(message["id"], message["content"]) for message in found]
            found = part + found

    for number in range(3):
        await talk(f"m{number}")
    expected = {}
    for number, place in enumerate(edits):
        now = await whole("")
        ours = [message_id for message_id, content in now if content == content.lower()]
        expected[await talk(f"e{number}", Edit(ours[min(place, len(ours) - 1)]))] = now
        if place == 4:
            await talk(f"more{number}")
    for branch, was in expected.items():
        assert await whole(branch) == was


async def test_a_branch_comes_in_pages_of_so_many_bytes_too_and_none_of_it_is_left_out(
    backplane: Backplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The short message of an older part would have fit behind long ones that did not."""
    monkeypatch.setattr(sessions, "PAGE_BYTES", 10_000)
    for message in ("a", "b" * 4000, "c" * 4000):
        await answered(backplane, message)
    edit = await answered(backplane, "new", edit=Edit(message_id=3))
    found: list[str] = []
    ids: list[int] = []
    pages: list[int] = []
    while not ids or ids[0] > 1:
        _, page, _ = await backplane.sessions.conversation(
            REF, subject="ann", branch=edit.request_id, before=ids[0] if ids else 0
        )
        ids = [message["id"] for message in page] + ids
        found = [message["content"][:1] for message in page] + found
        pages.append(len(page))
    assert (ids, found) == ([1, 2, 3, 4, 5, 6], ["a", "A", "b", "B", "c", "C"])
    assert pages == [2, 4]
