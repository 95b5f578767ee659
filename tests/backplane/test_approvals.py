"""Approvals: asked once, decided once by whoever may, refused when nobody does, and in nobody's way meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import pytest

from backplane.approvals import MOST_OF_A_TURN, Answer, Question
from backplane.connection import Backplane
from backplane.errors import InvalidPayload, NotFound
from backplane.events import Event, body
from backplane.ids import thread_ref
from backplane.recoverer import Recoverer
from backplane.settings import Policy
from backplane.turns import Batch, Claim, Ending, Start, Started
from tests.support.ear import Ear
from tests.support.waiting import wait_until

REF = thread_ref("approvals")
PENDING = Answer("pending", None, None)
ASKED = Question("q1", {"kind": "approval", "tool_name": "rm", "args": {}}, ("approved", "denied"))


async def start(backplane: Backplane, policy: Policy = "resume", **given: Any) -> Started:
    return await backplane.turns.start(REF, Start("go", "ann", "sid", policy=policy, **given))


async def claimed(backplane: Backplane, request_id: str) -> Claim:
    claim = await backplane.turns.claim(backplane.keys.thread(REF).member(request_id), "w")
    assert claim is not None
    return claim


async def asking(backplane: Backplane, question: Question = ASKED, policy: Policy = "resume") -> Claim:
    """Return the claim of a turn that asks."""
    claim = await claimed(backplane, (await start(backplane, policy)).request_id)
    assert await backplane.approvals.ask(claim, question) == ("ok", PENDING)
    return claim


async def parked(backplane: Backplane, question: Question = ASKED) -> Claim:
    claim = await asking(backplane, question)
    assert await backplane.approvals.park(claim) == "waiting"
    assert await backplane.doorbell.wait() is not None  # the ring of its start
    return claim


async def events(backplane: Backplane, name: str = "") -> list[Event]:
    return [e for e in (await backplane.log.read(REF)).events if name in {"", e.name}]


async def age(backplane: Backplane, claim: Claim, **fields: int) -> None:
    """Make a turn look at Redis' clock as time would."""
    keys = backplane.keys.thread(REF)
    for name, value in fields.items():
        await backplane.redis.hset(keys.turn(claim.request_id), name, str(value))
    await backplane.redis.zadd(keys.partition.due, {keys.member(claim.request_id): 1})


async def overdue(backplane: Backplane, claim: Claim) -> None:
    await backplane.redis.hset(backplane.keys.thread(REF).approvals + claim.request_id, "q1:expires", 1)
    await age(backplane, claim, decide_by=1)


async def looked_at_in(backplane: Backplane, claim: Claim) -> float:
    """Return in how many seconds the recoverer looks at a turn."""
    keys = backplane.keys.thread(REF)
    due = await backplane.redis.zscore(keys.partition.due, keys.member(claim.request_id))
    seconds, _ = await backplane.redis.time()
    assert due is not None
    return due / 1000 - seconds


def approval_id(claim: Claim) -> str:
    return f"{claim.request_id}.q1"


# --- asked and decided once ------------------------------------------------------------------------------


async def test_a_question_is_asked_once_however_often_it_is_sent(backplane: Backplane) -> None:
    claim = await asking(backplane)
    assert await backplane.approvals.ask(claim, ASKED) == ("ok", PENDING)
    (asked,) = await events(backplane, "approval_request")
    assert asked.fields["approval_id"] == approval_id(claim)
    assert (asked.fields["kind"], asked.fields["tool_name"]) == ("approval", "rm")
    assert asked.fields["expires_at"] > asked.fields["ts"]


async def test_the_first_of_many_decisions_stands_and_the_others_are_told_whose(open_backplane: Any) -> None:
    async with open_backplane(node_id="one") as one, open_backplane(node_id="two") as two:
        claim = await parked(one)
        decisions = ["approved", "denied"] * 5
        answers = await asyncio.gather(
            *(
                node.approvals.decide(REF, "ann", approval_id(claim), decision)
                for node, decision in zip([one, two] * 5, decisions, strict=True)
            )
        )
        first = [(n, answer) for n, answer in enumerate(answers) if answer.decided]
        assert len(first) == 1
        stands = Answer("decided", decisions[first[0][0]], "ann")
        assert all(answer.answer == stands for answer in answers)
        (decided,) = await events(one, "approval_decided")
        assert (decided.fields["decision"], decided.fields["by"]) == (stands.decision, "ann")
        again = await claimed(one, claim.request_id)
        assert await one.approvals.ask(again, ASKED) == ("ok", stands)


async def test_a_decision_whose_answer_was_lost_may_be_sent_again(backplane: Backplane) -> None:
    claim = await parked(backplane)
    call = backplane.call("decide", REF, "ann", claim.request_id, "q1", '"approved"', '"ann"', "call-1")
    assert await backplane.run(call) == [b"decided", b"decided", b'"approved"', b'"ann"', b'["approved","denied"]',
                                         claim.request_id.encode()]  # fmt: skip
    assert (await backplane.run(call))[0] == b"decided"
    assert len(await events(backplane, "approval_decided")) == 1


async def test_what_is_not_an_option_is_refused_and_decides_nothing(backplane: Backplane) -> None:
    claim = await parked(backplane)
    with pytest.raises(InvalidPayload, match="approved, denied"):
        await backplane.approvals.decide(REF, "ann", approval_id(claim), "maybe")
    assert (await backplane.turns.lanes(REF, "ann"))[:2] == (claim.request_id, "waiting")
    assert (await backplane.approvals.decide(REF, "ann", approval_id(claim), "denied")).decided


async def test_a_question_without_options_takes_any_text(backplane: Backplane) -> None:
    claim = await asking(backplane, Question("q1", {"kind": "question", "question": "Which?"}))
    decided = await backplane.approvals.decide(REF, "ann", approval_id(claim), 'the "blue" ü one\n')
    assert decided.answer.decision == 'the "blue" ü one\n'
    assert (await events(backplane, "approval_decided"))[0].fields["decision"] == 'the "blue" ü one\n'


async def test_only_the_owner_may_decide(backplane: Backplane) -> None:
    """To everybody else the thread looks like one that does not exist."""
    claim = await parked(backplane)
    messages = set()
    for ref, one in ((REF, approval_id(claim)), (thread_ref("nowhere"), "a.b")):
        with pytest.raises(NotFound) as caught:
            await backplane.approvals.decide(ref, "bob", one, "approved")
        messages.add(caught.value.message)
    assert len(messages) == 1
    with pytest.raises(NotFound):
        await backplane.approvals.decide(REF, "ann", f"{claim.request_id}.q2", "approved")
    assert (await backplane.approvals.decide(REF, "ann", approval_id(claim), "denied")).decided


async def test_a_stale_owner_asks_nothing_and_parks_nothing(backplane: Backplane) -> None:
    claim = await asking(backplane, policy="retry")
    await age(backplane, claim, lease_until=1)
    assert await backplane.turns.recover(backplane.keys.thread(REF).member(claim.request_id)) == "taken_over"
    assert (await backplane.approvals.ask(claim, Question("q2", {"kind": "question"})))[0] == "fenced"
    assert await backplane.approvals.park(claim) == "fenced"


async def test_a_turn_asks_a_bounded_number_of_questions(backplane: Backplane) -> None:
    claim = await asking(backplane)
    for number in range(2, MOST_OF_A_TURN + 1):
        await backplane.approvals.ask(claim, Question(f"q{number}", {"kind": "question"}))
    assert (await backplane.approvals.ask(claim, Question("more", {"kind": "question"})))[1].state == "too_many"


@pytest.mark.parametrize("way", ["decided", "expired"])
async def test_the_worker_that_asked_is_told_at_once_that_there_is_an_answer(backplane: Backplane, way: str) -> None:
    ear = Ear()
    await backplane.live.subscribe(backplane.keys.thread(REF).partition.control, ear)
    claim = await asking(backplane)
    if way == "decided":
        await backplane.approvals.decide(REF, "ann", approval_id(claim), "approved")
    else:
        await overdue(backplane, claim)
        await backplane.turns.recover(backplane.keys.thread(REF).member(claim.request_id))
    await wait_until(lambda: ear.messages == [claim.request_id.encode()], "the turn is named")


# --- waiting ---------------------------------------------------------------------------------------------


async def test_a_parked_turn_is_nobodys_until_it_is_decided_and_then_anybodys(backplane: Backplane) -> None:
    claim = await parked(backplane)
    assert (await backplane.turns.lanes(REF, "ann"))[:2] == (claim.request_id, "waiting")
    place = backplane.keys.thread(REF).member(claim.request_id)
    assert await backplane.turns.claim(place, "w2") is None
    assert await backplane.turns.heartbeat([claim]) == ["fenced"]
    await age(backplane, claim, lease_until=1)
    assert await backplane.turns.recover(place) == "none"
    await backplane.approvals.decide(REF, "ann", approval_id(claim), "approved")
    assert await backplane.doorbell.wait() == place
    again = await claimed(backplane, claim.request_id)
    assert (again.fence, again.kept_by) == (2, "asked q1")


async def test_a_turn_that_goes_on_after_a_decision_has_nothing_to_drop(backplane: Backplane) -> None:
    """What was said before stands, so clients are not told of a restart; if more was said, they are."""
    claim = await claimed(backplane, (await start(backplane)).request_id)
    await backplane.turns.append(claim, Batch(1, [("text_delta", body({"delta": "May I? ", "round": 1}))], "May I? "))
    await backplane.approvals.ask(claim, ASKED)
    await backplane.approvals.park(claim)
    await backplane.approvals.decide(REF, "ann", approval_id(claim), "approved")
    again = await claimed(backplane, claim.request_id)
    assert again.text == "May I? "
    assert await events(backplane, "turn_restarted") == []
    await backplane.approvals.ask(again, Question("q2", {"kind": "question"}))
    await backplane.turns.append(again, Batch(1, [("text_delta", body({"delta": "void", "round": 1}))], "void"))
    await backplane.approvals.park(again)
    await backplane.approvals.decide(REF, "ann", f"{claim.request_id}.q2", "x")
    assert (await claimed(backplane, claim.request_id)).text == "May I? "
    assert len(await events(backplane, "turn_restarted")) == 1


async def test_a_decision_before_the_parking_makes_the_turn_ready_at_once(backplane: Backplane) -> None:
    claim = await asking(backplane)
    await backplane.approvals.decide(REF, "ann", approval_id(claim), "approved")
    assert await backplane.approvals.park(claim) == "ready"
    assert (await claimed(backplane, claim.request_id)).fence == 2


@pytest.mark.parametrize("outside", [True, False])
async def test_the_clock_of_the_deadline_stands_still_while_a_person_is_asked(
    backplane: Backplane, outside: bool
) -> None:
    claim = await (parked(backplane) if outside else asking(backplane))
    key = backplane.keys.thread(REF).turn(claim.request_id)
    place = backplane.keys.thread(REF).member(claim.request_id)
    seconds, _ = await backplane.redis.time()
    # asked an hour ago, with a minute left
    then = (seconds - 3600) * 1000
    await age(backplane, claim, paused_at=then, deadline=then + 60_000)
    assert await backplane.turns.recover(place) == "none"
    await backplane.approvals.decide(REF, "ann", approval_id(claim), "approved")
    deadline = int(await backplane.redis.hget(key, "deadline") or 0)
    assert 50_000 < deadline - seconds * 1000 < 70_000
    assert await backplane.redis.hmget(key, "paused_at", "decide_by") == [None, None]
    await age(backplane, claim, deadline=1)
    assert await backplane.turns.recover(place) == "turn_timeout"


async def test_a_second_question_does_not_count_the_wait_for_the_first(backplane: Backplane) -> None:
    """The clock has stood since the first was asked, until the last is decided."""
    claim = await asking(backplane)
    key = backplane.keys.thread(REF).turn(claim.request_id)
    asked_at = int(await backplane.redis.hget(key, "paused_at") or 0)
    assert asked_at > 0
    await backplane.redis.hset(key, "paused_at", asked_at - 100_000)
    await backplane.approvals.ask(claim, Question("q2", {"kind": "question"}))
    for own in ("q1", "q2"):
        assert (await backplane.approvals.decide(REF, "ann", f"{claim.request_id}.{own}", "approved")).decided
    assert int(await backplane.redis.hget(key, "deadline") or 0) >= claim.deadline + 100_000


async def test_what_nobody_decides_in_time_is_refused_although_nobody_owns_the_turn(backplane: Backplane) -> None:
    claim = await parked(backplane)
    await overdue(backplane, claim)
    assert await Recoverer(backplane).look() == 1
    (decided,) = await events(backplane, "approval_decided")
    assert (decided.fields["state"], decided.fields["decision"], decided.fields["by"]) == ("expired", None, None)
    assert await backplane.doorbell.wait() is not None
    late = await backplane.approvals.decide(REF, "ann", approval_id(claim), "approved")
    assert (late.decided, late.answer) == (False, Answer("expired", None, None))
    again = await claimed(backplane, claim.request_id)
    assert await backplane.approvals.ask(again, ASKED) == ("ok", Answer("expired", None, None))


async def test_a_decision_that_comes_after_its_time_counts_for_nothing(backplane: Backplane) -> None:
    """Although the recoverer has not come by yet."""
    claim = await parked(backplane)
    await overdue(backplane, claim)
    late = await backplane.approvals.decide(REF, "ann", approval_id(claim), "approved")
    assert (late.decided, late.answer.state) == (False, "expired")
    assert (await claimed(backplane, claim.request_id)).fence == 2


async def test_an_owner_that_asks_behind_the_time_is_told_that_nobody_decided(backplane: Backplane) -> None:
    """It does not have to wait for the recoverer, which one process of the fleet is."""
    claim = await asking(backplane, policy="retry")
    await overdue(backplane, claim)
    assert await backplane.approvals.ask(claim, ASKED) == ("ok", Answer("expired", None, None))


async def test_the_recoverer_looks_when_the_first_question_expires(backplane: Backplane) -> None:
    claim = await asking(backplane, Question("q1", {"kind": "question"}, expires=30.0))
    await backplane.approvals.ask(claim, Question("q2", {"kind": "question"}, expires=50.0))
    assert await backplane.approvals.park(claim) == "waiting"
    assert 25 < await looked_at_in(backplane, claim) < 35


@pytest.mark.parametrize(("expires", "again"), [(30.0, 30), (86_400.0, 60)])
async def test_the_recoverer_looks_again_and_again_at_a_turn_that_waits(
    backplane: Backplane, expires: float, again: int
) -> None:
    """What the turn will need is renewed so, until its question expires."""
    claim = await parked(backplane, Question("q1", {"kind": "question"}, expires=expires))
    await age(backplane, claim)
    assert await backplane.turns.recover(backplane.keys.thread(REF).member(claim.request_id)) == "none"
    assert again - 5 < await looked_at_in(backplane, claim) < again + 5


async def test_a_waiting_turn_keeps_what_it_will_need(open_backplane: Any) -> None:
    """Its text, its steps and its question outlive the wait, however long; and the recoverer renews the thread."""
    async with open_backplane(turn_ttl=60, replay_window=60, turn_timeout=60) as backplane:
        claim = await claimed(backplane, (await start(backplane)).request_id)
        await backplane.turns.append(claim, Batch(1, [("text_delta", body({"delta": "x", "round": 1}))], "x"))
        await backplane.steps.end(claim, "one", "1")
        await backplane.approvals.ask(claim, Question("q1", {"kind": "question"}, expires=86_400.0))
        await backplane.approvals.park(claim)
        keys = backplane.keys.thread(REF)
        for key in (keys.turns, keys.texts, keys.steps, keys.approvals):
            assert await backplane.redis.ttl(key + claim.request_id) > 86_400
        for key in (keys.log, keys.turns + claim.request_id, keys.texts + claim.request_id):
            await backplane.redis.expire(key, 10)
        await backplane.turns.recover(keys.member(claim.request_id))
        assert await backplane.redis.ttl(keys.log) > 50
        for key in (keys.turns, keys.texts):
            assert await backplane.redis.ttl(key + claim.request_id) > 86_400


# --- the end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["cancel", "interrupt", "finish"])
async def test_the_end_of_a_turn_withdraws_what_it_asked(backplane: Backplane, way: str) -> None:
    claim = await (asking(backplane) if way == "finish" else parked(backplane))
    if way == "cancel":
        cancelled = await backplane.turns.cancel(REF, "ann", claim.request_id)
        assert (cancelled.cancelled, cancelled.state) == (True, "waiting")
    elif way == "interrupt":
        await start(backplane)
    else:
        await backplane.turns.finish(claim, Batch(1, []), Ending("done", "chat_done", body({}), "x"))
    mine = [e for e in await events(backplane) if e.request_id == claim.request_id]
    assert [e.name for e in mine][-2] == "approval_decided"
    assert mine[-1].name in {"chat_done", "chat_error"}
    assert [e.fields["seq"] for e in mine] == list(range(len(mine)))
    assert mine[-2].fields["state"] == "withdrawn"
    kept = await backplane.redis.ttl(backplane.keys.thread(REF).approvals + claim.request_id)
    assert 0 < kept <= backplane.settings.turn_ttl
    late = await backplane.approvals.decide(REF, "ann", approval_id(claim), "approved")
    assert (late.decided, late.answer.state) == (False, "withdrawn")


async def test_an_answer_that_comes_with_the_loss_of_the_worker_is_numbered_like_every_event(
    backplane: Backplane,
) -> None:
    claim = await asking(backplane, policy="fail")
    await overdue(backplane, claim)
    await age(backplane, claim, lease_until=1)
    assert await backplane.turns.recover(backplane.keys.thread(REF).member(claim.request_id)) == "worker_lost"
    mine = await events(backplane)
    assert [e.name for e in mine][-2:] == ["approval_decided", "chat_error"]
    assert [e.fields["seq"] for e in mine] == list(range(len(mine)))


async def test_a_turn_that_is_parked_after_a_cancel_ends(backplane: Backplane) -> None:
    claim = await asking(backplane)
    follow = await start(backplane, queue_mode="followup")
    await backplane.turns.cancel(REF, "ann", claim.request_id)
    assert await backplane.approvals.park(claim) == "cancelled"
    assert (await claimed(backplane, follow.request_id)).fence == 1


async def test_a_waiting_turn_is_the_running_one_for_a_second_message(backplane: Backplane) -> None:
    claim = await parked(backplane)
    assert (await start(backplane, queue_mode="steer")).lane == "steer"
    await backplane.approvals.decide(REF, "ann", approval_id(claim), "approved")
    again = await claimed(backplane, claim.request_id)
    assert [steer.message for steer in (await backplane.turns.steers(again, 0))[1]] == ["go"]


@pytest.mark.parametrize("decided", [False, True])
async def test_who_comes_later_sees_what_is_asked_and_decided_in_the_snapshot(
    backplane: Backplane, decided: bool
) -> None:
    """From durable state: also when the log has expired."""
    claim = await parked(backplane)
    if decided:
        await backplane.approvals.decide(REF, "ann", approval_id(claim), "denied")
    await backplane.redis.delete(backplane.keys.thread(REF).log)
    turn = (await backplane.sessions.snapshot(REF, subject="ann")).turn
    assert turn is not None
    (shown,) = turn.approvals
    assert shown.pop("expires_at") > 0
    stands = {"state": "decided", "decision": "denied", "by": "ann"} if decided else asdict(PENDING)
    assert shown == stands | {
        "approval_id": approval_id(claim), "kind": "approval", "tool_name": "rm", "args": {},
    }  # fmt: skip
