"""The outbox: order, batches, and no bound that is not one."""

from __future__ import annotations

import asyncio

import pytest

from backplane.ids import thread_ref
from backplane.turns import Batch, Claim, Verdict
from tests.support.waiting import wait_until
from worker.outbox import Outbox

CLAIM = Claim(thread_ref("t"), "r", 1, 1, "e", "hello", {}, "ann", 0, 1, 0, "")


class Log:
    """Takes what is offered when it is told to, like a Redis that answers or does not."""

    def __init__(self) -> None:
        self.offers: list[bool] = []
        self.batches: list[Batch] = []
        self.verdicts: list[Verdict] = []
        self.outbox = Outbox(CLAIM, self, self.verdicts.append)

    def offer(self, outbox: Outbox, *, urgent: bool) -> None:
        self.offers.append(urgent)

    def send(self) -> None:
        self.batches.append(self.outbox.send())

    def answer(self, verdict: Verdict = "ok") -> None:
        self.outbox.sent(verdict)


@pytest.fixture
async def log() -> Log:
    return Log()


def word(outbox: Outbox, text: str, turn_round: int = 1, name: str = "text_delta") -> None:
    outbox.put_delta(name, text, turn_round, f'"round":{turn_round}')


async def test_neighbouring_deltas_are_joined_and_offered_once(log: Log) -> None:
    for text in ("b", 'c"', "d\n"):
        word(log.outbox, text)
    assert log.offers == [False]
    assert log.outbox.take() == Batch(1, [("text_delta", '"delta":"bc\\"d\\n","round":1')], 'bc"d\n')


async def test_what_is_no_delta_is_urgent_and_takes_along_what_waits_before_it(log: Log) -> None:
    word(log.outbox, "a")
    log.outbox.put("tool_call", {"tool_name": "t"})
    word(log.outbox, "b")
    assert log.offers == [False, True]
    assert log.outbox.take().events == [
        ("text_delta", '"delta":"a","round":1'),
        ("tool_call", '"tool_name":"t"'),
        ("text_delta", '"delta":"b","round":1'),
    ]


async def test_deltas_of_two_rounds_or_kinds_are_not_joined(log: Log) -> None:
    word(log.outbox, "a", 1)
    word(log.outbox, "b", 2)
    word(log.outbox, "c", 2, "thinking_delta")
    word(log.outbox, "d", 2)
    batch = log.outbox.take()
    assert [name for name, _ in batch.events] == ["text_delta", "text_delta", "thinking_delta", "text_delta"]
    assert batch.text == "abd"


async def test_one_batch_is_on_its_way_at_a_time(log: Log) -> None:
    """Two at once could come to the log in the wrong order, and the second would make the first one void."""
    word(log.outbox, "a")
    log.send()
    word(log.outbox, "b")
    assert (log.offers, log.outbox.is_due) == ([False], False)
    log.answer()
    assert (log.offers, log.outbox.is_due) == ([False, False], True)
    log.send()
    assert [(batch.number, batch.text) for batch in log.batches] == [(1, "a"), (2, "b")]


async def test_every_verdict_is_told(log: Log) -> None:
    verdicts: list[Verdict] = ["ok", "cancelled"]
    for verdict in verdicts:
        word(log.outbox, "a")
        log.send()
        log.answer(verdict)
    assert log.verdicts == ["ok", "cancelled"]


async def test_the_last_batch_is_taken_only_after_the_one_on_its_way(log: Log) -> None:
    """Otherwise the end of a turn could overtake its last words, which would then be refused."""
    word(log.outbox, "on its way")
    log.send()
    word(log.outbox, "last")
    closing = asyncio.create_task(log.outbox.close())
    await asyncio.sleep(0)
    assert not closing.done()
    log.answer()
    await closing
    assert (log.offers, log.outbox.is_due) == ([False], False)
    assert log.outbox.take() == Batch(2, [("text_delta", '"delta":"last","round":1')], "last")


async def test_a_flush_waits_for_all_that_was_put(log: Log) -> None:
    word(log.outbox, "on its way")
    log.send()
    word(log.outbox, "waits")
    flushing = asyncio.create_task(log.outbox.flush())
    await asyncio.sleep(0)
    log.answer()
    await asyncio.sleep(0)
    assert (log.offers[-1], flushing.done()) == (True, False)
    log.send()
    log.answer()
    await flushing
    assert [batch.text for batch in log.batches] == ["on its way", "waits"]


async def test_an_agent_waits_while_too_much_is_unsent(log: Log) -> None:
    """Memory is bounded while Redis does not answer; afterwards everything goes out in order."""
    said = 0

    async def talk() -> None:
        nonlocal said
        for number in range(100):
            word(log.outbox, f"{number:>10000}")
            said += 1
            await log.outbox.moved()

    talking = asyncio.create_task(talk())
    await wait_until(lambda: said >= 25, "it talks until the bound")
    await asyncio.sleep(0)
    assert not talking.done()
    assert said < 60
    while not talking.done():
        log.send()
        log.answer()
        await asyncio.sleep(0)
    log.send()
    assert "".join(b.text for b in log.batches) == "".join(f"{number:>10000}" for number in range(100))


async def test_many_small_events_are_bounded_too(log: Log) -> None:
    for _ in range(256 * 1024 // 64):
        assert not log.outbox.is_full
        log.outbox.put("iteration_start", {"round": 1})
    assert log.outbox.is_full


async def test_an_event_that_is_not_json_fails_where_it_is_put(log: Log) -> None:
    """So the agent fails that said it, and nobody else's append."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.outbox.put("tool_call", {"args": float("nan")})
    assert log.outbox.take().events == []
