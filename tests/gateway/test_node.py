"""Whether a node takes clients."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from backplane.connection import Backplane
from backplane.errors import Unavailable
from gateway.node import Node


def node(*, deaf: bool, answers: bool) -> tuple[Node, list[str]]:
    """Return a node on a backplane that hears, or answers, or not; and what was asked of it."""
    asked: list[str] = []

    async def ping() -> None:
        asked.append("ping")
        if not answers:
            raise Unavailable("no")

    backplane: Any = SimpleNamespace(live=SimpleNamespace(deaf=deaf), ping=ping)
    return Node(cast("Backplane", backplane)), asked


@pytest.mark.parametrize(
    ("deaf", "answers", "reasons"),
    [
        (False, True, []),
        (False, False, ["no answer from Redis"]),
        (True, True, ["deaf: the live path is not heard"]),
    ],
)
async def test_a_node_says_why_it_takes_no_clients(deaf: bool, answers: bool, reasons: list[str]) -> None:
    assert await node(deaf=deaf, answers=answers)[0].unready_because() == reasons


async def test_a_node_that_is_known_to_be_unready_does_not_wait_for_redis() -> None:
    """A Redis that hangs would keep a load balancer's probe waiting, and the probe would time out instead."""
    deaf, asked = node(deaf=True, answers=True)
    await deaf.unready_because()
    draining, _ = node(deaf=False, answers=True)
    draining.draining = True
    assert await draining.unready_because() == ["draining"]
    assert asked == []
