"""Threads as their owner manages them: the list that repairs itself, the title, and the end of everything."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backplane.approvals import Question
from backplane.connection import Backplane
from backplane.errors import NotFound
from backplane.ids import ThreadRef, thread_ref
from backplane.scripts import Call
from backplane.steps import Steps
from backplane.threads import beginning, one_line
from backplane.turns import Batch, Claim, Edit, Ending, Start
from tests.support.ear import Ear
from tests.support.waiting import wait_until

REF = thread_ref("tea-and-biscuits")
SECRET = "nobody-else-may-read-this"


async def started(backplane: Backplane, thread_id: str, message: str = "q", subject: str = "ann", **fields: Any) -> str:
    ref = thread_ref(thread_id)
    await backplane.threads.note(ref, subject)
    return (await backplane.turns.start(ref, Start(message, subject, "sid", **fields))).request_id


async def claimed(backplane: Backplane, request_id: str, ref: ThreadRef = REF) -> Claim:
    claim = await backplane.turns.claim(backplane.keys.thread(ref).member(request_id), "w1")
    assert claim is not None
    return claim


async def listed(backplane: Backplane, subject: str = "ann", **asked: Any) -> list[str]:
    found, _ = await backplane.threads.page("default", subject, **asked)
    return [summary.thread_id for summary in found]


# --- the list ------------------------------------------------------------------------------------------


async def test_the_thread_started_last_comes_first(backplane: Backplane) -> None:
    for thread_id in ("a", "b", "c", "a"):
        await started(backplane, thread_id)
    assert await listed(backplane) == ["a", "c", "b"]


async def test_a_list_holds_the_threads_of_its_owner_alone(backplane: Backplane) -> None:
    """Also when somebody tried to start a turn in a thread of another."""
    await started(backplane, "hers")
    with pytest.raises(NotFound):
        await started(backplane, "hers", subject="bob")
    await started(backplane, "his", subject="bob")
    assert await listed(backplane, "bob") == ["his"]
    assert await listed(backplane) == ["hers"]
    assert (await backplane.threads.page("other", "ann"))[0] == []


async def test_a_summary_says_what_the_thread_is_about_and_how_it_stands(backplane: Backplane) -> None:
    request_id = await started(backplane, REF.thread_id, "  How long\nfor  green tea? " + "x" * 200)
    await started(backplane, REF.thread_id, "second", queue_mode="followup")
    (found,), _ = await backplane.threads.page("default", "ann")
    assert found.title.startswith("How long for green tea? xxx")
    assert len(found.title) <= 120
    assert (found.role, found.running, found.state) == ("user", request_id, "ready")
    claim = await claimed(backplane, request_id)
    (found,), _ = await backplane.threads.page("default", "ann")
    assert found.state == "running"
    assert found.created <= found.active
    answer = 'Three "minutes"\n, or four \U0001f375'
    await backplane.turns.cancel(REF, "ann", (await backplane.turns.lanes(REF, "ann"))[2][0].item_id)
    await backplane.turns.finish(claim, Batch(1, []), Ending("done", "chat_done", '"full_response":"x"', answer))
    (found,), _ = await backplane.threads.page("default", "ann")
    assert (found.preview, found.role) == ('Three "minutes" , or four \U0001f375', "assistant")
    assert (found.running, found.state) == (None, "idle")


@pytest.mark.parametrize(
    "text", ["", "plain", 'a "quoted" \\ one', "é" * 300, "\U0001f375" * 200, "\x01" * 300, "a\n" * 99]
)
def test_a_text_that_was_cut_anywhere_has_a_beginning(text: str) -> None:
    for ensure_ascii in (True, False):
        raw = json.dumps(text, ensure_ascii=ensure_ascii)[1:].encode() + b',"more":1}'
        for size in range(len(raw) if len(raw) < 800 else 800):
            found = beginning(raw[:size])
            assert text.startswith(found)
            assert len(found) >= (min(size, len(raw)) - 24) // 12


def test_a_title_is_one_line() -> None:
    assert one_line(" a\n\n b\t") == "a b"
    assert len(one_line("x " * 500)) <= 120


async def test_pages_follow_on_each_other_while_threads_are_started(backplane: Backplane) -> None:
    """What moves to the top meanwhile shifts nothing: no thread comes twice but one that was started again."""
    for number in range(7):
        await started(backplane, f"t{number}")
    first, place = await backplane.threads.page("default", "ann", most=3)
    assert [summary.thread_id for summary in first] == ["t6", "t5", "t4"]
    await started(backplane, "new")
    await started(backplane, "t0")
    second, place = await backplane.threads.page("default", "ann", before=place, most=3)
    assert [summary.thread_id for summary in second] == ["t3", "t2", "t1"]
    assert place is None
    assert await listed(backplane, most=0) == []


async def test_no_two_threads_share_a_place(backplane: Backplane) -> None:
    """However many were last started in one millisecond, a page can end between any two."""
    for number in range(5):
        await started(backplane, f"t{number}")
    key = backplane.keys.threads("default", "ann")
    for number in range(5):
        await backplane.redis.zrem(key, f"t{number}")
    for number in range(5):
        await backplane.run(Call("list", [key], [f"t{number}", 1_000_000, 10**12]))
    found, place = [], None
    while True:
        page, place = await backplane.threads.page("default", "ann", before=place, most=1)
        found += [summary.thread_id for summary in page]
        if place is None:
            break
    assert found == ["t4", "t3", "t2", "t1", "t0"]


async def test_a_thread_that_is_gone_is_left_out_and_then_taken_out(backplane: Backplane) -> None:
    await started(backplane, "a")
    key = backplane.keys.threads("default", "ann")
    await backplane.redis.zadd(key, {"expired": 5, "starting": 10**13})
    assert await listed(backplane) == ["a"]
    assert [name.decode() for name in await backplane.redis.zrange(key, 0, -1)] == ["a", "starting"]  # type: ignore[union-attr]


async def test_a_page_is_filled_although_many_are_gone(backplane: Backplane) -> None:
    key = backplane.keys.threads("default", "ann")
    await started(backplane, "a")
    at = int(await backplane.redis.zscore(key, "a") or 0) - 1_000_000
    await backplane.redis.zadd(key, {"a": at} | {f"gone{number}": at + 1 + number for number in range(20)})
    await started(backplane, "b")
    assert await listed(backplane, most=2) == ["b", "a"]


async def test_a_thread_that_its_list_lacks_is_listed_by_whoever_touches_it(backplane: Backplane) -> None:
    """A node may die between the start and the list, and Redis may lose a list."""
    await backplane.turns.start(REF, Start("q", "ann", "sid"))
    assert await listed(backplane) == []
    await backplane.threads.touch(REF, "bob")
    await backplane.threads.touch(REF, "ann")
    assert (await listed(backplane), await listed(backplane, "bob")) == ([REF.thread_id], [])
    (found,), _ = await backplane.threads.page("default", "ann")
    place = await backplane.redis.zscore(backplane.keys.threads("default", "ann"), REF.thread_id)
    assert place == found.active


async def test_a_touch_moves_nothing(backplane: Backplane) -> None:
    await started(backplane, "a")
    await started(backplane, "b")
    other = type(backplane.threads)(backplane)
    await other.touch(thread_ref("a"), "ann")
    assert await listed(backplane) == ["b", "a"]


async def test_a_list_that_cannot_be_written_spoils_no_start(backplane: Backplane, monkeypatch: Any) -> None:
    async def broken(call: Call) -> Any:
        from backplane.errors import Unavailable

        raise Unavailable("no answer")

    monkeypatch.setattr(backplane, "run", broken)
    await backplane.threads.note(REF, "ann")
    await backplane.threads.touch(REF, "ann")


# --- the title -----------------------------------------------------------------------------------------


async def test_a_title_stays_when_the_thread_goes_on(backplane: Backplane) -> None:
    await started(backplane, REF.thread_id, "first words")
    await backplane.threads.rename(REF, "ann", 'My "tea"')
    await started(backplane, REF.thread_id, "other words")
    (found,), _ = await backplane.threads.page("default", "ann")
    assert found.title == 'My "tea"'


async def test_another_persons_thread_cannot_be_renamed_and_looks_like_none(backplane: Backplane) -> None:
    await started(backplane, REF.thread_id)
    told = []
    for ref in (REF, thread_ref("nowhere")):
        with pytest.raises(NotFound) as caught:
            await backplane.threads.rename(ref, "bob", "mine")
        told.append(caught.value.as_dict())
    assert told[0] == told[1]
    (found,), _ = await backplane.threads.page("default", "ann")
    assert found.title == "q"


# --- the end of everything -----------------------------------------------------------------------------


async def everything(backplane: Backplane) -> str:
    """Return every key of the deployment with all that is in it, as one text."""
    redis: Any = backplane.redis
    found = []
    async for key in redis.scan_iter(match=f"{backplane.keys.prefix}:*", count=1000):
        kind = (await redis.type(key)).decode()
        read: Any = {
            "string": lambda key: redis.get(key),
            "hash": lambda key: redis.hgetall(key),
            "list": lambda key: redis.lrange(key, 0, -1),
            "set": lambda key: redis.smembers(key),
            "zset": lambda key: redis.zrange(key, 0, -1, withscores=True),
            "stream": lambda key: redis.xrange(key),
        }[kind]
        found.append(f"{key!r} {await read(key)!r}")
    return "\n".join(found)


async def full_thread(backplane: Backplane) -> tuple[Claim, set[str]]:
    """Fill a thread with everything that a thread can hold. Returns the running turn and all request ids."""
    threads, turns = backplane, backplane.turns
    first = await started(threads, REF.thread_id, f"{SECRET} 1", client_message_id="k1", metadata={"m": SECRET})
    claim = await claimed(backplane, first)
    await turns.finish(claim, Batch(1, []), Ending("done", "chat_done", f'"full_response":"{SECRET}"', SECRET))
    cancelled = await started(threads, REF.thread_id, f"{SECRET} 2")
    await turns.cancel(REF, "ann", cancelled)
    edit = await started(threads, REF.thread_id, f"{SECRET} 2 edited", edit=Edit())
    await turns.cancel(REF, "ann", edit)
    context = await started(threads, REF.thread_id, f"{SECRET} 3", queue_mode="collect")
    running = await started(threads, REF.thread_id, f"{SECRET} 4", client_message_id="k2")
    claim = await claimed(backplane, running)
    await turns.append(claim, Batch(1, [("text_delta", f'"delta":"{SECRET}","round":1')], SECRET))
    await Steps(backplane).begin(claim, SECRET)
    ids = {first, cancelled, edit, context, running}
    for mode in ("followup", "steer", "collect", "parallel"):
        ids.add(await started(threads, REF.thread_id, f"{SECRET} {mode}", queue_mode=mode, client_message_id=mode))
    for request_id in ids:
        await backplane.admission.admit(REF, "ann", request_id)
    await backplane.threads.rename(REF, "ann", SECRET)
    await backplane.presence.say([(REF, {SECRET: 2})])
    return claim, ids


async def test_nothing_is_left_of_a_deleted_thread_in_any_key(backplane: Backplane) -> None:
    await started(backplane, "another")
    await backplane.admission.admit(thread_ref("another"), "ann", "request")
    before = await everything(backplane)
    _, ids = await full_thread(backplane)
    assert await backplane.threads.delete(REF, "ann") is True
    after = await everything(backplane)
    for remains in (SECRET, REF.thread_id, *ids):
        assert remains not in after
    assert all(line.split(" ")[0] in after for line in before.splitlines()), "nothing of the other is gone"
    assert await listed(backplane) == ["another"]


async def test_what_ended_turns_asked_and_recorded_goes_with_their_thread(backplane: Backplane) -> None:
    """A question outlives its turn by a day, so that a late decision is told what became of it."""
    request_id = await started(backplane, REF.thread_id)
    claim = await claimed(backplane, request_id)
    await backplane.approvals.ask(claim, Question("q1", {"question": SECRET}))
    await backplane.turns.cancel(REF, "ann")
    await backplane.turns.finish(claim, Batch(1, []), Ending("failed", "chat_error", "{}"))
    assert SECRET in await everything(backplane)
    await backplane.threads.delete(REF, "ann")
    assert SECRET not in await everything(backplane)
    assert request_id not in await everything(backplane)


async def test_workers_are_told_to_forget_their_copies_of_a_deleted_thread(backplane: Backplane) -> None:
    ear = Ear()
    await backplane.live.subscribe(backplane.keys.thread(REF).partition.control, ear)
    await started(backplane, REF.thread_id)
    await backplane.threads.delete(REF, "ann")
    await wait_until(lambda: f"forget {REF}".encode() in ear.messages, "it is named")


async def test_turns_that_ended_long_ago_are_found_too(backplane: Backplane) -> None:
    """The list of turns is kept short, and still names all of which something is kept."""
    ids = []
    for number in range(30):
        ids.append(await started(backplane, REF.thread_id, f"{SECRET} {number}", client_message_id=str(number)))
        await backplane.turns.cancel(REF, "ann", ids[-1])
    keys = backplane.keys.thread(REF)
    for request_id in ids[:20]:
        await backplane.redis.delete(keys.turn(request_id))
    for _ in range(40):
        await started(backplane, REF.thread_id, SECRET)
    assert await backplane.redis.llen(keys.requests) == 50
    await backplane.redis.delete(*[key async for key in backplane.redis.scan_iter(match=f"{keys.idempotency}*")][:20])
    await backplane.threads.delete(REF, "ann")
    assert f"turn:{REF}" not in await everything(backplane)


async def test_each_turn_of_a_deleted_thread_ends_once_before_those_who_watch_are_told(backplane: Backplane) -> None:
    keys = backplane.keys.thread(REF)
    claim, _ = await full_thread(backplane)
    ear = Ear()

    def heard() -> list[bytes]:
        return [line for message in ear.messages for line in message.split(b"\n")[1:]]

    def is_told() -> bool:
        return any(line.startswith(b"thread_deleted ") for line in heard()[-1:])

    await backplane.live.subscribe(keys.live, ear)
    await backplane.threads.delete(REF, "ann")
    await wait_until(is_told, "told")
    ended = [
        json.loads(line.partition(b" ")[2])
        for line in heard()
        if line.startswith((b"chat_error", b"queue_item_removed"))
    ]
    assert len(ended) == len({event["request_id"] for event in ended}) == 5
    assert claim.request_id in {event["request_id"] for event in ended}
    notice = json.loads(heard()[-1].partition(b" ")[2])
    assert (notice["thread_id"], notice["epoch"], "offset" in notice) == (REF.thread_id, claim.epoch, False)


async def test_a_worker_that_still_writes_is_refused_and_leaves_nothing(backplane: Backplane) -> None:
    claim, _ = await full_thread(backplane)
    await backplane.threads.delete(REF, "ann")
    turns = backplane.turns
    assert (await turns.append(claim, Batch(2, [("text_delta", f'"delta":"{SECRET}"')], SECRET)))[0] == "fenced"
    assert await turns.heartbeat([claim]) == ["fenced"]
    assert (await turns.steers(claim, 0))[0] == "fenced"
    ending = Ending("done", "chat_done", f'"full_response":"{SECRET}"', SECRET)
    assert (await turns.finish(claim, Batch(3, []), ending)).state == "fenced"
    await turns.release(claim)
    assert await turns.claim(backplane.keys.thread(REF).member(claim.request_id), "w2") is None
    assert await turns.recover(backplane.keys.thread(REF).member(claim.request_id)) == "none"
    assert SECRET not in await everything(backplane)


async def test_a_deleted_id_can_be_started_anew_as_another_log(backplane: Backplane) -> None:
    claim, _ = await full_thread(backplane)
    await backplane.threads.delete(REF, "ann")
    again = await backplane.turns.start(REF, Start("fresh", "bob", "sid", client_message_id="k1"))
    assert again.epoch != claim.epoch
    assert again.offset == 1
    _, messages = await backplane.sessions.history(REF)
    assert [message["content"] for message in messages] == ["fresh"]
    assert (await backplane.turns.append(claim, Batch(2, [], "x")))[0] == "fenced"


async def test_a_delete_whose_answer_was_lost_is_answered_again_and_spares_what_came_after(
    backplane: Backplane, monkeypatch: pytest.MonkeyPatch
) -> None:
    await started(backplane, REF.thread_id)
    run, sent = backplane.run, []

    async def twice(call: Call) -> Any:
        if call.name == "delete":
            sent.append(await run(call))
            await started(backplane, REF.thread_id, "fresh")
        return await run(call)

    monkeypatch.setattr(backplane, "run", twice)
    assert await backplane.threads.delete(REF, "ann") is True
    assert len(sent) == 1
    _, messages = await backplane.sessions.history(REF)
    assert [message["content"] for message in messages] == ["fresh"]
    assert await listed(backplane) == [REF.thread_id]


async def test_who_deletes_what_is_not_there_or_not_theirs_is_told_the_same(backplane: Backplane) -> None:
    await full_thread(backplane)
    assert await backplane.threads.delete(REF, "bob") is False
    assert await backplane.threads.delete(thread_ref("nowhere"), "bob") is False
    assert SECRET in await everything(backplane)
