"""The rows that must go red when the product is broken on purpose; a row that cannot is worth nothing."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.fleet.fleet import CODE, Fleet
from tests.fleet.rows import duplicate_starts, stopped_worker

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="session")]
Row = Callable[[Fleet], Awaitable[list[str]]]
_TRIES = 6
"""A stop may meet a worker in the moment when all its turns have just sent: one time in ten, about."""


def broken(folder: Path, script: str, defence: str, gone: str) -> Path:
    """Return a copy of the product in which one line of a Lua script no longer defends it."""
    for package in ("backplane", "gateway", "worker", "cli", "clients/python/threadline_client"):
        shutil.copytree(CODE / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "backplane" / "lua" / script
    text = file.read_text()
    assert text.count(defence) == 1, f"{defence!r} is not in {script} any more; take out what does its work now"
    file.write_text(text.replace(defence, gone))
    return folder


@pytest.mark.parametrize(
    ("row", "script", "defence", "gone"),
    [
        pytest.param(
            stopped_worker,
            "append.lua",
            "if turn[1] ~= 'running' or turn[2] ~= arg(2) or tonumber(batch) > turn[3] + 1 then",
            "if not turn[1] then",
            id="no-fence",
        ),
        pytest.param(duplicate_starts, "start.lua", "if seen then", "if false then", id="no-idempotency"),
    ],
)
async def test_a_row_goes_red_without_its_defence(
    tmp_path: Path, row: Row, script: str, defence: str, gone: str
) -> None:
    code = broken(tmp_path / "code", script, defence, gone)
    async with Fleet(tmp_path / "fleet", code=code) as fleet:
        for _ in range(_TRIES):
            if await row(fleet):
                return
    pytest.fail(f"{row.__name__} stays green although {script} defends nothing")
