"""Clients that only count: what is missing or comes twice, they say."""

from __future__ import annotations

import pytest

from scripts.endurance.crowd import Crowd, judged
from tests.clients.python.scripted_gateway import gateways

CLEAN = {"lost": 0, "doubled": 0, "told": 0, "behind": 0, "closed": 3, "frames": 9}


@pytest.mark.parametrize("what", ["lost", "doubled", "told", "behind"])
def test_each_thing_that_is_wrong_is_said_with_its_thread(what: str) -> None:
    assert judged("t1", 3, CLEAN) == []
    (said,) = judged("t1", 3, CLEAN | {what: 2})
    assert said.startswith("t1 (3 that count): 2 ")


@pytest.mark.parametrize(
    ("told", "lost", "doubled"),
    [(lambda event: [event], 0, 0), (lambda event: [], 2, 0), (lambda event: [event, event], 0, 2)],
    ids=["all is well", "one is lost", "one comes twice"],
)
async def test_they_notice_what_a_gateway_does(told: object, lost: int, doubled: int) -> None:
    async with gateways(1) as (deployment, (node,)), Crowd([node.url]) as crowd:
        await deployment.emit("tea", "r1", "chat_accepted", message="How long?")
        await crowd.follow("tea", "e1", 2)
        node.on_deliver = lambda event: told(event) if event["delta"] == "b" else [event]  # type: ignore[operator]
        await deployment.say("tea", "r1", "a", "b", "c")
        counted = await crowd.leave("tea", 4)
    assert (counted["lost"], counted["doubled"], counted["behind"]) == (lost, doubled, 0)


async def test_they_go_on_where_they_were_when_a_gateway_cuts_them() -> None:
    async with gateways(1) as (deployment, (node,)), Crowd([node.url]) as crowd:
        await deployment.emit("tea", "r1", "chat_accepted", message="How long?")
        await crowd.follow("tea", "e1", 2)
        await deployment.say("tea", "r1", "a")
        node.cut()
        await deployment.say("tea", "r1", "b", "c")
        counted = await crowd.leave("tea", 4)
    assert (counted["closed"], judged("tea", 2, counted)) == (2, [])
