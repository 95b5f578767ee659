"""A soak in which a process leaks, made up."""

from __future__ import annotations

from typing import Any

from scripts.endurance.samples import Held, Sample


def leaking(leak: int) -> list[Sample]:
    """Return ten minutes in which a gateway leaks so many bytes a second, and the store keeps what it is given."""
    return [
        Sample(
            float(at),
            0.004 if at else None,
            {
                "gateway-0": Held(100_000_000 + leak * at, 40, 0.2),
                "store": Held(50_000_000 + 100_000 * at, 30, 0.1),
            },
        )
        for at in range(0, 600, 5)
    ]


def kept(samples: list[Sample]) -> dict[str, Any]:
    return {
        "machine": {"date": "2026-01-02", "cores": 2, "memory_gb": 8, "system": "Linux x86_64", "python": "3.11.7"},
        "minutes": 10.0, "clients": 20, "watchers": 3, "wrong": [],
        "noticed": {"threads": 1200, "turns": 2, "events": 3, "reconnects": 4},
        "samples": [one.plain() for one in samples],
    }  # fmt: skip
