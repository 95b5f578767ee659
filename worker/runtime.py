"""A worker process: claims turns, runs agents, renews leases, and stops in order.

The order of stopping: claiming first (no new turn, and what is on its way goes to another worker), then the turns
(they finish within the grace, or are handed back), then heartbeat and appender (turns need them until their end), the
connections last. A worker that has taken `max_turns` turns stops by itself, and lets them end however long they take.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from backplane.connection import Backplane, opened_when_reachable
from backplane.ids import ThreadRef
from backplane.recoverer import Recoverer
from backplane.sessions import SessionCache
from backplane.settings import Settings
from backplane.turns import Claim
from backplane.watchdog import Watchdog
from worker.appender import Appender
from worker.canceller import Canceller
from worker.claimer import Claimer
from worker.heartbeat import Heartbeat
from worker.http import serving
from worker.ledger import Ledger
from worker.loading import load_agent
from worker.metrics import Metrics
from worker.slot import AGENT_TASK, Slot
from worker.turn import Agent

_log = structlog.get_logger("worker.runtime")


class Worker:
    """The parts of a worker, put together on an open backplane."""

    def __init__(self, backplane: Backplane, agent: Agent) -> None:
        self._backplane = backplane
        self._settings = backplane.settings
        self._agent = agent
        self._slots: dict[str, Slot] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._free = asyncio.Semaphore(self._settings.slots)
        self._cache = SessionCache()
        self.metrics = Metrics()
        self.metrics.slots.set(self._settings.slots)
        self.ledger = Ledger(backplane.members.clock.now, self.metrics)
        self._appender = Appender(backplane)
        self._heartbeat = Heartbeat(backplane, self._slots)
        self._canceller = Canceller(backplane, self._slots, self._heartbeat, self._forget, self._forget_all)
        self.claimer = Claimer(backplane, self._free, self._begin)

    @property
    def turns(self) -> int:
        """How many turns run now."""
        return len(self._running)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then drain; or until `max_turns` turns were taken and have ended.

        Raises:
            Unavailable: when Redis does not confirm the control channels at the start.
        """
        await self._canceller.listen()
        claimer = asyncio.create_task(self.claimer.run(), name="claimer")
        roles = [
            asyncio.create_task(self._appender.run(), name="appender"),
            asyncio.create_task(self._heartbeat.run(), name="heartbeat"),
            asyncio.create_task(Recoverer(self._backplane, self.metrics.lapsed.inc).run(), name="recoverer"),
            asyncio.create_task(self._backplane.members.run("worker", self.facts), name="report"),
        ]
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            # a role that ends is a defect, and a worker that lacks one must not go on
            await asyncio.wait([stopping, claimer, *roles], return_when=asyncio.FIRST_COMPLETED)
            if claimer.done() and not claimer.cancelled() and claimer.exception() is None:
                await self._last_turns([stopping, *roles])
            claimer.cancel()
            # together: where Redis is away, to stop claiming takes as long as a command may, and the grace runs already
            await asyncio.gather(asyncio.wait([claimer]), self._drain())
        finally:
            for task in (stopping, claimer, *roles):
                task.cancel()
            ended = await asyncio.gather(claimer, *roles, return_exceptions=True)
            self._canceller.close()
        for error in ended:
            if isinstance(error, Exception):
                raise error

    def facts(self) -> dict[str, Any]:
        """Return what people who watch the fleet are told of this worker."""
        settings, claimer = self._settings, self.claimer
        return {
            "agent": settings.agent,
            "slots": settings.slots,
            "running": self.turns,
            "claims": {"tried": claimer.tried, "won": claimer.won},
            "turns": self.ledger.turns(),
        }

    def whose(self, task: str) -> dict[str, str]:
        """Return the thread and the turn of an agent's task, by its name; nothing for any other. On any thread."""
        slot = self._slots.get(task.removeprefix(AGENT_TASK))
        return {} if slot is None else {"thread_id": slot.claim.ref.thread_id, "request_id": slot.claim.request_id}

    def _forget(self, ref: ThreadRef) -> None:
        self._cache.invalidate(ref)
        self.ledger.forget(ref)

    def _forget_all(self) -> None:
        self._cache.clear()
        self.ledger.forget_all()

    def _begin(self, claim: Claim) -> None:
        slot = Slot(self._backplane, self._appender, self._cache, self._agent, claim)
        if (before := self._slots.get(claim.request_id)) is not None:
            # we lost this turn and claimed it again before we heard so: nobody else would tell the old slot
            before.stop("fenced")
        self._slots[claim.request_id] = slot
        self.ledger.begun(claim)
        task = asyncio.create_task(slot.run(), name=f"turn-{claim.request_id}")
        self._running.add(task)
        task.add_done_callback(lambda done: self._ended(slot, done))

    def _ended(self, slot: Slot, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._slots.get(slot.claim.request_id) is slot:
            del self._slots[slot.claim.request_id]
        self._free.release()
        self.ledger.ended(slot.claim, slot.outcome)
        if not task.cancelled() and (error := task.exception()) is not None:
            turn = {"thread_id": slot.claim.ref.thread_id, "request_id": slot.claim.request_id}
            _log.error("a slot failed; its lease will lapse", **turn, exc_info=error)

    async def _last_turns(self, others: list[asyncio.Task[Any]]) -> None:
        """Wait until the last turns have ended: nobody waits for this worker, so there is no grace to keep to."""
        _log.info("taking no more turns", max_turns=self._settings.max_turns, turns=len(self._running))
        while self._running and not any(task.done() for task in others):
            await asyncio.wait([*self._running, *others], return_when=asyncio.FIRST_COMPLETED)

    async def _drain(self) -> None:
        if not self._running:
            return
        _log.info("draining", turns=len(self._running))
        await asyncio.wait(self._running, timeout=self._settings.drain_grace)
        for slot in list(self._slots.values()):
            slot.stop("stopping")
        if self._running:
            await asyncio.wait(self._running, timeout=self._settings.cancel_grace)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Run a worker until `stop` is set.

    Raises:
        Misconfigured: when the agent cannot be loaded, or the settings contradict what Redis holds.
    """
    agent = load_agent(settings.agent)
    # relaxed: of a cancel the next heartbeat tells as well, and what a delete asks for is made up for by forgetting all
    async with opened_when_reachable(settings, stop, relaxed=True) as backplane:
        if backplane is None:
            return
        worker = Worker(backplane, agent)
        means = f"after {settings.lease:g} s other workers take the turns of this one over"
        async with Watchdog(worker.metrics.loop_lag.observe, means, worker.whose) as watchdog:
            with serving(worker.metrics, watchdog.trouble, settings):
                _log.info("worker ready", node_id=settings.node_id, agent=settings.agent, slots=settings.slots)
                await worker.run(stop)
        tried, won = worker.claimer.tried, worker.claimer.won
        _log.info("worker stopped", node_id=settings.node_id, claims_tried=tried, claims_won=won)
