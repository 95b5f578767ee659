"""What the exit codes of `threadline` mean."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """How a command ended, for scripts and for whoever keeps a process running."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    """Wrong usage, or a configuration that cannot work: the same command would end so again."""
    CANCELLED = 3
    """The turn was cancelled."""
    TIMED_OUT = 4
    """No answer came in the time given; the turn goes on."""
    NOTHING_TO_CANCEL = 5
    INTERRUPTED = 130
    """By Ctrl-C, or by a second signal; 128 and the number of SIGINT, as shells count it."""
