"""The standard streams: closed ones, and outputs that cannot show every character."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
from asyncio.subprocess import PIPE

import pytest

from cli import stdio
from cli.exits import Exit
from cli.scripting import Output
from tests.clients.python.scripted_gateway import gateways


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are inherited otherwise there")
@pytest.mark.parametrize("closed", [0, 1, 2])
async def test_a_stream_that_was_closed_ends_no_command(closed: int) -> None:
    """And nothing that is opened later gets its number, and with it what is meant for the terminal."""
    async with gateways(1) as (_, (node,)):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.main", "cancel", "tea", "--url", node.url),
            stdout=None if closed == 1 else PIPE,
            stderr=None if closed == 2 else PIPE,
            preexec_fn=lambda: os.close(closed),
        )
        out, said = await process.communicate()
        assert process.returncode == Exit.NOTHING_TO_CANCEL, said
        assert b"Traceback" not in (out or b"") + (said or b"")


def test_what_an_output_cannot_show_is_written_as_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    stdio.prepare()
    print("tea 2 €")
    assert written.getvalue() == b"tea 2 \\u20ac\n"
    Output(sys.stdout, sys.stderr, as_json=True).record({"text": "thé 2 €"})
    assert json.loads(written.getvalue().splitlines()[-1]) == {"text": "thé 2 €"}


def test_what_is_no_text_is_read_as_a_character_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xffb"), encoding="utf-8"))
    stdio.prepare()
    assert sys.stdin.read() == "a\ufffdb"
