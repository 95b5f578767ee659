"""How many gateways, workers and shards a load needs, and how much of what cannot be divided is used.

A process is one core. What is measured are costs on one machine (costs.py); that they add up over thousands of
processes is assumed, and so is that a command of the store costs at most what an append costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from backplane.live import RELAXED
from backplane.recoverer import AHEAD
from backplane.settings import Settings
from scripts.sizing.costs import Costs

_SETTINGS = Settings.model_fields
_HEARTBEAT = float(_SETTINGS["heartbeat"].default)
_CANARY = float(_SETTINGS["canary_interval"].default)
_BEAT = 2.5 * float(_SETTINGS["coalesce"].default)
"""Seconds between two frames of a turn, while many talk in its worker."""
_RING = 3
"""Commands in the slot of the doorbell for each turn: the ring, the pop, the pick."""
_LINKS = 3
"""Connections of each process to each shard: commands, the live path, and the one that waits at the doorbell."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a fleet has to carry."""

    connections: int = 1_000_000
    turns: int = 100_000
    """Turns that talk at once."""
    tokens: float = 50.0
    """Deltas a second of each."""
    watchers: float = 1.0
    """Sockets that watch a thread while its turn talks."""
    seconds: float = 30.0
    """How long a turn lasts."""
    slots: int = int(_SETTINGS["slots"].default)
    partitions: int = int(_SETTINGS["partitions"].default)
    target: float = 0.6
    """The part of a core that may be used."""
    memory: float = 2e9
    """Bytes of a gateway for its sockets."""
    back_within: float = 60.0
    """Seconds in which all clients can connect anew."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """What carries it. A utilisation is a part of one core, or of one limit: above 1 it cannot work."""

    nodes: int
    workers: int
    shards: int
    node: float
    worker: float
    shard: float
    line: float
    """The one slot in which the doorbell and the line of waiting turns are."""
    canaries: float
    """What each shard does so that every process knows that it hears: no shard more makes it less."""
    recoverer: float
    """The one process that looks at all partitions."""
    partitions: float
    """Shards, as a part of the partitions that can be spread over them."""
    links: int
    """Connections that each shard holds."""

    def broken(self) -> list[str]:
        """Return what is over its limit, the worst first."""
        single = {
            "the canaries of all processes, at each shard": self.canaries,
            "the slot of the doorbell and the line": self.line,
            "the recoverer": self.recoverer,
            "shards over partitions": self.partitions,
        }
        return [name for name, used in sorted(single.items(), key=lambda item: -item[1]) if used > 1]


def size(load: Load, costs: Costs) -> Fleet:
    """Return the fleet that a load needs."""
    frames = load.turns * min(load.tokens, 1 / _BEAT)
    speaking = frames * costs.speak
    workers = max(1, math.ceil(load.turns / load.slots), math.ceil(speaking / load.target))
    nodes, serving = _gateways(load, costs, frames)
    canaries = (nodes + workers / RELAXED) / _CANARY * costs.append
    appending = (frames + load.turns / _HEARTBEAT) * costs.append
    # each shard has its own share, and all canaries; when these alone are too much, no number helps
    free = max(load.target - canaries, load.target / 10)
    shards = max(1, math.ceil(appending / free))
    return Fleet(
        nodes=nodes,
        workers=workers,
        shards=shards,
        node=serving / nodes,
        worker=speaking / workers,
        shard=appending / shards + canaries,
        line=load.turns / load.seconds * _RING * costs.append,
        canaries=canaries,
        recoverer=load.partitions / AHEAD * costs.append,
        partitions=shards / load.partitions,
        links=(nodes + workers) * _LINKS,
    )


def _gateways(load: Load, costs: Costs, frames: float) -> tuple[int, float]:
    """Return how many gateways it takes, and the cores that they use together."""
    least = max(
        1,
        math.ceil(load.connections * costs.socket_bytes / load.memory),
        math.ceil(load.connections * costs.connect / load.back_within),
    )
    hearing = frames * (min(load.watchers, 1) * costs.hear)
    nodes = least
    while True:
        wakes = frames * max(0.0, min(load.watchers, nodes) - 1) * costs.hear
        writes = frames * max(0.0, load.watchers - min(load.watchers, nodes)) * costs.write
        serving = hearing + wakes + writes + nodes * costs.idle
        needed = math.ceil((serving - nodes * costs.idle) / max(load.target - costs.idle, costs.idle))
        if needed <= nodes:
            return nodes, serving
        nodes = needed
