"""Turns: the tutorial. Read from the top, it tells a turn's life; every test runs on Valkey and on fakeredis."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from backplane.connection import Backplane
from backplane.errors import IdempotencyConflict, NotFound, QueueFull, TurnRunning
from backplane.events import Event, body
from backplane.ids import ThreadRef, new_id, thread_ref
from backplane.recoverer import Recoverer
from backplane.turns import Batch, Claim, Ending, QueueMode, Start, Started
from tests.support.ear import Ear
from tests.support.waiting import wait_until

REF = thread_ref("thread-1")
SHORT = {"lease": 0.05, "cancel_grace": 0.05}
LANES: tuple[QueueMode, ...] = ("followup", "steer", "collect", "parallel")


def ask(message: str = "hello", **given: Any) -> Start:
    return Start(**({"message": message, "subject": "ann", "client_id": "sid-1"} | given))


def member(backplane: Backplane, request_id: str, ref: ThreadRef = REF) -> str:
    return backplane.keys.thread(ref).member(request_id)


async def claimed(backplane: Backplane, started: Started, worker: str = "worker-1") -> Claim:
    claim = await backplane.turns.claim(member(backplane, started.request_id), worker)
    assert claim is not None
    return claim


def said(text: str) -> Batch:
    return Batch(1, [("text_delta", body({"delta": text, "round": 1}))], text)


def done(answer: str) -> Ending:
    return Ending("done", "chat_done", body({"full_response": answer}), answer)


async def log(backplane: Backplane, ref: ThreadRef = REF) -> list[Event]:
    """Return the whole log, having checked that its offsets are contiguous."""
    page = await backplane.log.read(ref)
    assert [event.offset for event in page.events] == list(range(1, page.top + 1))
    return page.events


async def names(backplane: Backplane, request_id: str | None = None) -> list[str]:
    return [e.name for e in await log(backplane) if request_id is None or e.request_id == request_id]


async def session(backplane: Backplane) -> list[tuple[str, str, bool]]:
    _, messages = await backplane.sessions.history(REF)
    return [(m["role"], m["content"], m.get("interrupted", False)) for m in messages]


async def lapse(backplane: Backplane, request_id: str) -> None:
    """Make a lease, a deadline and a doorbell look old, as time would."""
    key = backplane.keys.thread(REF).turn(request_id)
    await backplane.redis.hset(key, mapping={"lease_until": 1, "ready_at": 1})
    await backplane.redis.zadd(backplane.keys.thread(REF).partition.due, {member(backplane, request_id): 1})


async def clock(backplane: Backplane) -> int:
    """Return what Redis' clock says, in milliseconds."""
    seconds, micros = await backplane.redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


async def recovered(backplane: Backplane, place: str) -> str:
    """Look at a turn until something is done for it."""
    what = "none"

    async def done_something() -> bool:
        nonlocal what
        what = await backplane.turns.recover(place)
        return what != "none"

    await wait_until(done_something, "the recoverer acts")
    return what


# --- a turn's life -------------------------------------------------------------------------------------


async def test_a_turn_is_accepted_claimed_answered_and_done(backplane: Backplane) -> None:
    """The whole way: each event is in the log with its offset, and the session holds message and answer."""
    started = await backplane.turns.start(REF, ask("hi"))
    assert (started.state, started.offset) == ("accepted", 1)
    assert await backplane.doorbell.wait() == member(backplane, started.request_id)
    claim = await claimed(backplane, started)
    assert (claim.fence, claim.message, claim.subject) == (1, "hi", "ann")
    assert await backplane.turns.append(claim, said("Good ")) == ("ok", 3)
    last = Batch(2, [("text_delta", body({"delta": "day", "round": 1}))], "day")
    finished = await backplane.turns.finish(claim, last, done("Good day"))
    assert finished.state == "done"
    assert await names(backplane) == ["chat_accepted", "inference_start", "text_delta", "text_delta", "chat_done"]
    assert await session(backplane) == [("user", "hi", False), ("assistant", "Good day", False)]


async def test_every_event_carries_the_fields_of_the_protocol(backplane: Backplane) -> None:
    started = await backplane.turns.start(REF, ask('say "hi" \\ \n ü 😀', metadata={"k": [1]}, client_message_id="c-1"))
    await claimed(backplane, started)
    events = [event.fields for event in await log(backplane)]
    for number, fields in enumerate(events):
        assert fields["client_id"] == "sid-1"
        assert fields["thread_id"] == "thread-1"
        assert fields["request_id"] == started.request_id
        assert fields["epoch"] == started.epoch
        assert (fields["offset"], fields["seq"]) == (number + 1, number)
        assert fields["ts"] > 1_600_000_000_000
    assert events[0]["message"] == 'say "hi" \\ \n ü 😀'
    assert events[0]["metadata"] == {"k": [1]}
    assert events[0]["client_message_id"] == "c-1"


async def test_what_is_published_is_what_is_stored(backplane: Backplane) -> None:
    """Live and replay use the same bytes, and an event is in the log before anyone hears it."""
    ear = Ear()
    await backplane.live.subscribe(backplane.keys.thread(REF).live, ear)
    started = await backplane.turns.start(REF, ask())
    await claimed(backplane, started)
    stored = [f"{event.name} {event.text}" for event in await log(backplane)]

    def published() -> list[str]:
        return [line for message in ear.messages for line in message.decode().split("\n")[1:]]

    await wait_until(lambda: published() == stored, "the same lines are heard")


async def test_finished_turns_forget_their_input_and_get_a_lifetime(backplane: Backplane) -> None:
    started = await backplane.turns.start(REF, ask("secret"))
    claim = await claimed(backplane, started)
    await backplane.turns.append(claim, said("x"))
    await backplane.turns.finish(claim, Batch(2, []), done("x"))
    key = backplane.keys.thread(REF).turn(started.request_id)
    assert await backplane.redis.hget(key, "message") is None
    assert 0 < await backplane.redis.pttl(key) <= backplane.settings.turn_ttl * 1000
    assert not await backplane.redis.exists(backplane.keys.thread(REF).texts + started.request_id)


@pytest.mark.parametrize("what", ["append", "queue", "end"])
async def test_a_thread_in_which_something_happens_is_kept_for_longer(backplane: Backplane, what: str) -> None:
    """Its messages and its log with it: none of them may go before the others."""
    claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
    keys, settings = backplane.keys.thread(REF), backplane.settings
    for key in (keys.thread, keys.session, keys.log):
        assert await backplane.redis.pexpire(key, 60_000)
    if what == "append":
        await backplane.turns.append(claim, said("x"))
    elif what == "queue":
        await backplane.turns.start(REF, ask(queue_mode="followup"))
    else:
        await backplane.turns.finish(claim, Batch(1, []), Ending("failed", "chat_error", body({"message": "m"})))
    assert await backplane.redis.pttl(keys.log) > settings.replay_window * 900
    if what != "append":  # an owner's heartbeat does it, once for many of these
        for key in (keys.thread, keys.session):
            assert await backplane.redis.pttl(key) > settings.thread_ttl * 900


async def test_a_log_is_bounded(open_backplane: Any) -> None:
    async with open_backplane(log_max_entries=10) as backplane:
        claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
        for number in range(1, 11):
            await backplane.turns.append(
                claim, Batch(number, [("text_delta", body({"delta": "x", "round": 1}))] * 50, "")
            )
        # Redis lets go of whole nodes of the stream, of a hundred entries each
        assert await backplane.redis.xlen(backplane.keys.thread(REF).log) < 250


# --- one key, one turn (invariant 6) -------------------------------------------------------------------


async def test_ten_equal_starts_make_one_turn_and_get_equal_answers(backplane: Backplane) -> None:
    answers = await asyncio.gather(
        *(backplane.turns.start(REF, ask("once", client_message_id="key", client_id=f"sid-{n}")) for n in range(10))
    )
    assert len(set(answers)) == 1
    assert await names(backplane) == ["chat_accepted"]
    assert await session(backplane) == [("user", "once", False)]


async def test_a_key_with_another_text_is_a_conflict_and_changes_nothing(backplane: Backplane) -> None:
    await backplane.turns.start(REF, ask("one", client_message_id="key"))
    with pytest.raises(IdempotencyConflict):
        await backplane.turns.start(REF, ask("two", client_message_id="key"))
    assert await names(backplane) == ["chat_accepted"]


async def test_a_key_with_another_model_is_a_conflict(backplane: Backplane) -> None:
    await backplane.turns.start(REF, ask("one", client_message_id="key"))
    with pytest.raises(IdempotencyConflict):
        await backplane.turns.start(REF, ask("one", client_message_id="key", model="other"))


async def test_a_key_leads_to_its_turn_for_whoever_has_used_it_alone(backplane: Backplane) -> None:
    start = ask("one", client_message_id="key")
    await backplane.turns.start(REF, start)
    assert await backplane.turns.known_as(REF, start.subject, "key") == start.request_id
    assert await backplane.turns.known_as(REF, "somebody else", "key") is None
    assert await backplane.turns.known_as(REF, start.subject, "another") is None


async def test_a_start_whose_answer_was_lost_may_be_sent_again(backplane: Backplane) -> None:
    """Without a key too: the retry below us carries the same request id."""
    start = ask("once")
    assert await backplane.turns.start(REF, start) == await backplane.turns.start(REF, start)
    assert await names(backplane) == ["chat_accepted"]


async def test_an_old_key_is_answered_after_its_turn_has_ended(backplane: Backplane) -> None:
    started = await backplane.turns.start(REF, ask("once", client_message_id="key"))
    claim = await claimed(backplane, started)
    await backplane.turns.finish(claim, Batch(1, []), done("a"))
    assert await backplane.turns.start(REF, ask("once", client_message_id="key")) == started


# --- whose thread it is (invariant 9) ------------------------------------------------------------------


async def test_anothers_thread_looks_like_one_that_does_not_exist(backplane: Backplane) -> None:
    await backplane.turns.start(REF, ask())
    nowhere = thread_ref("nowhere")
    answers: list[set[str]] = []
    for ref in (REF, nowhere):
        messages = set()
        for call in (
            backplane.turns.cancel(ref, "bob"),
            backplane.turns.lanes(ref, "bob"),
            backplane.turns.unqueue(ref, "bob"),
            backplane.log.read(ref, subject="bob"),
            backplane.sessions.history(ref, subject="bob"),
            backplane.sessions.snapshot(ref, subject="bob"),
        ):
            with pytest.raises(NotFound) as caught:
                await call
            messages.add(json.dumps(caught.value.as_dict()))
        answers.append(messages)
    assert answers[0] == answers[1]
    assert len(answers[0]) == 1


async def test_nobody_else_starts_in_a_thread(backplane: Backplane) -> None:
    await backplane.turns.start(REF, ask())
    with pytest.raises(NotFound):
        await backplane.turns.start(REF, ask(subject="bob"))
    assert await names(backplane) == ["chat_accepted"]


async def test_the_same_key_of_another_user_is_a_turn_of_its_own(backplane: Backplane) -> None:
    other = ThreadRef("other-tenant", REF.thread_id)
    first = await backplane.turns.start(REF, ask(client_message_id="key"))
    second = await backplane.turns.start(other, ask(subject="bob", client_message_id="key"))
    assert first.request_id != second.request_id


# --- one owner (invariant 3) ---------------------------------------------------------------------------


async def test_a_turn_is_claimed_once(backplane: Backplane) -> None:
    started = await backplane.turns.start(REF, ask())
    place = member(backplane, started.request_id)
    claims = await asyncio.gather(*(backplane.turns.claim(place, f"worker-{n}") for n in range(8)))
    assert len([claim for claim in claims if claim is not None]) == 1


async def test_a_claim_whose_answer_was_lost_is_found_again_by_its_id(backplane: Backplane) -> None:
    """And nothing happens twice: the turn has the one attempt, and clients saw it begin once."""
    started = await backplane.turns.start(REF, ask())
    place, claim_id = member(backplane, started.request_id), new_id()
    lost = await backplane.turns.claim(place, "worker-1", claim_id)
    assert await backplane.turns.claim(place, "worker-2", new_id()) is None
    found = await backplane.turns.claim(place, "worker-1", claim_id)
    assert found is not None
    assert found == lost
    assert await names(backplane) == ["chat_accepted", "inference_start"]
    assert await backplane.turns.heartbeat([found]) == ["ok"]


async def test_a_claims_id_that_is_used_after_its_turn_was_lost_is_another_claim(backplane: Backplane) -> None:
    """Redis was away for longer than the lease: what was written for the first one is refused."""
    started = await backplane.turns.start(REF, ask())
    place, claim_id = member(backplane, started.request_id), new_id()
    old = await backplane.turns.claim(place, "worker-1", claim_id)
    await lapse(backplane, started.request_id)
    assert await backplane.turns.recover(place) == "taken_over"
    new = await backplane.turns.claim(place, "worker-1", claim_id)
    assert old is not None
    assert new is not None
    assert (old.fence, new.fence) == (1, 2)
    assert await backplane.turns.heartbeat([old, new]) == ["fenced", "ok"]
    await backplane.turns.finish(new, Batch(1, []), done("a"))
    assert await backplane.turns.claim(place, "worker-1", claim_id) is None


async def test_a_stale_owners_writes_are_refused(backplane: Backplane) -> None:
    """The fence: after a takeover nothing that the old owner sends reaches the log."""
    started = await backplane.turns.start(REF, ask())
    old = await claimed(backplane, started, "worker-old")
    await lapse(backplane, started.request_id)
    assert await backplane.turns.recover(member(backplane, started.request_id)) == "taken_over"
    new = await claimed(backplane, started, "worker-new")
    before = await names(backplane)
    assert (await backplane.turns.append(old, said("late")))[0] == "fenced"
    assert (await backplane.turns.finish(old, Batch(2, []), done("late"))).state == "fenced"
    assert await backplane.turns.heartbeat([old, new]) == ["fenced", "ok"]
    await backplane.turns.release(old)
    assert await names(backplane) == before
    assert before[-2:] == ["turn_restarted", "inference_start"]
    assert new.fence == old.fence + 1


async def test_a_stale_owner_is_not_told_that_its_own_answer_stands(backplane: Backplane) -> None:
    """The end of another attempt is no answer to it: it would keep a copy of a session that nobody else has."""
    started = await backplane.turns.start(REF, ask())
    old = await claimed(backplane, started)
    await lapse(backplane, started.request_id)
    await backplane.turns.recover(member(backplane, started.request_id))
    new = await claimed(backplane, started)
    assert (await backplane.turns.finish(new, Batch(1, []), done("new"))).state == "done"
    assert (await backplane.turns.finish(old, Batch(1, []), done("old"))).state == "fenced"


async def test_an_end_with_a_hole_in_front_of_it_is_refused(backplane: Backplane) -> None:
    """A failover has lost a batch: the answer would stand in the session, and its words not in the log."""
    claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
    await backplane.turns.append(claim, said("a"))
    assert (await backplane.turns.finish(claim, Batch(3, []), done("abc"))).state == "fenced"
    assert (await backplane.turns.finish(claim, Batch(2, []), done("ab"))).state == "done"


async def test_a_batch_that_is_sent_twice_is_written_once(backplane: Backplane) -> None:
    claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
    assert await backplane.turns.append(claim, said("a")) == await backplane.turns.append(claim, said("a"))
    assert (await names(backplane)).count("text_delta") == 1
    snapshot = await backplane.sessions.snapshot(REF, subject="ann")
    assert snapshot.turn is not None
    assert snapshot.turn.text == "a"


async def test_a_claim_whose_answer_was_lost_may_be_asked_again(backplane: Backplane) -> None:
    started = await backplane.turns.start(REF, ask())
    call = backplane.call("claim", REF, started.request_id, "worker-1", "claim-1", 10_000)
    assert await backplane.run(call) == await backplane.run(call)
    assert (await names(backplane)).count("inference_start") == 1


# --- one end (invariant 4) -----------------------------------------------------------------------------


async def test_a_turn_ends_once(backplane: Backplane) -> None:
    claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
    answers = [await backplane.turns.finish(claim, Batch(1, []), done("a")) for _ in range(3)]
    assert answers == [answers[0]] * 3
    assert answers[0].state == "done"
    assert (await backplane.turns.append(claim, said("late")))[0] == "fenced"
    assert await names(backplane) == ["chat_accepted", "inference_start", "chat_done"]


async def test_a_turn_that_loses_its_workers_ends_with_one_error(backplane: Backplane) -> None:
    """A poison turn: after `max_attempts` lost workers it ends, and the thread is free."""
    started = await backplane.turns.start(REF, ask())
    outcomes = []
    for _ in range(backplane.settings.max_attempts):
        await lapse(backplane, started.request_id)  # the pause before a third attempt is over too
        await claimed(backplane, started)
        await lapse(backplane, started.request_id)
        outcomes.append(await backplane.turns.recover(member(backplane, started.request_id)))
    assert outcomes == ["taken_over", "taken_over", "worker_lost"]
    last = (await log(backplane))[-1].fields
    assert (last["event"], last["error_type"], last["error_retryable"]) == ("chat_error", "worker_lost", True)
    assert (await backplane.turns.start(REF, ask("next"))).state == "accepted"


async def test_a_turn_that_lost_two_workers_is_held_back_for_longer_and_longer(open_backplane: Any) -> None:
    """The first takeover is at once; a later one cannot be claimed before its time, and is rung for then."""
    waits = []
    async with open_backplane(retry_backoff=10.0) as backplane:
        started = await backplane.turns.start(REF, ask())
        key, place = backplane.keys.thread(REF).turn(started.request_id), member(backplane, started.request_id)
        await backplane.redis.hset(key, mapping={"max_attempts": 9})
        for attempt in range(4):
            await claimed(backplane, started)
            while await backplane.redis.llen(backplane.keys.doorbell):
                await backplane.doorbell.wait()
            await lapse(backplane, started.request_id)
            before = await clock(backplane)
            assert await backplane.turns.recover(place) == "taken_over"
            ready_at = int(await backplane.redis.hget(key, "ready_at") or 0)
            waits.append((ready_at - await clock(backplane), ready_at - before))
            assert await backplane.redis.llen(backplane.keys.doorbell) == (attempt == 0)
            if attempt > 0:
                assert await backplane.turns.claim(place, "too early") is None
                assert await backplane.turns.recover(place) == "none"
                await lapse(backplane, started.request_id)
                assert await backplane.turns.recover(place) == "rung"
                await lapse(backplane, started.request_id)
    for (least, most), seconds in zip(waits, (0, 10, 20, 40), strict=True):
        assert least <= seconds * 1000 <= most


async def test_a_turn_that_lost_many_workers_is_held_back_for_a_minute_at_most(backplane: Backplane) -> None:
    started = await backplane.turns.start(REF, ask())
    await claimed(backplane, started)
    await lapse(backplane, started.request_id)
    key = backplane.keys.thread(REF).turn(started.request_id)
    await backplane.redis.hset(key, mapping={"max_attempts": 99, "lost": 20})
    assert await backplane.turns.recover(member(backplane, started.request_id)) == "taken_over"
    assert int(await backplane.redis.hget(key, "ready_at") or 0) <= await clock(backplane) + 60_000


@pytest.mark.parametrize(
    ("ready", "held_back", "deadline", "what", "again"),
    [
        (30, 1, 600, "none", 30),
        (30, 1, 20, "none", 20),
        (-30, 1, 600, "rung", 2),
        (-30, 0, 600, "rung", 30),
        (-30, 0, 20, "rung", 20),
        (-3600, 0, 600, "rung", 60),
    ],
)
async def test_a_ready_turn_is_rung_for_when_its_time_has_come_and_then_ever_more_rarely(
    backplane: Backplane, ready: int, held_back: int, deadline: int, what: str, again: int
) -> None:
    """One that waits for a slot is not lost. Seconds from now on; none is looked at behind its deadline."""
    started = await backplane.turns.start(REF, ask())
    key, place = backplane.keys.thread(REF), member(backplane, started.request_id)
    now = await clock(backplane)
    await backplane.redis.hset(
        key.turn(started.request_id),
        mapping={"ready_at": now + ready * 1000, "held_back": held_back, "deadline": now + deadline * 1000},
    )
    await backplane.redis.zadd(key.partition.due, {place: 1})
    assert await backplane.turns.recover(place) == what
    due = await backplane.redis.zscore(key.partition.due, place)
    assert due is not None
    # the pause of a turn that waits is as long as it has waited
    late = await clock(backplane) - now
    assert now + again * 1000 <= due <= now + again * 1000 + 2 * late
    assert (
        await backplane.redis.hget(key.turn(started.request_id), "held_back") == str(held_back * (ready > 0)).encode()
    )


async def test_a_turn_that_became_ready_just_now_is_not_rung_for_again_yet(backplane: Backplane) -> None:
    started = await backplane.turns.start(REF, ask())
    key, place = backplane.keys.thread(REF), member(backplane, started.request_id)
    await backplane.redis.zadd(key.partition.due, {place: 1})
    what = await backplane.turns.recover(place)
    due = await backplane.redis.zscore(key.partition.due, place)
    until = int(await backplane.redis.hget(key.turn(started.request_id), "ready_at") or 0) + 2000
    assert (what, due) == ("none", until) or await clock(backplane) >= until


async def test_a_turn_that_may_not_be_tried_again_ends_with_its_first_worker(backplane: Backplane) -> None:
    started = await backplane.turns.start(REF, ask(policy="fail"))
    follow = await backplane.turns.start(REF, ask("next", queue_mode="followup"))
    await claimed(backplane, started)
    await lapse(backplane, started.request_id)
    assert await backplane.turns.recover(member(backplane, started.request_id)) == "worker_lost"
    assert (await claimed(backplane, follow)).message == "next"


async def test_the_policy_is_the_settings_unless_the_start_says_otherwise(open_backplane: Any) -> None:
    async with open_backplane(turn_policy="resume") as backplane:
        assert (await claimed(backplane, await backplane.turns.start(REF, ask()))).policy == "resume"
        assert (await claimed(backplane, await backplane.turns.start(REF, ask(policy="retry")))).policy == "retry"


async def test_a_deadline_is_enforced_although_nobody_owns_the_turn(open_backplane: Any) -> None:
    async with open_backplane(turn_timeout=0.001) as backplane:
        started = await backplane.turns.start(REF, ask())
        place = member(backplane, started.request_id)
        assert await recovered(backplane, place) == "turn_timeout"
        assert (await log(backplane))[-1].fields["error_type"] == "turn_timeout"
        assert await backplane.turns.claim(place, "worker-1") is None


async def test_a_deadline_is_looked_at_although_the_owner_of_the_turn_lives(open_backplane: Any) -> None:
    """Each heartbeat puts the end of the lease off, and would put this off with it for ever."""
    async with open_backplane(turn_timeout=5.0, lease=3600.0) as backplane:
        started = await backplane.turns.start(REF, ask())
        claim = await claimed(backplane, started)
        place = [member(backplane, started.request_id)]
        assert await backplane.redis.zmscore(backplane.keys.thread(REF).partition.due, place) == [claim.deadline]
        assert await backplane.turns.heartbeat([claim]) == ["ok"]
        assert await backplane.redis.zmscore(backplane.keys.thread(REF).partition.due, place) == [claim.deadline]


async def test_a_turn_is_not_begun_behind_its_deadline(backplane: Backplane) -> None:
    started = await backplane.turns.start(REF, ask())
    await backplane.redis.hset(backplane.keys.thread(REF).turn(started.request_id), "deadline", 1)
    assert await backplane.turns.claim(member(backplane, started.request_id), "worker-1") is None
    assert await backplane.turns.recover(member(backplane, started.request_id)) == "turn_timeout"
    assert await names(backplane) == ["chat_accepted", "chat_error"]


async def test_a_failed_turn_keeps_what_was_said(backplane: Backplane) -> None:
    claim = await claimed(backplane, await backplane.turns.start(REF, ask("q")))
    await backplane.turns.append(claim, said('half an "ans'))
    await backplane.turns.finish(claim, Batch(2, []), Ending("failed", "chat_error", body({"message": "m"})))
    assert await session(backplane) == [("user", "q", False), ("assistant", 'half an "ans', True)]


async def test_a_new_attempt_begins_with_an_empty_answer(backplane: Backplane) -> None:
    started = await backplane.turns.start(REF, ask("q"))
    await backplane.turns.append(await claimed(backplane, started), said("lost words"))
    await lapse(backplane, started.request_id)
    await backplane.turns.recover(member(backplane, started.request_id))
    claim = await claimed(backplane, started)
    await backplane.turns.append(claim, said("new"))
    snapshot = await backplane.sessions.snapshot(REF, subject="ann")
    assert snapshot.turn is not None
    assert (snapshot.turn.text, snapshot.turn.attempt) == ("new", 2)
    await backplane.turns.finish(claim, Batch(2, []), done("new"))
    assert await session(backplane) == [("user", "q", False), ("assistant", "new", False)]


# --- cancel (invariant 7) ------------------------------------------------------------------------------


async def test_a_cancel_before_the_claim_sticks(backplane: Backplane) -> None:
    started = await backplane.turns.start(REF, ask())
    cancelled = await backplane.turns.cancel(REF, "ann")
    assert (cancelled.cancelled, cancelled.request_id, cancelled.state) == (True, started.request_id, "ready")
    assert await backplane.turns.claim(member(backplane, started.request_id), "worker-1") is None
    assert await names(backplane) == ["chat_accepted", "chat_error"]
    assert (await log(backplane))[-1].fields["error_type"] == "cancelled"


async def test_a_running_turn_hears_of_its_cancel_at_its_next_word(backplane: Backplane) -> None:
    claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
    cancelled = await backplane.turns.cancel(REF, "ann", claim.request_id)
    assert (cancelled.cancelled, cancelled.state) == (True, "running")
    assert (await backplane.turns.append(claim, said("a")))[0] == "cancelled"
    assert await backplane.turns.heartbeat([claim]) == ["cancelled"]


async def test_an_answer_that_comes_after_the_cancel_ends_as_cancelled(backplane: Backplane) -> None:
    """What was acknowledged as cancelled is not done after all."""
    claim = await claimed(backplane, await backplane.turns.start(REF, ask("q")))
    await backplane.turns.append(claim, said("part"))
    await backplane.turns.cancel(REF, "ann")
    assert (await backplane.turns.finish(claim, Batch(2, []), done("part and more"))).state == "cancelled"
    assert (await names(backplane))[-1] == "chat_error"
    assert await session(backplane) == [("user", "q", False), ("assistant", "part", True)]


async def test_a_dead_workers_turn_is_cancelled_at_once(backplane: Backplane) -> None:
    """And the thread is free: a turn may start."""
    claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
    await lapse(backplane, claim.request_id)
    assert (await backplane.turns.cancel(REF, "ann")).cancelled
    assert (await names(backplane))[-1] == "chat_error"
    assert (await backplane.turns.start(REF, ask("next"))).state == "accepted"


async def test_a_worker_that_ignores_a_cancel_does_not_hold_the_thread(open_backplane: Any) -> None:
    """The lease is alive, the grace is over: the recoverer ends the turn."""
    async with open_backplane(cancel_grace=0.001) as backplane:
        claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
        await backplane.turns.cancel(REF, "ann")
        place = member(backplane, claim.request_id)
        assert await recovered(backplane, place) == "cancelled"
        assert (await backplane.turns.append(claim, said("late")))[0] == "fenced"


async def test_a_cancel_is_looked_at_when_its_grace_is_over_however_long_the_lease_is(open_backplane: Any) -> None:
    """And however often its owner beats, or is asked to stop again."""
    async with open_backplane(lease=3600.0, cancel_grace=60.0) as backplane:
        claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
        place, due = [member(backplane, claim.request_id)], backplane.keys.thread(REF).partition.due
        first = await backplane.turns.cancel(REF, "ann")
        assert await backplane.redis.zmscore(due, place) == [(first.requested or 0) + 60_000]
        assert await backplane.turns.heartbeat([claim]) == ["cancelled"]
        assert (await backplane.turns.cancel(REF, "ann")).requested == first.requested
        assert await backplane.redis.zmscore(due, place) == [(first.requested or 0) + 60_000]
        await backplane.redis.zadd(due, {place[0]: 1})
        assert await backplane.turns.recover(place[0]) == "none"
        assert await backplane.redis.zmscore(due, place) == [(first.requested or 0) + 60_000]


@pytest.mark.parametrize("way", ["cancel", "interrupt", "taken_over"])
async def test_the_workers_are_told_at_once_that_a_turn_is_to_stop(backplane: Backplane, way: str) -> None:
    ear = Ear()
    await backplane.live.subscribe(backplane.keys.thread(REF).partition.control, ear)
    claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
    if way == "cancel":
        await backplane.turns.cancel(REF, "ann")
    elif way == "interrupt":
        await backplane.turns.start(REF, ask("other", queue_mode="interrupt"))
    else:
        await lapse(backplane, claim.request_id)
        assert await backplane.turns.recover(member(backplane, claim.request_id)) == way
    await wait_until(lambda: ear.messages == [claim.request_id.encode()], "the turn is named")


async def test_a_stale_cancel_does_nothing_and_says_so(backplane: Backplane) -> None:
    first = await claimed(backplane, await backplane.turns.start(REF, ask()))
    await backplane.turns.finish(first, Batch(1, []), done("a"))
    second = await backplane.turns.start(REF, ask("again"))
    stale = await backplane.turns.cancel(REF, "ann", first.request_id)
    assert (stale.cancelled, stale.request_id, stale.state) == (False, first.request_id, "done")
    unknown = await backplane.turns.cancel(REF, "ann", "no-such-request")
    assert (unknown.cancelled, unknown.state) == (False, "unknown")
    assert await backplane.turns.claim(member(backplane, second.request_id), "worker-1") is not None


async def test_a_cancel_when_nothing_runs_says_so(backplane: Backplane) -> None:
    claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
    await backplane.turns.finish(claim, Batch(1, []), done("a"))
    idle = await backplane.turns.cancel(REF, "ann")
    assert (idle.cancelled, idle.request_id, idle.state) == (False, None, "idle")


async def test_a_cancel_is_not_lost_when_the_worker_hands_the_turn_back(backplane: Backplane) -> None:
    """No worker may come for it: the turn ends where it is released."""
    claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
    waiting = await backplane.turns.start(REF, ask("next", queue_mode="followup"))
    await backplane.turns.cancel(REF, "ann", claim.request_id)
    await backplane.turns.release(claim)
    assert (await names(backplane, claim.request_id))[-1] == "chat_error"
    assert (await claimed(backplane, waiting)).message == "next"


@pytest.mark.parametrize("name", ["cancel", "unqueue", "finish"])
async def test_a_call_whose_answer_was_lost_is_answered_the_same_again(backplane: Backplane, name: str) -> None:
    claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
    await backplane.turns.start(REF, ask("next", queue_mode="followup"))
    call = {
        "cancel": backplane.call("cancel", REF, "ann", "", 1000, "call-1"),
        "unqueue": backplane.call("unqueue", REF, "ann", "", "call-1"),
        "finish": backplane.call("finish", REF, claim.request_id, 1, 1, "", "done", "chat_done", "", '"a"'),
    }[name]
    first = await backplane.run(call)
    before = await names(backplane)
    assert await backplane.run(call) == first
    assert await names(backplane) == before


def proof(event: Event) -> tuple[Any, ...]:
    fields = event.fields
    assert fields["error_type"] == "cancelled"
    return tuple(fields[n] for n in ("cancel_requested_ms", "cancel_seen_ms", "cancel_stopped_ms", "stopped"))


@pytest.mark.parametrize("how", ["cooperative", "hard"])
async def test_a_cancel_proves_itself_in_the_log_and_in_its_answer(backplane: Backplane, how: Any) -> None:
    """Asked for, then told to the worker, then stopped: each with its time, and each cancel tells what is known."""
    claim = await claimed(backplane, await backplane.turns.start(REF, ask("q")))
    first = await backplane.turns.cancel(REF, "ann", claim.request_id)
    assert (first.seen, first.stopped, first.how) == (None, None, None)
    assert await backplane.turns.heartbeat([claim]) == ["cancelled"]
    second = await backplane.turns.cancel(REF, "ann", claim.request_id)
    assert second.requested == first.requested
    assert second.seen is not None
    assert await backplane.turns.append(claim, Batch(1, [])) == ("cancelled", 2)
    ending = Ending("failed", "chat_error", body({"message": "m"}), stopped=how)
    await backplane.turns.finish(claim, Batch(2, []), ending)
    third = await backplane.turns.cancel(REF, "ann", claim.request_id)
    assert (third.cancelled, third.state) == (False, "cancelled")
    assert proof((await log(backplane))[-1]) == (third.requested, third.seen, third.stopped, third.how)
    assert third.requested == first.requested
    assert third.seen == second.seen
    assert third.requested is not None
    assert third.stopped is not None
    assert third.requested <= second.seen <= third.stopped
    assert third.how == how


@pytest.mark.parametrize("told_by", ["append", "heartbeat"])
async def test_the_first_time_that_a_worker_is_told_of_a_cancel_is_kept(backplane: Backplane, told_by: str) -> None:
    """Whichever of its calls was the first: what it is told again later changes nothing."""
    claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
    await backplane.turns.cancel(REF, "ann")

    async def told(number: int) -> str | None:
        if told_by == "heartbeat":
            return (await backplane.turns.heartbeat([claim]))[0]
        return (await backplane.turns.append(claim, Batch(number, [])))[0]

    assert await told(1) == "cancelled"
    assert (await backplane.turns.cancel(REF, "ann", claim.request_id)).seen is not None
    await backplane.redis.hset(backplane.keys.thread(REF).turn(claim.request_id), "cancel_seen", 1)  # long ago
    assert await told(2) == "cancelled"
    assert (await backplane.turns.cancel(REF, "ann", claim.request_id)).seen == 1


async def test_a_cancel_of_a_turn_that_no_worker_runs_says_so(backplane: Backplane) -> None:
    running = await backplane.turns.start(REF, ask("q"))
    waiting = await backplane.turns.start(REF, ask("w", queue_mode="followup"))
    for request_id in (waiting.request_id, running.request_id):
        cancelled = await backplane.turns.cancel(REF, "ann", request_id)
        assert (cancelled.how, cancelled.seen, cancelled.requested) == ("unowned", None, cancelled.stopped)
        assert cancelled.stopped is not None
    assert proof((await log(backplane))[-1])[3] == "unowned"


async def test_a_cancel_of_a_silent_worker_says_that_it_was_cut_off(backplane: Backplane) -> None:
    """Dead or stopped: nobody was told, and what it may still write is refused."""
    for asked_first in (True, False):
        claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
        if asked_first:
            await backplane.turns.cancel(REF, "ann")
        await lapse(backplane, claim.request_id)
        if asked_first:
            assert await backplane.turns.recover(member(backplane, claim.request_id)) == "cancelled"
        else:
            await backplane.turns.cancel(REF, "ann")
        assert proof((await log(backplane))[-1])[1::2] == (None, "fenced")
        assert (await backplane.turns.append(claim, said("late")))[0] == "fenced"


async def test_an_answer_that_comes_to_the_door_behind_a_cancel_was_told_there(backplane: Backplane) -> None:
    claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
    await backplane.turns.cancel(REF, "ann")
    assert (await backplane.turns.finish(claim, Batch(1, []), done("a"))).state == "cancelled"
    _, seen, stopped, how = proof((await log(backplane))[-1])
    assert (seen, how) == (stopped, "cooperative")


async def test_a_finished_turn_has_nothing_to_prove(backplane: Backplane) -> None:
    claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
    await backplane.turns.finish(claim, Batch(1, []), done("a"))
    late = await backplane.turns.cancel(REF, "ann", claim.request_id)
    assert (late.requested, late.seen, late.stopped, late.how) == (None, None, None, None)


# --- a second message ----------------------------------------------------------------------------------


async def test_interrupt_ends_the_old_turn_before_the_new_one_is_accepted(backplane: Backplane) -> None:
    old = await claimed(backplane, await backplane.turns.start(REF, ask("one")))
    await backplane.turns.append(old, said("par"))
    new = await backplane.turns.start(REF, ask("two"))
    assert new.state == "accepted"
    assert (await backplane.turns.append(old, said("late")))[0] == "fenced"
    events = await log(backplane)
    assert [(e.name, e.request_id == new.request_id) for e in events][-2:] == [
        ("chat_error", False),
        ("chat_accepted", True),
    ]
    assert events[-2].fields["error_type"] == "superseded"
    assert await session(backplane) == [("user", "one", False), ("assistant", "par", True), ("user", "two", False)]


async def test_reject_changes_nothing(backplane: Backplane) -> None:
    first = await backplane.turns.start(REF, ask("one"))
    with pytest.raises(TurnRunning) as caught:
        await backplane.turns.start(REF, ask("two", queue_mode="reject"))
    assert caught.value.details["request_id"] == first.request_id
    assert await names(backplane) == ["chat_accepted"]


async def test_followups_run_in_order_and_enter_the_session_when_they_do(backplane: Backplane) -> None:
    """The hand-over is in the script that ends the turn: there is no moment in which the thread looks idle."""
    started = await backplane.turns.start(REF, ask("0"))
    queued = [await backplane.turns.start(REF, ask(str(n), queue_mode="followup")) for n in (1, 2, 3)]
    assert [(q.state, q.position) for q in queued] == [("queued", 1), ("queued", 2), ("queued", 3)]
    for turn in (started, *queued):
        claim = await claimed(backplane, turn)
        await backplane.turns.finish(claim, Batch(1, []), done(f"answer {claim.message}"))
    assert [content for _, content, _ in await session(backplane)] == [
        "0", "answer 0", "1", "answer 1", "2", "answer 2", "3", "answer 3",
    ]  # fmt: skip
    assert await names(backplane, queued[0].request_id) == [
        "queue_item_queued", "queue_item_delivered", "chat_accepted", "inference_start", "chat_done",
    ]  # fmt: skip


async def test_a_followup_that_is_forgotten_holds_up_none_behind_it(backplane: Backplane) -> None:
    """Each one that comes renews the lane, but not those that stand in it: the first may have gone before the last."""
    claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
    old, new = [await backplane.turns.start(REF, ask(word, queue_mode="followup")) for word in ("old", "new")]
    await backplane.redis.delete(backplane.keys.thread(REF).turn(old.request_id))
    assert (await backplane.turns.finish(claim, Batch(1, []), done("a"))).state == "done"
    assert (await claimed(backplane, new)).message == "new"


async def test_a_followup_with_nothing_running_is_accepted_at_once(backplane: Backplane) -> None:
    assert (await backplane.turns.start(REF, ask(queue_mode="followup"))).state == "accepted"


async def test_followups_are_handed_over_when_the_running_turn_is_cancelled_by_its_id(backplane: Backplane) -> None:
    running = await backplane.turns.start(REF, ask("1"))
    waiting = await backplane.turns.start(REF, ask("2", queue_mode="followup"))
    await backplane.turns.cancel(REF, "ann", running.request_id)
    assert (await claimed(backplane, waiting)).message == "2"


async def test_a_cancel_without_an_id_empties_the_lane_and_says_what_it_dropped(backplane: Backplane) -> None:
    running = await backplane.turns.start(REF, ask("1"))
    waiting = [await backplane.turns.start(REF, ask(str(n), queue_mode="followup")) for n in (2, 3)]
    cancelled = await backplane.turns.cancel(REF, "ann")
    assert cancelled.request_id == running.request_id
    assert cancelled.dropped == tuple(w.request_id for w in waiting)
    assert (await names(backplane)).count("queue_item_removed") == 2
    assert (await backplane.turns.lanes(REF, "ann"))[1:] == ("idle", [])


async def test_a_waiting_message_can_be_cancelled_removed_and_seen(backplane: Backplane) -> None:
    running = await backplane.turns.start(REF, ask("1"))
    waiting = [await backplane.turns.start(REF, ask(f"m{n}", queue_mode="followup")) for n in range(3)]
    found, state, items = await backplane.turns.lanes(REF, "ann")
    assert (found, state) == (running.request_id, "ready")
    assert [(i.item_id, i.preview) for i in items] == [(w.request_id, f"m{n}") for n, w in enumerate(waiting)]
    cancelled = await backplane.turns.cancel(REF, "ann", waiting[0].request_id)
    assert (cancelled.cancelled, cancelled.state) == (True, "queued")
    assert await backplane.turns.unqueue(REF, "ann", waiting[1].request_id) == [waiting[1].request_id]
    assert await backplane.turns.unqueue(REF, "ann", waiting[1].request_id) == []
    assert await backplane.turns.unqueue(REF, "ann", running.request_id) == []
    assert await backplane.turns.unqueue(REF, "ann") == [waiting[2].request_id]


async def test_the_lane_has_an_end(open_backplane: Any) -> None:
    """One more is refused, and nothing of it is stored."""
    async with open_backplane(max_followups=2) as backplane:
        await backplane.turns.start(REF, ask("1"))
        for n in (2, 3):
            await backplane.turns.start(REF, ask(str(n), queue_mode="followup"))
        before = await names(backplane)
        refused = ask("4", queue_mode="followup", client_message_id="k")
        with pytest.raises(QueueFull):
            await backplane.turns.start(REF, refused)
        assert await names(backplane) == before
        assert not await backplane.redis.exists(backplane.keys.thread(REF).turn(refused.request_id))


# --- steer: a message for the running turn ---------------------------------------------------------------


async def test_a_steer_is_taken_by_the_running_turn_and_is_never_a_turn_itself(backplane: Backplane) -> None:
    claim = await claimed(backplane, await backplane.turns.start(REF, ask("one")))
    steer = await backplane.turns.start(REF, ask("left", queue_mode="steer"))
    assert (steer.state, steer.lane, steer.position) == ("queued", "steer", 1)
    verdict, found = await backplane.turns.steers(claim, 0)
    assert (verdict, [(s.item_id, s.message) for s in found]) == ("ok", [(steer.request_id, "left")])
    assert await backplane.turns.steers(claim, 1) == ("ok", [])
    assert (await backplane.turns.lanes(REF, "ann"))[2] == []
    await backplane.turns.finish(claim, Batch(1, []), done("a"))
    assert await names(backplane, steer.request_id) == ["queue_item_queued", "queue_item_delivered"]
    assert (await log(backplane))[3].fields["into_request_id"] == claim.request_id
    assert await session(backplane) == [("user", "one", False), ("user", "left", False), ("assistant", "a", False)]
    late = await backplane.turns.cancel(REF, "ann", steer.request_id)
    assert (late.cancelled, late.state) == (False, "delivered")


async def test_taking_steers_twice_delivers_them_once(backplane: Backplane) -> None:
    """The answer may be lost: the same call gives the same messages, and one event."""
    claim = await claimed(backplane, await backplane.turns.start(REF, ask("one")))
    steer = await backplane.turns.start(REF, ask("left", queue_mode="steer"))
    assert await backplane.turns.steers(claim, 0) == await backplane.turns.steers(claim, 0)
    assert (await names(backplane, steer.request_id)).count("queue_item_delivered") == 1
    assert len(await session(backplane)) == 2


async def test_another_attempt_gets_the_steers_that_the_lost_one_took(backplane: Backplane) -> None:
    """And its history ends before its own message, although a steer came behind that."""
    started = await backplane.turns.start(REF, ask("one"))
    lost = await claimed(backplane, started)
    await backplane.turns.start(REF, ask("left", queue_mode="steer"))
    await backplane.turns.steers(lost, 0)
    await lapse(backplane, started.request_id)
    await backplane.turns.recover(member(backplane, started.request_id))
    claim = await claimed(backplane, started)
    assert await backplane.turns.steers(lost, 0) == ("fenced", [])
    assert [steer.message for steer in (await backplane.turns.steers(claim, 0))[1]] == ["left"]
    assert (await backplane.sessions.history(REF, before=claim.message_id))[1] == []
    assert (claim.message_id, claim.session_version) == (lost.message_id, lost.session_version)


async def test_steers_that_nobody_took_become_the_next_turns_before_other_followups(backplane: Backplane) -> None:
    """In the script that ends the turn, each way of ending it."""
    for number, end in enumerate(("finish", "cancel", "interrupt", "recover")):
        ref = thread_ref(f"steers-{number}")
        keys = backplane.keys.thread(ref)
        running = await backplane.turns.start(ref, ask("one"))
        claim = await backplane.turns.claim(keys.member(running.request_id), "w")
        assert claim is not None
        follow = await backplane.turns.start(ref, ask("f", queue_mode="followup"))
        steers = [await backplane.turns.start(ref, ask(f"s{n}", queue_mode="steer")) for n in (1, 2)]
        if end == "finish":
            await backplane.turns.finish(claim, Batch(1, []), done("a"))
        elif end == "cancel":
            await backplane.turns.cancel(ref, "ann", running.request_id)
            await backplane.turns.finish(claim, Batch(1, []), done("a"))
        elif end == "interrupt":
            new = await backplane.turns.start(ref, ask("two"))
            await backplane.turns.cancel(ref, "ann", new.request_id)
        else:
            await backplane.redis.hset(keys.turn(running.request_id), mapping={"deadline": 1})
            assert await backplane.turns.recover(keys.member(running.request_id)) == "turn_timeout"
        delivered = []
        for _ in range(3):
            request_id, state, _ = await backplane.turns.lanes(ref, "ann")
            assert state == "ready"
            assert request_id is not None
            delivered.append(request_id)
            await backplane.turns.cancel(ref, "ann", request_id)
        assert delivered == [steer.request_id for steer in (*steers, follow)], end
        queued = [e.fields for e in await log(backplane, ref) if e.name == "queue_item_queued"]
        assert [(q["lane"], q.get("from_lane")) for q in queued][-2:] == [("followup", "steer")] * 2


async def test_a_lane_that_steers_fall_into_has_a_lifetime(backplane: Backplane) -> None:
    claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
    for word in ("first", "second"):
        await backplane.turns.start(REF, ask(word, queue_mode="steer"))
    await backplane.turns.finish(claim, Batch(1, []), done("a"))
    assert await backplane.redis.pttl(backplane.keys.thread(REF).lanes + "followup") > 0


@pytest.mark.parametrize("lane", ["followup", "steer", "collect"])
async def test_a_message_that_was_removed_or_delivered_is_forgotten(backplane: Backplane, lane: QueueMode) -> None:
    """Only the session keeps its words, and nothing of it stays for as long as a lane does."""
    claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
    waiting = await backplane.turns.start(REF, ask("secret", queue_mode=lane))
    if lane == "followup":
        assert await backplane.turns.unqueue(REF, "ann", waiting.request_id) == [waiting.request_id]
    elif lane == "steer":
        assert (await backplane.turns.steers(claim, 0))[1][0].message == "secret"
        await backplane.turns.finish(claim, Batch(1, []), done("a"))
    else:
        await backplane.turns.start(REF, ask("next"))
    key = backplane.keys.thread(REF).turn(waiting.request_id)
    assert await backplane.redis.hmget(key, ["message", "input", "preview"]) == [None] * 3
    assert 0 < await backplane.redis.pttl(key) <= backplane.settings.turn_ttl * 1000


async def test_a_steer_with_nothing_running_is_a_turn(backplane: Backplane) -> None:
    assert (await backplane.turns.start(REF, ask(queue_mode="steer"))).state == "accepted"


async def test_a_cancelled_turn_takes_no_steers(backplane: Backplane) -> None:
    claim = await claimed(backplane, await backplane.turns.start(REF, ask("one")))
    await backplane.turns.start(REF, ask("left", queue_mode="steer"))
    await backplane.turns.cancel(REF, "ann", claim.request_id)
    assert await backplane.turns.steers(claim, 0) == ("cancelled", [])


# --- collect: context for the next turn ------------------------------------------------------------------


async def test_context_waits_for_the_next_turn_and_stands_in_front_of_its_message(backplane: Backplane) -> None:
    """It starts nothing by itself, neither when nothing runs nor when a turn ends."""
    first = await backplane.turns.start(REF, ask("c0", queue_mode="collect"))
    assert (first.state, first.lane) == ("queued", "collect")
    assert (await backplane.turns.lanes(REF, "ann"))[:2] == (None, "idle")
    running = await backplane.turns.start(REF, ask("one"))
    second = await backplane.turns.start(REF, ask("c1", queue_mode="collect"))
    await backplane.turns.finish(await claimed(backplane, running), Batch(1, []), done("a"))
    assert [item.item_id for item in (await backplane.turns.lanes(REF, "ann"))[2]] == [second.request_id]
    next_turn = await backplane.turns.start(REF, ask("two"))
    _, messages = await backplane.sessions.history(REF)
    assert [(m["content"], m.get("context", False)) for m in messages] == [
        ("c0", True), ("one", False), ("a", False), ("c1", True), ("two", False),
    ]  # fmt: skip
    claim = await claimed(backplane, next_turn)
    history = (await backplane.sessions.history(REF, before=claim.message_id))[1]
    assert [m["content"] for m in history] == ["c0", "one", "a", "c1"]
    assert await names(backplane, second.request_id) == ["queue_item_queued", "queue_item_delivered"]


async def test_a_copy_of_the_session_does_not_count_for_a_turn_with_context(backplane: Backplane) -> None:
    """The worker's copy is valid at `session_version - 1`: context has moved that on."""
    claim = await claimed(backplane, await backplane.turns.start(REF, ask("one")))
    finished = await backplane.turns.finish(claim, Batch(1, []), done("a"))
    await backplane.turns.start(REF, ask("c", queue_mode="collect"))
    claim = await claimed(backplane, await backplane.turns.start(REF, ask("two")))
    assert claim.session_version - 1 == finished.session_version + 1


# --- parallel: a turn beside -----------------------------------------------------------------------------


async def test_a_parallel_turn_runs_beside_and_leaves_the_session_alone(backplane: Backplane) -> None:
    first = await claimed(backplane, await backplane.turns.start(REF, ask("one")))
    await backplane.turns.finish(first, Batch(1, []), done("a"))
    primary = await claimed(backplane, await backplane.turns.start(REF, ask("two")))
    beside = await backplane.turns.start(REF, ask("aside", queue_mode="parallel"))
    assert (beside.state, beside.lane) == ("accepted", "parallel")
    await backplane.turns.finish(primary, Batch(1, []), done("b"))
    await backplane.turns.start(REF, ask("three"))
    claim = await claimed(backplane, beside)
    fork = (await backplane.sessions.history(REF, before=claim.message_id))[1]
    assert [m["content"] for m in fork] == ["one", "a", "two"]
    before = await session(backplane)
    await backplane.turns.append(claim, said("c"))
    assert (await backplane.turns.finish(claim, Batch(2, []), done("c"))).state == "done"
    assert await session(backplane) == before
    assert await names(backplane, beside.request_id) == [
        "chat_accepted", "inference_start", "text_delta", "chat_done",
    ]  # fmt: skip
    assert (await backplane.turns.lanes(REF, "ann"))[1:] == ("ready", [])


async def test_a_parallel_turn_is_in_nobodys_way(backplane: Backplane) -> None:
    """Not of a start, not of the hand-over, not of a cancel without an id; its own end hands nothing over."""
    beside = await claimed(backplane, await backplane.turns.start(REF, ask("aside", queue_mode="parallel")))
    primary = await backplane.turns.start(REF, ask("one", queue_mode="reject"))
    assert primary.state == "accepted"
    follow = await backplane.turns.start(REF, ask("two", queue_mode="followup"))
    await backplane.turns.finish(beside, Batch(1, []), done("x"))
    assert (await backplane.turns.lanes(REF, "ann"))[0] == primary.request_id
    other = await claimed(backplane, await backplane.turns.start(REF, ask("aside", queue_mode="parallel")))
    assert (await backplane.turns.cancel(REF, "ann")).dropped == (follow.request_id,)
    assert await backplane.turns.heartbeat([other]) == ["ok"]
    cancelled = await backplane.turns.cancel(REF, "ann", other.request_id)
    assert (cancelled.cancelled, cancelled.state) == (True, "running")
    assert (await backplane.turns.finish(other, Batch(1, []), done("x"))).state == "cancelled"


async def test_a_parallel_turn_whose_worker_is_lost_is_taken_over_beside(backplane: Backplane) -> None:
    beside = await backplane.turns.start(REF, ask("aside", queue_mode="parallel"))
    await claimed(backplane, beside)
    await lapse(backplane, beside.request_id)
    assert await backplane.turns.recover(member(backplane, beside.request_id)) == "taken_over"
    assert (await backplane.turns.lanes(REF, "ann"))[:2] == (None, "idle")
    assert (await claimed(backplane, beside)).fence == 2


async def test_parallel_turns_have_a_cap_of_their_own(open_backplane: Any) -> None:
    async with open_backplane(max_parallel=2) as backplane:
        turns = [await backplane.turns.start(REF, ask("aside", queue_mode="parallel")) for _ in range(2)]
        with pytest.raises(QueueFull) as caught:
            await backplane.turns.start(REF, ask("aside", queue_mode="parallel"))
        assert caught.value.details["lane"] == "parallel"
        await backplane.turns.cancel(REF, "ann", turns[0].request_id)
        assert (await backplane.turns.start(REF, ask("aside", queue_mode="parallel"))).state == "accepted"


async def test_readers_are_told_of_every_turn_that_runs(backplane: Backplane) -> None:
    """The poll of a node, and a client without a cursor, know the parallel ones too."""
    primary = await claimed(backplane, await backplane.turns.start(REF, ask("one")))
    beside = await claimed(backplane, await backplane.turns.start(REF, ask("aside", queue_mode="parallel")))
    await backplane.turns.append(primary, said("p"))
    await backplane.turns.append(beside, said("q"))
    both = {primary.request_id, beside.request_id}
    assert (await backplane.log.read(REF)).active == both
    snapshot = await backplane.sessions.snapshot(REF, subject="ann")
    assert snapshot.active == both
    assert snapshot.turn is not None
    assert (snapshot.turn.request_id, snapshot.turn.text) == (primary.request_id, "p")
    assert [(turn.request_id, turn.text) for turn in snapshot.parallel] == [(beside.request_id, "q")]


# --- all lanes -------------------------------------------------------------------------------------------


async def test_all_lanes_are_shown_cleared_and_changed_in_any_process(open_backplane: Any) -> None:
    async with open_backplane(node_id="one") as one, open_backplane(node_id="two") as two:
        claim = await claimed(one, await one.turns.start(REF, ask("one")))
        items = {mode: await one.turns.start(REF, ask(mode, queue_mode=mode)) for mode in LANES}
        _, _, shown = await two.turns.lanes(REF, "ann")
        assert [(i.lane, i.item_id, i.preview, i.state) for i in shown] == [
            (mode, items[mode].request_id, mode, "ready" if mode == "parallel" else "queued") for mode in LANES
        ]
        assert await two.turns.unqueue(REF, "ann", items["steer"].request_id) == [items["steer"].request_id]
        assert await one.turns.steers(claim, 0) == ("ok", [])
        assert await two.turns.unqueue(REF, "ann", items["parallel"].request_id) == []
        assert await two.turns.unqueue(REF, "ann") == [items[mode].request_id for mode in ("followup", "collect")]
        removed = [e.fields["lane"] for e in await log(one) if e.name == "queue_item_removed"]
        assert removed == ["steer", "followup", "collect"]


async def test_a_cancel_without_an_id_empties_all_lanes_and_says_what_it_dropped(backplane: Backplane) -> None:
    claim = await claimed(backplane, await backplane.turns.start(REF, ask("one")))
    items = [await backplane.turns.start(REF, ask(mode, queue_mode=mode)) for mode in LANES[:3]]
    assert (await backplane.turns.cancel(REF, "ann")).dropped == tuple(item.request_id for item in items)
    await backplane.turns.finish(claim, Batch(1, []), done("a"))
    assert (await backplane.turns.lanes(REF, "ann")) == (None, "idle", [])


async def test_every_lane_has_an_end(open_backplane: Any) -> None:
    async with open_backplane(max_followups=1) as backplane:
        await backplane.turns.start(REF, ask("one"))
        for mode in LANES[:3]:
            await backplane.turns.start(REF, ask(mode, queue_mode=mode))
            with pytest.raises(QueueFull) as caught:
                await backplane.turns.start(REF, ask(mode, queue_mode=mode))
            assert caught.value.details["lane"] == mode


# --- wake-ups ------------------------------------------------------------------------------------------


async def test_a_lost_doorbell_is_rung_again(backplane: Backplane) -> None:
    started = await backplane.turns.start(REF, ask())
    assert await backplane.doorbell.wait() is not None
    await lapse(backplane, started.request_id)
    assert await Recoverer(backplane).look() == 1
    assert await backplane.doorbell.wait() == member(backplane, started.request_id)


async def test_a_turn_that_waits_for_a_slot_is_rung_ever_more_rarely(backplane: Backplane) -> None:
    """Otherwise a thousand waiting turns would fill the doorbell."""
    started = await backplane.turns.start(REF, ask())
    await lapse(backplane, started.request_id)
    await Recoverer(backplane).look()
    due = await backplane.redis.zscore(backplane.keys.thread(REF).partition.due, member(backplane, started.request_id))
    seconds, _ = await backplane.redis.time()
    assert due is not None
    assert due / 1000 - seconds > 50


async def test_a_turn_handed_back_is_ready_at_once_and_not_counted_as_lost(backplane: Backplane) -> None:
    started = await backplane.turns.start(REF, ask())
    for _ in range(backplane.settings.max_attempts + 1):
        assert await backplane.doorbell.wait() is not None
        await backplane.turns.release(await claimed(backplane, started))
    assert (await backplane.turns.lanes(REF, "ann"))[1] == "ready"


async def test_two_workers_race_for_one_turn_and_never_both_win(backplane: Backplane) -> None:
    for n in range(50):
        ref = thread_ref(f"race-{n}")
        started = await backplane.turns.start(ref, ask())
        place = member(backplane, started.request_id, ref)
        both = await asyncio.gather(backplane.turns.claim(place, "a"), backplane.turns.claim(place, "b"))
        assert sum(claim is not None for claim in both) == 1


async def test_an_owner_that_beats_keeps_its_turn_and_nobody_needs_to_look_at_it(backplane: Backplane) -> None:
    claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
    place, due = member(backplane, claim.request_id), backplane.keys.thread(REF).partition.due
    await lapse(backplane, claim.request_id)
    assert await backplane.turns.heartbeat([claim]) == ["ok"]
    (at,) = await backplane.redis.zmscore(due, [place])
    assert at == int(await backplane.redis.hget(backplane.keys.thread(REF).turn(claim.request_id), "lease_until") or 0)
    assert await backplane.turns.recover(place) == "none"
    assert await backplane.turns.append(claim, said("still mine")) == ("ok", 3)


async def test_a_recovered_turn_of_a_running_worker_is_left_alone(backplane: Backplane) -> None:
    started = await backplane.turns.start(REF, ask())
    await claimed(backplane, started)
    assert await backplane.turns.recover(member(backplane, started.request_id)) == "none"
    assert await backplane.turns.recover(member(backplane, new_id())) == "none"


async def test_a_turn_that_has_ended_is_not_begun_again_by_whoever_looks_at_it_late(backplane: Backplane) -> None:
    claim = await claimed(backplane, await backplane.turns.start(REF, ask()))
    await backplane.turns.finish(claim, Batch(1, []), done("a"))
    place, partition = member(backplane, claim.request_id), backplane.keys.thread(REF).partition
    await lapse(backplane, claim.request_id)
    await backplane.redis.zadd(partition.ready, {place: 1})
    assert await backplane.turns.recover(place) == "none"
    assert (await names(backplane))[-1] == "chat_done"
    assert await backplane.redis.zmscore(partition.due, [place]) == [None]
    assert await backplane.redis.zmscore(partition.ready, [place]) == [None]
