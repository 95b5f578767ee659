"""The outbox: order, batches, and no bound that is not one."""

from __future__ import annotations

import asyncio
from typing import Any

from backplane.turns import Batch
from tests.support.waiting import wait_until
from worker.outbox import Outbox


class Log:
    """Takes batches; can be held back like a Redis that does not answer."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.open = asyncio.Event()
        self.open.set()

    async def send(self, batch: Batch) -> None:
        await self.open.wait()
        self.batches.append(batch)


def word(text: str, turn_round: int = 1) -> dict[str, Any]:
    return {"delta": text, "round": turn_round}


async def test_the_first_delta_goes_at_once_and_later_ones_are_joined() -> None:
    log = Log()
    outbox = Outbox(log.send, coalesce=3600)
    running = asyncio.create_task(outbox.run())
    await outbox.put("text_delta", word("a"))
    await wait_until(lambda: len(log.batches) == 1, "the first word is sent without waiting")
    for text in "bcd":
        await outbox.put("text_delta", word(text))
    await outbox.put("tool_call", {"tool_name": "t"})
    await wait_until(lambda: len(log.batches) == 2, "what is no delta goes at once")
    assert [b.number for b in log.batches] == [1, 2]
    assert log.batches[0].text == "a"
    assert log.batches[1].text == "bcd"
    assert log.batches[1].events == [
        ("text_delta", '"delta":"bcd","round":1'),
        ("tool_call", '"tool_name":"t"'),
    ]
    await outbox.stop(running)


async def test_deltas_of_two_rounds_or_kinds_are_not_joined() -> None:
    log = Log()
    outbox = Outbox(log.send, coalesce=3600)
    await outbox.put("text_delta", word("a", 1))
    await outbox.put("text_delta", word("b", 2))
    await outbox.put("thinking_delta", word("c", 2))
    await outbox.put("text_delta", word("d", 2))
    batch = outbox.take()
    assert [name for name, _ in batch.events] == ["text_delta", "text_delta", "thinking_delta", "text_delta"]
    assert batch.text == "abd"


async def test_gathered_deltas_are_sent_when_their_time_has_come() -> None:
    log = Log()
    outbox = Outbox(log.send, coalesce=0.001)
    running = asyncio.create_task(outbox.run())
    await outbox.put("text_delta", word("a"))
    await wait_until(lambda: len(log.batches) == 1, "first")
    await outbox.put("text_delta", word("b"))
    await wait_until(lambda: len(log.batches) == 2, "second")
    await outbox.stop(running)


async def test_the_last_batch_is_taken_only_after_the_one_on_its_way() -> None:
    """Otherwise the end of a turn could overtake its last words, which would then be refused."""
    log = Log()
    log.open.clear()
    outbox = Outbox(log.send, coalesce=0)
    running = asyncio.create_task(outbox.run())
    await outbox.put("text_delta", word("on its way"))
    await wait_until(lambda: outbox._sending is not None, "a batch is on its way")
    await outbox.put("text_delta", word("last"))
    stopping = asyncio.create_task(outbox.stop(running))
    await wait_until(running.done, "the loop has ended")
    assert not stopping.done()
    log.open.set()
    await stopping
    assert [b.number for b in log.batches] == [1]
    assert outbox.take().text == "last"


async def test_an_agent_waits_while_too_much_is_unsent() -> None:
    """Memory is bounded while Redis does not answer; afterwards everything goes out in order."""
    log = Log()
    log.open.clear()
    outbox = Outbox(log.send, coalesce=0)
    running = asyncio.create_task(outbox.run())
    said = 0

    async def talk() -> None:
        nonlocal said
        for number in range(100):
            await outbox.put("text_delta", word(f"{number:>10000}"))
            said += 1

    talking = asyncio.create_task(talk())
    await wait_until(lambda: said >= 25, "it talks until the bound")
    await asyncio.sleep(0)
    assert not talking.done()
    assert said < 60
    log.open.set()
    await talking
    await wait_until(lambda: "".join(b.text for b in log.batches).endswith("99"), "all is sent")
    assert "".join(b.text for b in log.batches) == "".join(f"{number:>10000}" for number in range(100))
    await outbox.stop(running)
