"""A package of JavaScript beside the tests in Python: installed as its lock file says, and run by node."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.support.skipping import unable

OLDEST_NODE = (20, 19)
"""What Vite 7 asks for; scripts/node brings one as new where there is none."""
INSTALL = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")


class Package:
    """A folder with a `package.json` and its lock file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def ran(self, *command: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run a command in the folder; return its exit code and what it printed, without colours."""
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=self.folder,
            env={**os.environ, "NO_COLOR": "1", **(environment or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:  # the test is being cancelled
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return process.returncode, output.decode(errors="replace")

    async def install(self) -> None:
        """Install what the lock file names, unless it is there; one test at a time: several may run beside each other.

        Skips the test where there is no node that is new enough, or no way to install.
        """
        import fcntl  # not on Windows, where these tests are skipped

        await self._check_node()
        with (self.folder / "package-lock.json").open() as one_at_a_time:
            await asyncio.to_thread(fcntl.flock, one_at_a_time, fcntl.LOCK_EX)
            if self._is_installed():
                return
            code, output = await self.ran(*INSTALL)
        if code != 0:
            unable(f"expected `{' '.join(INSTALL)}` in {self.folder} to succeed, got exit code {code}:\n{output}")

    async def _check_node(self) -> None:
        oldest = ".".join(map(str, OLDEST_NODE))
        if not (shutil.which("node") and shutil.which("npm")):
            unable(f"expected node {oldest} or newer and npm on the PATH, found none; install them to run these tests")
        _, version = await self.ran("node", "--version")
        found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if found < OLDEST_NODE:
            unable(f"expected node {oldest} or newer, got {version.strip()}; install a newer one to run these tests")

    def _is_installed(self) -> bool:
        """Tell whether npm has installed what the lock file names, and not what an older one named."""
        installed, locked = self.folder / "node_modules" / ".package-lock.json", self.folder / "package-lock.json"
        return installed.exists() and installed.stat().st_mtime >= locked.stat().st_mtime
