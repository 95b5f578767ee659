"""What an agent of every framework must keep, however its model is scripted; each framework's tests hold it to this."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backplane.ids import thread_ref
from tests.support.attempts import Attempts
from tests.support.threads import Thread
from tests.support.waiting import wait_until
from tests.support.working import working
from worker.turn import Agent, AgentError, AgentEvent, Text, Turn, Unlinked


async def failure(agent: Agent) -> tuple[str, int | None]:
    """Return `(error_type, retry_after_ms)` of an agent whose model fails with an error that says `sk-secret`.

    It is the provider's fault, and told in our own words: those of a provider may hold anything.
    """
    with pytest.raises(AgentError) as caught:
        await Attempts(agent).run()
    meant = caught.value
    assert meant.source == "provider"
    assert "sk-secret" not in meant.message
    return meant.error_type, meant.retry_after_ms


async def parked_and_finished_elsewhere(open_backplane: Any, agent: Agent) -> dict[str, Any]:
    """Let an agent ask at one worker and go on at another; return the fields of its end.

    It says "I shall. ", may call its tool `delete` (call `c1`, which returns "gone") after approval, and says
    "It is gone.". No slot waits, no word comes twice, and the tool is told of once. Whoever calls this counts how
    often the model was asked, and how often the tool ran.
    """
    async with open_backplane(node_id="one", slots=1) as here, open_backplane(node_id="two") as there:
        thread = Thread(here, thread_ref("parked"))
        async with working(here, agent) as first:
            await thread.start("delete it", "resume")
            await thread.first("approval_request")
            await wait_until(lambda: first.turns == 0, "its slot is free")
        async with working(there, agent):
            await thread.decide("approved")
            end = await thread.ended()
        assert end.fields["full_response"] == "I shall. It is gone."
        assert "".join(e.fields["delta"] for e in await thread.events("text_delta")) == "I shall. It is gone."
        assert [e.fields["tool_call_id"] for e in await thread.events("tool_call")] == ["c1"]
        assert [e.fields["output"] for e in await thread.events("tool_result")] == ["gone"]
    return end.fields


class Between:
    """Where a turn is lost: the model has the results of two tools that ran beside each other, and is silent."""

    def __init__(self) -> None:
        self.slow = asyncio.Event()
        """When the second tool may return."""
        self.lost = False
        """Whether another worker has the turn."""

    async def answering(self) -> None:
        """Wait in the model's second answer until the turn is lost."""
        if not self.lost:
            await asyncio.Event().wait()


async def results_stand_once(open_backplane: Any, agent: Agent, between: Between) -> None:
    """Let an agent call `quick` (call `a`) and `slow` (call `b`) at once, and go on at another worker behind them.

    `slow` returns when the result of `quick` is in the log. What stands in the log has each result once.
    """
    async with (
        open_backplane(node_id="one", drain_grace=0.01) as here,
        open_backplane(node_id="two") as there,
    ):
        thread = Thread(here, thread_ref("beside"))

        async def told_both() -> bool:
            return len(await thread.events("tool_result")) == 2

        async with working(here, agent):
            await thread.start("go", "resume")
            await thread.first("tool_result")
            between.slow.set()
            await wait_until(told_both, "both results are told")
        between.lost = True
        async with working(there, agent):
            await thread.ended()
        restarted = await thread.first("turn_restarted")
        stands = [
            event
            for event in await thread.events()
            if not restarted.fields["kept_offset"] < event.fields["offset"] < restarted.fields["offset"]
        ]
        for name in ("tool_call", "tool_result"):
            assert sorted(event.fields["tool_call_id"] for event in stands if event.name == name) == ["a", "b"]


class Work:
    """Something in a model or a tool that does not end by itself."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.stopped = asyncio.Event()

    async def __call__(self) -> None:
        """Wait for the cancel."""
        self.reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped.set()


class _Full(Unlinked):
    async def say(self, event: str | AgentEvent) -> None:
        """Take no word, as when an answer has grown too long."""
        if isinstance(event, Text):
            raise AgentError("full", error_type="answer_too_large")


async def stopped_by_a_word(work: Work, agent: Agent) -> None:
    """Let a turn fail at the first word that its model says, before this work: nothing of it is left behind."""
    turn = Turn("t1", "r1", "default", "ada", "go", [], link=_Full())
    with pytest.raises(AgentError) as caught:
        async for _ in agent(turn):
            pass
    assert caught.value.error_type == "answer_too_large"
    assert work.stopped.is_set()


async def stopped_at(work: Work, open_backplane: Any, agent: Agent) -> None:
    """Cancel a turn while its agent is at this work: both have ended when the turn has."""
    async with open_backplane() as backplane, working(backplane, agent):
        thread = Thread(backplane, thread_ref("cancelled"))
        await thread.start("go")
        await work.reached.wait()
        await thread.cancel()
        end = (await thread.ended()).fields
        assert (end["error_type"], end["stopped"]) == ("cancelled", "cooperative")
        assert work.stopped.is_set()
