"""Lines from a pipe, a file, and something that is neither."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TextIO

import pytest

from cli.keyboard import Keyboard


class Descriptor(io.StringIO):
    """A stream that is read by a descriptor."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor


async def lines_of(stream: TextIO) -> list[str]:
    keyboard = Keyboard(stream)
    found = []
    while (line := await keyboard.line()) is not None:
        found.append(line)
    return found


async def test_a_pipe_is_read_line_by_line_also_without_a_last_newline() -> None:
    reading, writing = os.pipe()
    os.write(writing, "één\r\n\ntw".encode())
    with os.fdopen(reading) as stream:
        keyboard = Keyboard(stream)
        assert [await keyboard.line(), await keyboard.line()] == ["één", ""]
        os.write(writing, b"o")
        os.close(writing)
        assert [await keyboard.line(), await keyboard.line()] == ["two", None]
        assert not keyboard.interactive


async def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "said"
    path.write_bytes(b"one\ntwo \xff\n")
    with path.open() as stream:
        assert await lines_of(stream) == ["one", "two \ufffd"]


@pytest.mark.parametrize("text", ["one\ntwo\n", "one\ntwo"])
async def test_a_stream_without_a_descriptor_is_read_too(text: str) -> None:
    assert await lines_of(io.StringIO(text)) == ["one", "two"]


async def test_a_terminal_that_is_gone_ends_the_lines(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)  # reading it fails, as it does for a terminal that was closed
    try:
        assert await lines_of(Descriptor(folder)) == []
    finally:
        os.close(folder)
