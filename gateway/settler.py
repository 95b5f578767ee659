"""Settler: what passed at this node, told to the others about once a second (gateway/allowances.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import structlog

from backplane.allowances import Allowances as Shared
from backplane.errors import ThreadlineError
from gateway.allowances import Allowances

INTERVAL = 1.0
"""Seconds between two settlements."""
_log = structlog.get_logger("gateway.settler")


class Settler:
    """Tells the other nodes what passed here, and hears what is left. A role of a node.

    Args:
        shared: the backplane's side.
        kinds: whose calls are counted.
    """

    def __init__(self, shared: Shared, kinds: Iterable[Allowances[Any]]) -> None:
        self._shared = shared
        self._kinds = list(kinds)
        self._alone = False

    async def run(self) -> None:
        """Settle, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self.settle()

    async def settle(self) -> None:
        """Settle once; a failure leaves each node its own limits."""
        due = [allowance for kind in self._kinds for allowance in kind.due()]
        try:
            left = await self._shared.settle([allowance.report() for allowance in due])
        except ThreadlineError as error:
            if not self._alone:
                _log.warning("limits of calls are those of this node alone", error=error.message)
            self._alone = True
            return
        if due:
            self._alone = False
        for allowance, rest in zip(due, left, strict=True):
            if rest is not None:
                allowance.settled(rest)
