"""The machine on which something is measured, as a page tells of it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from typing import Any


def machine() -> dict[str, Any]:
    """Return what a reader must know of the machine: its size and versions, no names."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def described(facts: Mapping[str, Any]) -> str:
    """Return the machine in a few words, from what `machine` returned: its size and its system."""
    return f"{facts['cores']} cores, {facts['memory_gb']} GB, {facts['system']}"
