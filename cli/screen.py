"""Writes a conversation to a terminal, or the bare answers to a pipe."""

from __future__ import annotations

import os
import re
import shutil
from typing import TextIO

from rich.cells import cell_len

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Return text without control characters, so that no model or tool can steer the terminal."""
    return _CONTROL.sub("", text)


class Screen:
    """Where a conversation is shown.

    On a terminal everything goes to `out`, what is not the answer dimmed. Otherwise `out` gets the answers
    and nothing else, exactly as they came, and the notes go to `notes`.
    """

    def __init__(self, out: TextIO, notes: TextIO) -> None:
        self.interactive = out.isatty()
        self._out, self._notes = out, notes
        self._dim = self.interactive and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self._line = ""
        """What stands on the unfinished line."""
        self._faint = False
        """Whether that line is a dimmed one."""
        self._held: list[str] = []
        self._prompt = ""
        """The prompt at which the person types now, if any."""

    def text(self, text: str) -> None:
        """Write a piece of an answer, exactly."""
        if self.interactive:
            self._open(faint=False)
            text = printable(text)
        self._put(text)

    def faint(self, text: str) -> None:
        """Write a piece of reasoning, dimmed; nothing on a pipe."""
        if self.interactive:
            self._open(faint=True)
            self._put(printable(text))

    def line(self, text: str) -> None:
        """Write a whole line of talk (an earlier message, an answer to a command); notes on a pipe."""
        if self.interactive:
            self.end_line()
            self._out.write(printable(text) + "\n")
            self._out.flush()
        else:
            self._note(text)

    def note(self, text: str) -> None:
        """Write a dimmed line of its own."""
        if not self.interactive:
            self._note(text)
            return
        self.end_line()
        self._out.write(self._dimmed(printable(text)) + "\n")
        self._out.flush()

    def aside(self, text: str) -> None:
        """Write a dimmed line above the unfinished one, which goes on as if nothing had happened."""
        if not self.interactive or not self._line:
            prompt = self._prompt
            self.note(text)
            if prompt:
                self.prompt(prompt)
            return
        width, height = shutil.get_terminal_size()
        rows = max(1, -(-cell_len(self._line) // width))
        if rows >= height - 1 or not self._dim:  # the line has scrolled away, or cannot be redrawn
            self._held.append(text)
            return
        up = f"\x1b[{rows - 1}A" if rows > 1 else ""
        line = self._dimmed(self._line) if self._faint else self._line
        self._out.write(f"\r{up}\x1b[J{self._dimmed(printable(text))}\n{line}")
        self._out.flush()

    def prompt(self, text: str) -> None:
        """Write the prompt at which the person types; nothing on a pipe."""
        if self.interactive:
            self.end_line()
            self._prompt = text
            self._out.write(text)
            self._out.flush()

    def entered(self) -> None:
        """Note that the person has ended a line: the prompt stands above now."""
        self._prompt = ""

    def leave(self) -> None:
        """Finish whatever line there is; nothing more is written."""
        if self._prompt:
            self._prompt = ""
            self._out.write("\n")
        self.end_line()

    def end_line(self) -> None:
        """Finish the unfinished line, if there is one, and write what was held back for its sake."""
        self._unprompt()
        if self._line:
            self._out.write("\n")
            self._line, self._faint = "", False
        self._release()
        self._out.flush()

    def _unprompt(self) -> None:
        # What comes from elsewhere takes the prompt's line; what is typed there already is not lost.
        if self._prompt:
            self._out.write("\r\x1b[J" if self._dim else "\n")
            self._prompt = ""

    def _open(self, *, faint: bool) -> None:
        self._unprompt()
        if self._line and self._faint is not faint:
            self.end_line()
        self._faint = faint

    def _put(self, text: str) -> None:
        self._out.write(self._dimmed(text) if self._faint else text)
        _, newline, after = text.rpartition("\n")
        self._line = after if newline else self._line + after
        if newline and self._held and not self._line:
            self._release()
        self._out.flush()

    def _release(self) -> None:
        held, self._held = self._held, []
        for text in held:
            self._out.write(self._dimmed(printable(text)) + "\n")

    def _note(self, text: str) -> None:
        self._notes.write(printable(text) + "\n")
        self._notes.flush()

    def _dimmed(self, text: str) -> str:
        return f"\x1b[2m{text}\x1b[22m" if self._dim and text else text
