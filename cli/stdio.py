"""The standard streams of a command: closed ones end it no more, nor do terminals that cannot show every character."""

from __future__ import annotations

import io
import os
import sys

_STREAMS = (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w"))


def prepare() -> None:
    """Put nothing in the place of a stream that was closed, and have all of them take any character.

    What an output cannot show is written as its number (`\\u20ac`), and what an input has that is not text is read as
    U+FFFD.
    """
    for name, descriptor, mode in _STREAMS:
        stream = getattr(sys, name)
        if stream is None:  # Python's word for one that was closed, as by `>&-`
            stream = open(_nothing(descriptor), mode, encoding="utf-8", closefd=False)  # noqa: SIM115 # to the end
            setattr(sys, name, stream)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if mode == "r" else "backslashreplace")


def _nothing(descriptor: int) -> int:
    """Return where nothing comes from and nothing goes to: at this number, if nobody else has it by now.

    A file or socket that is opened later would get it otherwise, and with it what is meant for the terminal.
    """
    opened = os.open(os.devnull, os.O_RDWR)
    if opened == descriptor:
        return opened
    try:
        os.fstat(descriptor)
    except OSError:
        os.dup2(opened, descriptor)
        os.close(opened)
        return descriptor
    return opened
