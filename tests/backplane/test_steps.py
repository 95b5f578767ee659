"""Steps in Redis: recorded once, kept across attempts, forgotten at the end."""

from __future__ import annotations

from typing import Any

from backplane.connection import Backplane
from backplane.events import body
from backplane.ids import thread_ref
from backplane.turns import Batch, Claim, Ending, Start

REF = thread_ref("steps")


async def claimed(backplane: Backplane, request_id: str) -> Claim:
    claim = await backplane.turns.claim(backplane.keys.thread(REF).member(request_id), "w")
    assert claim is not None
    return claim


async def begun(backplane: Backplane, policy: Any = "retry") -> Claim:
    started = await backplane.turns.start(REF, Start("q", "ann", "sid", policy=policy))
    return await claimed(backplane, started.request_id)


async def lost(backplane: Backplane, claim: Claim) -> Claim:
    """Lose the owner of a turn, and return the next one's claim."""
    keys = backplane.keys.thread(REF)
    await backplane.redis.hset(keys.turn(claim.request_id), mapping={"lease_until": 1})
    assert await backplane.turns.recover(keys.member(claim.request_id)) == "taken_over"
    return await claimed(backplane, claim.request_id)


def said(number: int, text: str) -> Batch:
    return Batch(number, [("text_delta", body({"delta": text, "round": 1}))], text)


async def test_a_step_is_recorded_once_and_told_to_the_next_attempt(backplane: Backplane) -> None:
    claim = await begun(backplane)
    assert await backplane.steps.begin(claim, "a") == ("ok", False)
    assert await backplane.steps.begin(claim, "a") == ("ok", False)
    assert await backplane.steps.end(claim, "a", "1") == "ok"
    assert await backplane.steps.end(claim, "a", "2") == "ok"
    assert [e.name for e in (await backplane.log.read(REF)).events].count("step_done") == 1
    await backplane.steps.begin(claim, "b")
    again = await lost(backplane, claim)
    assert again.steps == {"a": "1"}
    assert await backplane.steps.begin(again, "b") == ("ok", True)
    assert await backplane.steps.begin(again, "c") == ("ok", False)


async def test_a_stale_owner_records_nothing(backplane: Backplane) -> None:
    old = await begun(backplane)
    await backplane.steps.begin(old, "a")
    new = await lost(backplane, old)
    assert await backplane.steps.end(old, "a", "1") == "fenced"
    assert await backplane.steps.begin(old, "b") == ("fenced", False)
    assert await backplane.redis.hlen(backplane.keys.thread(REF).steps + new.request_id) == 1


async def test_a_cancelled_turn_begins_no_step_but_keeps_what_it_did(backplane: Backplane) -> None:
    claim = await begun(backplane)
    await backplane.steps.begin(claim, "a")
    await backplane.turns.cancel(REF, "ann")
    assert await backplane.steps.end(claim, "a", "1") == "cancelled"
    assert await backplane.steps.begin(claim, "b") == ("cancelled", False)


async def test_the_steps_of_a_turn_are_bounded_together(open_backplane: Any) -> None:
    async with open_backplane(max_steps_bytes=100) as backplane:
        claim = await begun(backplane)
        assert await backplane.steps.end(claim, "a", '"' + "x" * 60 + '"') == "ok"
        assert await backplane.steps.end(claim, "b", '"' + "x" * 60 + '"') == "too_large"
        assert await backplane.steps.end(claim, "c", "1") == "ok"
        assert set((await lost(backplane, claim)).steps) == {"a", "c"}


async def test_steps_live_as_long_as_their_turn(backplane: Backplane) -> None:
    claim = await begun(backplane)
    key = backplane.keys.thread(REF).steps + claim.request_id
    await backplane.steps.end(claim, "a", "1")
    settings = backplane.settings
    assert (
        settings.turn_ttl * 1000 < await backplane.redis.pttl(key) <= (settings.turn_timeout + settings.turn_ttl) * 1000
    )
    await backplane.turns.finish(claim, Batch(1, []), Ending("done", "chat_done", body({}), "x"))
    assert not await backplane.redis.exists(key)


async def test_with_resume_the_text_up_to_the_last_finished_step_stands(backplane: Backplane) -> None:
    """For the next attempt, for a snapshot, and for the session."""
    claim = await begun(backplane, "resume")
    await backplane.turns.append(claim, said(1, "käpt "))
    await backplane.steps.end(claim, "a", "1")
    await backplane.turns.append(claim, Batch(2, [("thinking_delta", body({"delta": "void", "round": 1}))]))
    await backplane.turns.append(claim, said(3, "void"))
    again = await lost(backplane, claim)
    assert again.text == "käpt "
    restarted = next(e for e in (await backplane.log.read(REF)).events if e.name == "turn_restarted")
    assert {k: restarted.fields[k] for k in ("attempt", "policy", "kept_offset", "kept_text")} == {
        "attempt": 2, "policy": "resume", "kept_offset": 4, "kept_text": 5,
    }  # fmt: skip
    await backplane.turns.append(again, said(1, "new"))
    turn = (await backplane.sessions.snapshot(REF, subject="ann")).turn
    assert turn is not None
    assert (turn.text, turn.thinking, turn.attempt) == ("käpt new", "", 2)
    third = await lost_again(backplane, again)
    assert third.text == "käpt "


async def lost_again(backplane: Backplane, claim: Claim) -> Claim:
    keys = backplane.keys.thread(REF)
    await backplane.redis.hset(keys.turn(claim.request_id), mapping={"lease_until": 1, "ready_at": 1})
    assert await backplane.turns.recover(keys.member(claim.request_id)) == "taken_over"
    await backplane.redis.hset(keys.turn(claim.request_id), mapping={"ready_at": 1})
    return await claimed(backplane, claim.request_id)


async def test_with_resume_and_no_finished_step_the_turn_begins_again(backplane: Backplane) -> None:
    claim = await begun(backplane, "resume")
    await backplane.turns.append(claim, said(1, "void"))
    again = await lost(backplane, claim)
    assert again.text == ""
    restarted = next(e for e in (await backplane.log.read(REF)).events if e.name == "turn_restarted")
    assert "kept_offset" not in restarted.fields
