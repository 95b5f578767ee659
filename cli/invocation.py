"""How a person calls this program from where they stand."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path


def console_script() -> str:
    """Return what to type for `threadline` in this folder: its name when it is on the PATH, else its place."""
    if shutil.which("threadline"):
        return "threadline"
    script = Path(sys.executable).with_name("threadline")
    with contextlib.suppress(ValueError):
        return str(script.relative_to(Path.cwd()))
    return str(script)
