"""What is under way in a deployment."""

from __future__ import annotations

from backplane import overview
from backplane.connection import Backplane
from backplane.ids import thread_ref
from backplane.turns import Start

REF = thread_ref("thread-1")


async def test_a_turn_waits_until_it_is_claimed_and_then_has_a_lease(backplane: Backplane) -> None:
    empty = await overview.look(backplane)
    assert (empty.waiting, empty.longest, empty.under_way, empty.due) == (0, [], 0, [])

    started = await backplane.turns.start(REF, Start(message="hello", client_id="c", subject="ann"))
    before = await overview.look(backplane)
    assert (before.waiting, before.under_way) == (1, 1)
    assert [(mark.ref, mark.request_id) for mark in before.longest] == [(REF, started.request_id)]
    assert 0 <= before.longest[0].seconds < 60

    await backplane.turns.claim(backplane.keys.thread(REF).member(started.request_id), "worker-1")
    after = await overview.look(backplane)
    assert (after.waiting, after.longest, after.under_way) == (0, [], 1)
    assert [mark.request_id for mark in after.due] == [started.request_id]
    assert after.due[0].seconds <= backplane.settings.lease
