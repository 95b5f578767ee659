"""The supervisor of `threadline serve`, with small stand-ins for the gateways and the workers."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from backplane import embedded
from backplane.embedded import find_fake, free_port
from backplane.errors import Misconfigured
from backplane.settings import Settings
from cli.serve import serve

GATEWAY = """
import http.server, os, signal, sys

class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()
    def log_message(self, *_):
        pass

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("listening", os.environ["THREADLINE_AGENT"])
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ready).serve_forever()
"""

# On SIGTERM it asks the store for a PONG: it can drain only if the store still runs.
WORKER = """
import os, signal, socket, urllib.parse

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # one that comes before the wait for it ends the wait
print("working")
signal.sigwait([signal.SIGTERM])
store = urllib.parse.urlsplit(os.environ["THREADLINE_REDIS_URL"])
with socket.create_connection((store.hostname, store.port)) as link:
    link.sendall(b"*1\\r\\n$4\\r\\nPING\\r\\n")
    print("drained, the store said", link.recv(64).decode().strip())
"""

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf')\nwhile True: signal.pause()"


class Fleet:
    """A supervisor under test: what it said, and what its state file says."""

    def __init__(self, data_dir: Path, ports: list[int]) -> None:
        self.data_dir = data_dir
        self.ports = ports
        self.lines: list[str] = []
        self.stop = asyncio.Event()
        self.hasten = asyncio.Event()
        self._news = asyncio.Event()

    def say(self, line: str) -> None:
        self.lines.append(line)
        self._news.set()

    async def said(self, words: str) -> str:
        """Wait until a line with these words was printed; return it."""
        while True:
            self._news.clear()
            for line in self.lines:
                if words in line:
                    return line
            await self._news.wait()

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.data_dir / "fleet.json").read_text())
        return state


def free_ports(count: int) -> list[int]:
    """Return ports that follow each other, all free."""
    while True:
        first = free_port()
        if first + count > 65536:
            continue
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return list(range(first, first + count))


def settings_for(fleet: Fleet) -> Settings:
    return Settings(data_dir=fleet.data_dir, port=fleet.ports[0], agent="some.agents:one", drain_grace=0.1)


def commands_for(fleet: Fleet, worker: str = WORKER) -> dict[str, list[str]]:
    gateways = {f"gateway-{n}": [sys.executable, "-c", GATEWAY, str(p)] for n, p in enumerate(fleet.ports, 1)}
    return gateways | {f"worker-{n}": [sys.executable, "-c", worker] for n in (1, 2)}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "data", free_ports(2))


@contextlib.asynccontextmanager
async def running(fleet: Fleet, **options: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Run two gateways and a worker, all up; leave with everything stopped."""
    defaults: dict[str, Any] = {"gateways": 2, "workers": 1, "commands": commands_for(fleet)}
    options = defaults | options
    task = asyncio.create_task(
        serve(settings_for(fleet), stop=fleet.stop, hasten=fleet.hasten, say=fleet.say, **options)
    )
    up = asyncio.create_task(fleet.said("Ctrl-C stops everything"))
    try:
        await asyncio.wait({task, up}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()  # a start that failed says why, and nobody waits for what it would have said
        elif options["workers"]:
            await fleet.said("worker-1 | ")
        yield task
    finally:
        up.cancel()
        fleet.stop.set()
        await task


async def test_it_starts_everything_and_says_where(fleet: Fleet) -> None:
    async with running(fleet):
        for port in fleet.ports:
            assert any(f"http://127.0.0.1:{port}" in line for line in fleet.lines)
            async with httpx.AsyncClient(trust_env=False) as client:
                assert (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
        assert any(" chat --url " in line for line in fleet.lines)
        state = fleet.state()
        assert [gateway["url"] for gateway in state["gateways"]] == [f"http://127.0.0.1:{port}" for port in fleet.ports]
        assert [worker["name"] for worker in state["workers"]] == ["worker-1"]
        assert state["store"]["kind"] == "valkey"
        for member in (*state["gateways"], *state["workers"], state["store"]):
            assert any(f"pid {member['pid']} " in f"{line} " for line in fleet.lines)
            assert os.getpgid(member["pid"]) == member["pid"]  # a Ctrl-C in the terminal passes it by


async def test_children_read_the_settings_that_it_was_given(fleet: Fleet) -> None:
    async with running(fleet):
        assert await fleet.said("gateway-1 | listening some.agents:one")
        assert await fleet.said("gateway-2 | listening some.agents:one")


@pytest.mark.parametrize("victim", ["gateway-2", "worker-1"])
async def test_a_member_that_was_killed_is_started_again(fleet: Fleet, victim: str) -> None:
    async with running(fleet):
        before = pid_of(fleet, victim)
        os.kill(before, signal.SIGKILL)
        line = await fleet.said(f"{victim} (pid {before}) died (signal 9); started again as pid ")
        after = pid_of(fleet, victim)
        assert line.endswith(str(after))
        assert after != before


async def test_a_store_that_was_killed_is_started_again_at_the_same_url(fleet: Fleet) -> None:
    async with running(fleet):
        before = fleet.state()["store"]
        os.kill(before["pid"], signal.SIGKILL)
        await fleet.said(f"store (pid {before['pid']}) died (signal 9); started again as pid ")
        after = fleet.state()["store"]
        assert after["url"] == before["url"]
        assert after["pid"] != before["pid"]


async def test_a_member_is_started_again_once_though_its_number_cannot_be_written_down(fleet: Fleet) -> None:
    """On a full disk each try to note it left one more worker running."""
    async with running(fleet):
        before = pid_of(fleet, "worker-1")
        (fleet.data_dir / "fleet.draft").mkdir()
        os.kill(before, signal.SIGKILL)
        assert "; started again as pid " in await fleet.said(f"worker-1 (pid {before}) died (signal 9)")
        assert "fleet.json could not be written: Is a directory" in await fleet.said("fleet.json")
        assert pid_of(fleet, "worker-1") == before


async def test_a_fleet_starts_and_stops_where_nothing_can_be_noted(fleet: Fleet) -> None:
    (fleet.data_dir / "fleet.json").mkdir(parents=True)
    async with running(fleet):
        pass
    assert len([line for line in fleet.lines if "could not be written" in line]) == 1
    assert fleet.lines[-1].startswith("Stopped.")


async def test_it_stops_the_store_last_and_leaves_nothing_behind(fleet: Fleet) -> None:
    async with running(fleet):
        state = fleet.state()
    assert "worker-1 | drained, the store said +PONG" in fleet.lines
    assert fleet.lines[-1].startswith("Stopped. Threads are kept in ")
    assert not any("killed" in line for line in fleet.lines)
    assert not (fleet.data_dir / "fleet.json").exists()
    for port in (*fleet.ports, int(state["store"]["url"].rsplit(":", 1)[1].removesuffix("/0"))):
        with pytest.raises(OSError, match="Connect"):
            await asyncio.open_connection("127.0.0.1", port)


async def test_a_second_wish_to_stop_kills_what_still_drains(fleet: Fleet) -> None:
    async with running(fleet, commands=commands_for(fleet, worker=STUBBORN)) as task:
        worker = pid_of(fleet, "worker-1")
        fleet.stop.set()
        await fleet.said("Stopping")
        assert not task.done()
        fleet.hasten.set()
        await fleet.said(f"worker-1 (pid {worker}) had not ended yet; killed")


async def test_a_second_sigint_hastens_when_nobody_else_listens_for_it(fleet: Fleet) -> None:
    stop = asyncio.Event()
    task = asyncio.create_task(
        serve(
            settings_for(fleet),
            stop=stop,
            say=fleet.say,
            commands=commands_for(fleet, worker=STUBBORN),
        )
    )
    await fleet.said("worker-1 | deaf")
    stop.set()
    await fleet.said("Stopping")
    signal.raise_signal(signal.SIGINT)
    await task
    assert any("worker-1" in line and "killed" in line for line in fleet.lines)


async def test_it_stops_while_it_still_waits_for_a_gateway(fleet: Fleet) -> None:
    commands = commands_for(fleet) | {"gateway-1": [sys.executable, "-c", WORKER]}
    task = asyncio.create_task(serve(settings_for(fleet), stop=fleet.stop, say=fleet.say, commands=commands))
    await fleet.said("gateway-1 | working")
    fleet.stop.set()
    await task
    assert "Threadline is up." not in fleet.lines
    assert fleet.lines[-1].startswith("Stopped.")


async def test_a_port_that_is_taken_is_named_and_nothing_is_left_running(fleet: Fleet) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", fleet.ports[1]))
        other.listen()
        with pytest.raises(Misconfigured, match=rf"port {fleet.ports[1]} .* gateway-2, .*--port"):
            async with running(fleet):
                pass
    assert not any("gateway-1 |" in line for line in fleet.lines)
    assert not (fleet.data_dir / "fleet.json").exists()


async def test_a_host_that_is_not_this_machine_is_what_is_wrong(fleet: Fleet) -> None:
    settings = Settings(data_dir=fleet.data_dir, host="192.0.2.1", port=fleet.ports[0])  # RFC 5737: it is nobody's
    with pytest.raises(Misconfigured, match=r"192\.0\.2\.1 for gateway-1, .*; give an address .* --host"):
        await serve(settings, stop=fleet.stop)


async def test_a_member_that_cannot_start_ends_the_start(fleet: Fleet) -> None:
    commands = commands_for(fleet) | {"worker-1": [sys.executable, "-c", "print('no agent'); raise SystemExit(2)"]}
    commands["gateway-1"] = [sys.executable, "-c", WORKER]  # never ready, so the start is not over
    with pytest.raises(Misconfigured, match="worker-1 to start, but it ended with exit code 2"):
        async with running(fleet, commands=commands):
            pass
    assert "worker-1 | no agent" in fleet.lines


async def test_a_second_fleet_on_the_same_folder_is_refused(fleet: Fleet) -> None:
    async with running(fleet):
        other = Fleet(fleet.data_dir, free_ports(2))
        with pytest.raises(Misconfigured, match="in use by process"):
            async with running(other):
                pass
        assert fleet.state()["gateways"]


async def test_a_given_redis_is_used_and_no_store_is_started(fleet: Fleet) -> None:
    async with running(fleet, redis_url="redis://127.0.0.1:1/0", commands=commands_for(fleet, worker=SHOW_URL)):
        await fleet.said("worker-1 | redis://127.0.0.1:1/0")
        assert fleet.state()["store"] == {"url": "redis://127.0.0.1:1/0", "kind": "external", "pid": None}
    assert fleet.lines[-1] == "Stopped."


SHOW_URL = "import os, signal; print(os.environ['THREADLINE_REDIS_URL'])\nsignal.pause()"


async def test_the_password_of_a_given_redis_is_not_written_down(fleet: Fleet) -> None:
    url = "redis://ann:hidden@127.0.0.1:1/0"
    async with running(fleet, redis_url=url, commands=commands_for(fleet, worker=SHOW_URL)):
        await fleet.said(f"worker-1 | {url}")
        assert fleet.state()["store"]["url"] == "redis://ann:***@127.0.0.1:1/0"


async def test_the_store_takes_no_port_of_a_gateway(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_PORTS", range(fleet.ports[0], fleet.ports[0] + 10))
    monkeypatch.setattr(embedded, "_PORT_NUMBERS", itertools.count())
    async with running(fleet):
        assert fleet.state()["store"]["url"] != f"redis://127.0.0.1:{fleet.ports[0]}/0"


async def test_a_store_in_memory_is_warned_about(fleet: Fleet) -> None:
    async with running(fleet, finders=(find_fake,)):
        assert any(line.startswith("Warning: ") and "nothing is kept" in line for line in fleet.lines)
    assert fleet.lines[-1] == "Stopped."


async def test_a_long_line_of_a_child_is_passed_on_in_pieces(fleet: Fleet) -> None:
    worker = "import signal; print('x' * 200_000); print('end')\nsignal.pause()"
    async with running(fleet, commands=commands_for(fleet, worker=worker)):
        await fleet.said("worker-1 | end")
        pieces = [line.removeprefix("worker-1 | ") for line in fleet.lines if line.startswith("worker-1 | x")]
        assert "".join(pieces) == "x" * 200_000


@pytest.mark.parametrize(("gateways", "port"), [(-1, 8080), (3, 65534)])
async def test_a_fleet_that_cannot_be_is_refused(fleet: Fleet, gateways: int, port: int) -> None:
    settings = Settings(data_dir=fleet.data_dir, port=port)
    with pytest.raises(Misconfigured, match="expected"):
        await serve(settings, gateways=gateways, stop=fleet.stop)


def pid_of(fleet: Fleet, name: str) -> int:
    state = fleet.state()
    return next(int(member["pid"]) for member in (*state["gateways"], *state["workers"]) if member["name"] == name)
