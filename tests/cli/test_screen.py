"""What stands on a terminal, and what goes into a pipe."""

from __future__ import annotations

import io
import os
import shutil

import pytest

from cli.screen import Screen, printable


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Return a terminal of 20 columns and 5 rows that can dim."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((20, 5)))
    return Terminal()


def test_a_pipe_gets_the_answer_byte_for_byte_and_the_notes_go_elsewhere() -> None:
    out, notes = io.StringIO(), io.StringIO()
    screen = Screen(out, notes)
    for piece in ("a\x1b[1m", "b\n\n", "c"):
        screen.text(piece)
        screen.note("tool")
        screen.faint("thinking")
        screen.aside("moved")
    screen.prompt("you> ")
    screen.end_line()
    assert out.getvalue() == "a\x1b[1mb\n\nc\n"
    assert notes.getvalue() == "tool\nmoved\n" * 3


def test_an_aside_goes_above_a_line_that_fills_several_rows(terminal: Terminal) -> None:
    screen = Screen(terminal, io.StringIO())
    screen.text("x" * 45)
    screen.aside("moved")
    assert terminal.getvalue().endswith(f"\r\x1b[2A\x1b[J\x1b[2mmoved\x1b[22m\n{'x' * 45}")


def test_an_aside_is_held_back_while_the_line_fills_the_screen(terminal: Terminal) -> None:
    screen = Screen(terminal, io.StringIO())
    screen.text("x" * 90)
    screen.aside("moved")
    assert "moved" not in terminal.getvalue()
    screen.text("y\n")
    assert terminal.getvalue().endswith("xy\n\x1b[2mmoved\x1b[22m\n")


def test_thinking_and_text_do_not_share_a_line(terminal: Terminal) -> None:
    screen = Screen(terminal, io.StringIO())
    screen.faint("hm")
    screen.text("so")
    screen.note("tool")
    assert terminal.getvalue() == "\x1b[2mhm\x1b[22m\nso\n\x1b[2mtool\x1b[22m\n"


def test_an_aside_at_the_prompt_brings_the_prompt_back(terminal: Terminal) -> None:
    screen = Screen(terminal, io.StringIO())
    screen.prompt("you> ")
    screen.aside("moved")
    screen.leave()
    assert terminal.getvalue() == "you> \r\x1b[J\x1b[2mmoved\x1b[22m\nyou> \n"


def test_after_enter_the_prompt_is_left_where_it_is(terminal: Terminal) -> None:
    screen = Screen(terminal, io.StringIO())
    screen.prompt("you> ")
    screen.entered()
    screen.text("yes")
    assert terminal.getvalue() == "you> yes", "the person's own Enter has ended the line"


def test_no_color_means_no_escape_at_all(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen(terminal, io.StringIO())
    screen.prompt("you> ")
    screen.note("tool")
    screen.text("half")
    screen.aside("moved")
    screen.text(" whole\n")
    assert terminal.getvalue() == "you> \ntool\nhalf whole\nmoved\n"


def test_tabs_newlines_and_every_script_are_printable() -> None:
    assert printable("a\tb\nç日本\r\x07\x1b\x9b") == "a\tb\nç日本"
