"""Each threat that was seen, against a gateway, and against a server that does not withstand it."""

from __future__ import annotations

import sys

import pytest
from websockets.exceptions import WebSocketException

from tests.threats.probes import PROBES, Probe
from tests.threats.target import Target

pytestmark = [
    pytest.mark.processes,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(sys.platform != "linux", reason="the probes read /proc"),
]
names = [f"{row}-{probe.__name__}" for row, probe in PROBES.items()]
rows = pytest.mark.parametrize("probe", PROBES.values(), ids=names)


@rows
async def test_a_gateway_withstands(probe: Probe, threadline: Target) -> None:
    await probe(threadline)


@rows
async def test_the_probe_would_notice(probe: Probe, stock: Target) -> None:
    """A probe that python-socketio's own server passes would show nothing."""
    with pytest.raises((AssertionError, WebSocketException)):
        await probe(stock)
