"""`threadline serve`: the store, the gateways and the workers on this machine, watched over by this process.

Every member is a process of its own, in a session of its own: a Ctrl-C in the terminal reaches this process
alone, which then stops the others in order, and a `kill -9` of one member harms no other.

    start   the store; then gateways and workers together; then wait until every gateway is ready
    watch   a member that died is started again, after 0.5 s, then 1, 2, 4, 5 s if it goes on dying
    stop    gateways and workers together (SIGTERM: they drain, and need the store for that); then the store.
            A second Ctrl-C kills what still drains.

`<data_dir>/fleet.json` says which process is which, for scripts and for people with a `kill -9` in mind:

    {"pid": 1, "store": {"url": "redis://…", "kind": "valkey", "pid": 2},
     "gateways": [{"name": "gateway-1", "pid": 3, "url": "http://127.0.0.1:8080"}],
     "workers": [{"name": "worker-1", "pid": 4}]}

`kind` is `external` and the store's `pid` null if the store was not started here. The file is rewritten at each
start of a member and removed at the stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import httpx

from backplane.addresses import parse
from backplane.embedded import FINDERS, EmbeddedStore, Finder, claim, free_port, start_child
from backplane.errors import Misconfigured, ThreadlineError
from backplane.settings import ENV_PREFIX, Settings
from cli.invocation import console_script
from gateway.auth import is_loopback, is_open

BACKOFF_FIRST, BACKOFF_MOST = 0.5, 5.0  # seconds between a death and the next start
HEALTHY_AFTER = 10.0  # seconds; a member that lived this long begins again at the shortest back-off
STOP_MARGIN = 5.0  # seconds beyond a member's own `drain_grace` before it is killed
READY_NOTICE = 15.0  # seconds of waiting before it is said who is not ready
EXTERNAL = "external"
LINE_MAX = 64 * 1024  # a longer line of a child is passed on in pieces

Say = Callable[[str], None]


@dataclass
class Member:
    """A gateway or a worker: how it is started, and its process now."""

    name: str
    argv: tuple[str, ...]
    url: str | None = None
    process: asyncio.subprocess.Process | None = None
    echo: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def living(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.returncode is None

    @property
    def pid(self) -> int | None:
        """Its process id, that of the last process if it died; None before the first start."""
        return self.process.pid if self.process else None


async def serve(
    settings: Settings,
    gateways: int = 1,
    workers: int = 1,
    redis_url: str | None = None,
    *,
    stop: asyncio.Event,
    hasten: asyncio.Event | None = None,
    commands: Mapping[str, Sequence[str]] | None = None,
    finders: Sequence[Finder] = FINDERS,
    say: Say | None = None,
) -> None:
    """Run the whole product until `stop` is set; return when every process has ended.

    `redis_url` names a Redis to use in place of an embedded one. `hasten` ends a drain early; without it, a
    second SIGINT or SIGTERM does. `commands` (name -> argv), `finders` and `say` replace what is started, how
    the embedded server is found, and where lines are printed.

    Raises:
        Misconfigured: a port is taken, the data folder is in use, or a member ended while it was starting.
        Unavailable: the embedded server does not come up.
    """
    hurry = hasten or asyncio.Event()
    if gateways > 1 and "polling" not in settings.model_fields_set:
        # nothing here sends the polls of one session to one gateway
        settings = settings.model_copy(update={"polling": False})
    body = asyncio.create_task(
        _run(settings, _members(settings, gateways, workers, commands), redis_url, hurry, finders, say or _print)
    )
    halt = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({body, halt}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        halt.cancel()
        body.cancel()
        with contextlib.nullcontext() if hasten else _second_signal(hurry):
            await asyncio.wait({body})
    if not body.cancelled():
        body.result()


async def _run(
    settings: Settings,
    members: list[Member],
    redis_url: str | None,
    hurry: asyncio.Event,
    finders: Sequence[Finder],
    say: Say,
) -> None:
    store = None
    try:
        async with contextlib.AsyncExitStack() as stack:
            if redis_url is None:
                port = free_port(but=[_port(member.url) for member in members if member.url])
                store = await stack.enter_async_context(EmbeddedStore(settings.data_dir, port, finders))
                if store.warning:
                    say(f"Warning: {store.warning}")
            else:
                stack.callback(os.close, await claim(settings.data_dir.absolute()))
            _check_ports(settings.host, members)
            await Fleet(settings, members, store, redis_url, say).run(hurry)
    except asyncio.CancelledError:
        kept = store is not None and store.warning is None
        say(f"Stopped. Threads are kept in {settings.data_dir}." if kept else "Stopped.")
        raise


class Fleet:
    """The gateways and workers of one machine, and the embedded store if there is one."""

    def __init__(
        self,
        settings: Settings,
        members: list[Member],
        store: EmbeddedStore | None,
        redis_url: str | None,
        say: Say,
    ) -> None:
        self._settings = settings
        self._members = members
        self._store = store
        self._url = store.url if store else redis_url or ""
        self._environment = _environment(settings, self._url, [member.url for member in members if member.url])
        self._state = settings.data_dir / "fleet.json"
        self._say = say
        self._up = False
        self._recorded = True
        """Whether `fleet.json` names the processes of now."""

    async def run(self, hurry: asyncio.Event) -> None:
        """Start the members and keep them running until cancelled; then stop them, in the order above.

        Raises:
            Misconfigured: a member ended by itself before the gateways were ready.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for member in self._members:
                    await self._start(member)
                for member in self._members:
                    group.create_task(self._keep(member))
                if self._store:
                    group.create_task(self._keep_store(self._store))
                group.create_task(self._announce())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            await self._stop(hurry)
            with contextlib.suppress(OSError):  # read-only by now: no reason to hide why it stopped
                self._state.unlink(missing_ok=True)

    async def _start(self, member: Member) -> None:
        name = {f"{ENV_PREFIX}NODE_ID": f"{self._settings.node_id}-{member.name}"}
        given = "node_id" in self._settings.model_fields_set  # without it, each process names itself
        member.process = await start_child(member.argv, env=self._environment | (name if given else {}))
        member.echo = asyncio.create_task(self._echo(member.name, member.process))
        self._record()

    async def _keep(self, member: Member) -> None:
        loop = asyncio.get_running_loop()
        wait = BACKOFF_FIRST
        while member.process is not None:
            since = loop.time()
            code = await member.process.wait()
            if not self._up and code >= 0:  # it gave up by itself, and said why: it would do so again
                raise Misconfigured(
                    f"expected {member.name} to start, but it ended with exit code {code}; "
                    f"its lines above (`{member.name} |`) say why"
                )
            dead = member.process.pid
            if loop.time() - since > HEALTHY_AFTER or code == 0:
                wait = BACKOFF_FIRST
            wait = await self._again(f"{member.name} (pid {dead}) {_cause(code)}", member, wait)

    async def _again(self, death: str, member: Member | EmbeddedStore, wait: float) -> float:
        """Start it again after `wait` seconds, and again until that worked; return the next wait."""
        while True:
            await asyncio.sleep(wait)
            wait = min(wait * 2, BACKOFF_MOST)
            try:
                if isinstance(member, Member):
                    await self._start(member)
                else:
                    await member.restart()
                    self._record()
            except (OSError, ThreadlineError) as error:
                self._say(f"{death}; it could not be started again: {error}; trying again in {wait:g} s")
            else:
                self._say(f"{death}; started again as pid {member.pid}")
                return wait

    async def _keep_store(self, store: EmbeddedStore) -> None:
        loop = asyncio.get_running_loop()
        wait = BACKOFF_FIRST
        while True:
            since = loop.time()
            code = await store.wait()
            if loop.time() - since > HEALTHY_AFTER:
                wait = BACKOFF_FIRST
            wait = await self._again(f"store (pid {store.pid}) {_cause(code)}", store, wait)

    async def _announce(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client, asyncio.TaskGroup() as group:
            for member in self._members:
                if member.url:
                    group.create_task(self._ready(client, member.name, member.url))
        self._up = True
        for line in self._welcome():
            self._say(line)

    async def _ready(self, client: httpx.AsyncClient, name: str, url: str) -> None:
        loop = asyncio.get_running_loop()
        notice = loop.time() + READY_NOTICE
        while True:
            try:
                reply = await client.get(f"{url}/readyz")
                if reply.status_code == httpx.codes.OK:
                    return
                answer = f"{reply.status_code} {reply.text[:200]}"
            except httpx.HTTPError as error:
                answer = type(error).__name__
            if loop.time() > notice:
                self._say(f"{name} is not ready yet: {url}/readyz answers {answer}; still waiting")
                notice = loop.time() + READY_NOTICE
            await asyncio.sleep(0.05)

    def _welcome(self) -> Iterator[str]:
        urls = [member.url for member in self._members if member.url]
        yield ""
        yield "Threadline is up."
        for member in self._members:
            yield f"  {member.name:<10} pid {member.pid:<8} {member.url or ''}".rstrip()
        if self._store:
            yield f"  {'store':<10} pid {self._store.pid:<8} {self._url} ({self._store.kind})"
        if urls:
            if self._settings.page:
                yield f"Open {urls[0]} in a browser, or try next, in another terminal:"
            else:
                yield "Try next, in another terminal:"
            yield f"  {console_script()} chat {' '.join(f'--url {url}' for url in urls)}"
        if self._members:
            yield f"  kill -9 {self._members[-1].pid}        # then go on talking"
        yield "Ctrl-C stops everything."
        yield ""

    async def _stop(self, hurry: asyncio.Event) -> None:
        living = [member for member in self._members if member.living]
        if living:
            self._say("Stopping: gateways and workers finish what they hold; Ctrl-C again hastens.")
        for member in living:
            _signal(member, signal.SIGTERM)
        ended = asyncio.create_task(_ended(living))
        hurried = asyncio.create_task(hurry.wait())
        limit = self._settings.drain_grace + STOP_MARGIN
        await asyncio.wait({ended, hurried}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        for member in living:
            if member.living:
                self._say(f"{member.name} (pid {member.pid}) had not ended yet; killed")
                _signal(member, signal.SIGKILL)
        await ended
        echoes = {member.echo for member in self._members if member.echo}
        if echoes:  # a grandchild may hold the pipe open for ever: do not wait for that
            _, open_yet = await asyncio.wait(echoes, timeout=1)
            for echo in open_yet:
                echo.cancel()

    async def _echo(self, name: str, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            return
        async for line in _lines(process.stdout):
            self._say(f"{name} | {line}")

    def _record(self) -> None:
        store = self._store
        fleet = {
            "pid": os.getpid(),
            "store": {
                # others may read this file: a Redis of somebody else's is named without its password
                "url": store.url if store else str(parse(self._url)),
                "kind": store.kind if store else EXTERNAL,
                "pid": store.pid if store else None,
            },
            "gateways": [{"name": m.name, "pid": m.pid, "url": m.url} for m in self._members if m.url],
            "workers": [{"name": m.name, "pid": m.pid} for m in self._members if not m.url],
        }
        draft = self._state.with_suffix(".draft")
        try:
            draft.write_text(json.dumps(fleet, indent=1) + "\n")
            draft.replace(self._state)  # a reader sees the old file or the new one, never half of one
        except OSError as error:  # a full disk: the member runs all the same, and must not be started once more
            if self._recorded:
                self._say(
                    f"{self._state} could not be written: {error.strerror or error}; the fleet goes on, and the file "
                    "does not say which process is which until a member is started with room on that disk"
                )
            self._recorded = False
        else:
            self._recorded = True


def _members(
    settings: Settings, gateways: int, workers: int, commands: Mapping[str, Sequence[str]] | None
) -> list[Member]:
    """Return the fleet's members, not yet started: gateways on ports that follow each other, then workers."""
    if gateways < 0 or workers < 0:
        raise Misconfigured(f"expected 0 or more gateways and workers, got {gateways} and {workers}")
    if settings.port + gateways - 1 > 65535:
        raise Misconfigured(
            f"expected {gateways} ports from {settings.port} on, but the last port is 65535; choose a lower --port"
        )
    command = (sys.executable, "-m", "cli.main")
    members = []
    for number in range(1, gateways + 1):
        name = f"gateway-{number}"
        port = settings.port + number - 1 if settings.port else free_port()
        argv = (*command, "gateway", "--host", settings.host, "--port", str(port))
        members.append(Member(name, argv, url=f"http://{_reachable(settings.host)}:{port}"))
    members.extend(Member(f"worker-{number}", (*command, "worker")) for number in range(1, workers + 1))
    for member in members:
        if commands and member.name in commands:
            member.argv = tuple(commands[member.name])
    return members


def _reachable(host: str) -> str:
    """Return the address at which this machine reaches a server that listens on `host`."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104  not bound
    return f"[{reached}]" if ":" in reached else reached


def _port(url: str) -> int:
    return httpx.URL(url).port or 80


def _check_ports(host: str, members: Sequence[Member]) -> None:
    """Refuse to start if a gateway cannot listen.

    Raises:
        Misconfigured: naming the address, the gateway, and what to do.
    """
    for member in members:
        if member.url is None:
            continue
        port = _port(member.url)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            if os.name == "posix":  # connections that linger after a stop are no reason to refuse
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise Misconfigured(
                    f"expected to listen on port {port} of {host} for {member.name}, but {_why_not(error)}"
                ) from None


def _why_not(error: OSError) -> str:
    """Return why nobody can listen there, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return "another program listens there; stop it, or choose another with --port"
    why = error.strerror or str(error)
    if error.errno == errno.EACCES:
        return f"{why}; choose a port above 1023 with --port"
    return f"{why}; give an address of this machine with --host"


def _environment(settings: Settings, redis_url: str, gateways: Sequence[str]) -> dict[str, str]:
    """Return the environment in which a member reads the settings that this process was given."""
    given = {}
    for name in settings.model_fields_set - {"node_id"}:
        value = getattr(settings, name)
        if value is not None:
            given[ENV_PREFIX + name.upper()] = _as_text(value)
    if is_loopback(settings.host):  # elsewhere, nobody here knows under which names browsers reach the gateways
        given.setdefault(f"{ENV_PREFIX}PAGE_GATEWAYS", ",".join(gateways))
    if is_open(settings) and is_loopback(settings.host):
        given.setdefault(f"{ENV_PREFIX}PLUGS", "1")  # whoever is here may break things, and see that nothing is lost
    # A child writes to a pipe: unbuffered, so that its lines come when they are written.
    return os.environ | given | {f"{ENV_PREFIX}REDIS_URL": redis_url, "PYTHONUNBUFFERED": "1"}


def _as_text(value: object) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}={number}" for name, number in value.items())
    return ",".join(value) if isinstance(value, tuple) else str(value)


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Yield the lines of a stream without their ends; one over `LINE_MAX` bytes in pieces."""
    rest = b""
    while chunk := await stream.read(LINE_MAX):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace").rstrip("\r")
        if len(rest) >= LINE_MAX:
            yield rest.decode(errors="replace")
            rest = b""
    if rest:
        yield rest.decode(errors="replace")


async def _ended(members: Sequence[Member]) -> None:
    for member in members:
        if member.process:
            await member.process.wait()


def _signal(member: Member, number: signal.Signals) -> None:
    if member.process:
        with contextlib.suppress(ProcessLookupError):  # it ended in the meantime, which is what we want
            member.process.send_signal(number)


@contextlib.contextmanager
def _second_signal(hurry: asyncio.Event) -> Iterator[None]:
    """While the fleet stops, take SIGINT and SIGTERM as the wish that it stop faster."""
    loop = asyncio.get_running_loop()
    taken = []
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not every loop has signals, and no thread but the main one has.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, hurry.set)
            taken.append(number)
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)


def _cause(code: int) -> str:
    if code == 0:  # a worker that has taken its `max_turns`
        return "ended in order"
    return f"died (signal {-code})" if code < 0 else f"died (exit code {code})"


def _print(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads any more (`| head`): no reason to stop the fleet
        print(line, flush=True)
