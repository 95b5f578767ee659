"""One message is one turn, however often and by however many nodes it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from scripts.faultsuite import cancel_cases
from tests.fleet.conversation import Conversation
from tests.fleet.fleet import Fleet

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="session")]
Begin = Callable[[], Conversation]


async def test_ten_duplicate_starts_through_both_nodes_are_one_turn_with_ten_equal_answers(fleet: Fleet) -> None:
    await cancel_cases.duplicates(fleet)


async def test_a_message_that_is_sent_again_after_its_answer_is_still_the_same_turn(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        turn = await thread.say("say 5 words", client_message_id="once")
        await thread.ended(turn)
        assert await thread.say("say 5 words", node=1, client_message_id="once") == turn
        assert await thread.accepted() == ["say 5 words"]


async def test_messages_sent_while_a_gateway_dies_are_taken_once_each(fleet: Fleet, talk: Begin) -> None:
    async with talk() as thread:
        first = await thread.say("say 60 words")
        texts = [f"say {number} words" for number in range(1, 13)]
        sending = [thread.say(text, node=n % 2, pace=0, queue_mode="followup") for n, text in enumerate(texts)]
        turns, _ = await asyncio.gather(asyncio.gather(*sending), fleet.gateways[0].kill())
        for turn in [first, *turns]:
            assert (await thread.ended(turn))["event"] == "chat_done"
        assert sorted(await thread.accepted()) == sorted(["say 60 words", *texts])
