"""`scripts/simulate`: prints what a load needs, and what breaks first."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace

from scripts.sizing.costs import Costs, read
from scripts.sizing.model import Fleet, Load, size

_STEPS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
_HEAD = (
    *("connections", "turns", "gateways", "of a core", "workers", "of a core", "shards", "of a core"),
    *("line", "canaries", "recoverer", "shards of partitions", "connections of a shard", "breaks"),
)


def table(load: Load, costs: Costs) -> str:
    """Return Markdown: steps up to a load, and the whole of it."""
    steps = [replace(load, connections=int(load.connections * part), turns=int(load.turns * part)) for part in _STEPS]
    lines = [_line(step, size(step, costs)) for step in steps]
    rule = "|".join(["---:"] * (len(_HEAD) - 1) + ["---"])
    return "\n".join([f"| {' | '.join(_HEAD)} |", f"|{rule}|", *(f"| {' | '.join(line)} |" for line in lines)])


def _line(load: Load, fleet: Fleet) -> tuple[str, ...]:
    parts = (fleet.line, fleet.canaries, fleet.recoverer, fleet.partitions)
    return (
        f"{load.connections:,}",
        f"{load.turns:,}",
        f"{fleet.nodes:,}",
        f"{fleet.node:.2f}",
        f"{fleet.workers:,}",
        f"{fleet.worker:.2f}",
        f"{fleet.shards:,}",
        f"{fleet.shard:.2f}",
        *(f"{part:.2f}" for part in parts),
        f"{fleet.links:,}",
        "; ".join(fleet.broken()) or "-",
    )


def main() -> None:
    """Read the arguments, print the table."""
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=__doc__)
    for field in fields(Load):
        kind = type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default, help="[%(default)s]")
    print(table(Load(**vars(parser.parse_args())), read()))


if __name__ == "__main__":
    main()
