"""The ledger: which turns a worker runs and has run lately, for people who watch the fleet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from backplane.ids import ThreadRef
from backplane.turns import Claim
from worker.metrics import Metrics

KEPT_SECONDS = 30.0
"""How long an ended turn is shown."""
KEPT_TURNS = 64


class Ledger:
    """Turns as `{tenant, thread_id, request_id, attempt, began, claimed, ended?, outcome?}`; times in Unix seconds.

    Args:
        now: what Redis' clock says, so that the turns of all workers fit on one line of time.
        metrics: what is counted of them.
    """

    def __init__(self, now: Callable[[], float], metrics: Metrics) -> None:
        self._now = now
        self._metrics = metrics
        self._running: dict[tuple[str, int], dict[str, Any]] = {}
        self._ended: deque[dict[str, Any]] = deque(maxlen=KEPT_TURNS)

    def begun(self, claim: Claim) -> None:
        """Note that a turn was claimed."""
        self._running[claim.request_id, claim.fence] = {
            "tenant": claim.ref.tenant,
            "thread_id": claim.ref.thread_id,
            "request_id": claim.request_id,
            "attempt": claim.fence,
            "began": claim.began / 1000,
            "claimed": round(self._now(), 3),
        }
        self._metrics.running.inc()
        if claim.fence == 1:
            self._metrics.wait.observe(max(0.0, self._now() - claim.began / 1000))
        else:
            self._metrics.takeovers.inc()

    def ended(self, claim: Claim, outcome: str) -> None:
        """Note what became of it: done, failed, cancelled, fenced, handed_back, parked or crashed."""
        turn = self._running.pop((claim.request_id, claim.fence))
        now = self._now()
        self._ended.append(turn | {"ended": round(now, 3), "outcome": outcome})
        self._metrics.running.dec()
        self._metrics.ended.labels(outcome).inc()
        self._metrics.duration.observe(max(0.0, now - turn["claimed"]))

    def forget(self, ref: ThreadRef) -> None:
        """Forget the ended turns of a thread that was deleted."""
        others = (turn for turn in self._ended if (turn["tenant"], turn["thread_id"]) != (ref.tenant, ref.thread_id))
        self._ended = deque(others, maxlen=KEPT_TURNS)

    def forget_all(self) -> None:
        """Forget all ended turns."""
        self._ended.clear()

    def turns(self) -> list[dict[str, Any]]:
        """Return what runs, and what has ended lately."""
        since = self._now() - KEPT_SECONDS
        return [*(turn for turn in self._ended if turn["ended"] >= since), *self._running.values()]
