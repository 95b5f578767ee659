"""Why a server cannot be reached, in words that say what to change; TLS against real servers is in tests/servers."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backplane import diagnosis
from backplane.addresses import parse
from backplane.diagnosis import Encryption, Fault, diagnose, encryption
from backplane.embedded import HOST, free_port
from tests.servers.certificates import Authority


async def fault_of(url: str) -> Fault:
    fault = await diagnose(parse(url))
    assert fault is not None
    assert "hidden" not in str(fault)
    return fault


@asynccontextmanager
async def answering(answer: bytes, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Answer whatever comes with the same bytes, at the port that is given; with none, close."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while await reader.read(1000) and answer:
                writer.write(answer)
        except OSError:
            """The other side has gone."""
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, HOST, 0, ssl=context)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await asyncio.gather(*tasks, return_exceptions=True)


def serving(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.server.certificate, authority.server.key)
    return context


async def test_a_server_that_answers_has_no_fault(valkey: str) -> None:
    assert await diagnose(parse(valkey)) is None


async def test_nobody_listens() -> None:
    fault = await fault_of(f"redis://u:hidden@{HOST}:{free_port()}")
    assert "nothing listens" in fault.text
    assert "THREADLINE_REDIS_URL" in fault.advice


async def test_no_such_host() -> None:
    assert "got 'redis.invalid'" in (await fault_of("redis://u:hidden@redis.invalid")).text


async def test_no_such_socket(tmp_path: Path) -> None:
    assert "No such file" in (await fault_of(f"unix://{tmp_path}/absent.sock")).text


async def test_a_password_that_the_server_does_not_know(valkey: str) -> None:
    fault = await fault_of(valkey.replace("//", "//nobody:hidden@"))
    assert "does not take this user and password" in fault.text
    assert "%40" in fault.advice


@pytest.mark.parametrize(
    ("said", "text", "advice"),
    [
        ("NOAUTH Authentication required.", "wants a user and a password", "give user and password"),
        ("DENIED Redis is running in protected mode", "protected mode", "users.acl"),
        ("ERR max number of clients reached", "as many clients", "maxclients"),
        ("NOPERM User x has no permissions", "may not PING", "users.acl"),
        ("LOADING Redis is loading", "LOADING", "pass by themselves"),
        ("MISCONF Errors writing to the AOF file: No space left on device", "takes no writes", "make room on its disk"),
    ],
)
async def test_what_the_server_says_becomes_what_to_do(said: str, text: str, advice: str) -> None:
    async with answering(f"-{said}\r\n".encode()) as port:
        fault = await fault_of(f"redis://{HOST}:{port}")
    assert text in fault.text
    assert advice in fault.advice


async def test_another_program_listens() -> None:
    async with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        fault = await fault_of(f"redis://{HOST}:{port}")
        assert f"expected Redis or Valkey at {HOST}:{port}, got a server that speaks something else" in fault.text
        assert "correct host and port" in fault.advice
    async with answering(b"") as port:
        assert "closed without an answer" in (await fault_of(f"redis://{HOST}:{port}")).text


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+sentinel", "redis+cluster"])
async def test_a_server_that_is_stopped_is_told_from_one_that_closes(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its system still takes connections for it."""
    monkeypatch.setattr(diagnosis, "PATIENCE", 0.1)
    with socket.create_server((HOST, 0)) as stopped:
        fault = await fault_of(f"{scheme}://{HOST}:{stopped.getsockname()[1]}{'/main' if 'sentinel' in scheme else ''}")
    assert "takes the connection, and does not answer within 0.1 s" in fault.text
    assert "stopped or overloaded" in fault.advice


async def test_a_replica_is_no_primary() -> None:
    info = "# Replication\r\nrole:slave\r\nmaster_host:10.0.0.7\r\nmaster_port:6379\r\n"
    async with answering(f"${len(info)}\r\n{info}\r\n".encode()) as port:
        fault = await fault_of(f"redis://{HOST}:{port}")
    assert f"expected a primary at {HOST}:{port}, got a replica of 10.0.0.7:6379" in fault.text
    assert "name the primary" in fault.advice


async def test_a_database_that_the_server_does_not_have(valkey: str) -> None:
    at = valkey.split("//")[1].split("/")[0]
    fault = await fault_of(f"redis://{at}/99999")
    assert fault.text.endswith("has no database 99999")
    assert "THREADLINE_REDIS_URL" in fault.advice


async def test_one_server_is_no_sentinel_and_no_cluster(valkey: str) -> None:
    at = valkey.split("//")[1].split("/")[0]
    assert "expected a Sentinel" in (await fault_of(f"redis+sentinel://{at}/main")).text
    fault = await fault_of(f"redis+cluster://{at}")
    assert "expected a node of a Cluster" in fault.text
    assert "redis://" in fault.advice


async def test_sentinels_that_watch_over_another_primary_say_over_which() -> None:
    pairs = b"*4\r\n$4\r\nname\r\n$5\r\nother\r\n$2\r\nip\r\n$1\r\nh\r\n"
    async with answering(b"*1\r\n" + pairs) as port:
        assert "watches over other, not over 'main'" in (await fault_of(f"redis+sentinel://{HOST}:{port}/main")).text


async def test_one_that_answers_is_enough() -> None:
    """Of three nodes two may be dead; whoever waits for Redis then waits for something else."""
    async with answering(b"$16\r\ncluster_state:ok\r\n") as port:
        assert await diagnose(parse(f"redis+cluster://{HOST}:{free_port()},{HOST}:{port}")) is None


async def test_how_a_connection_is_encrypted(tmp_path: Path, valkey: str) -> None:
    authority = Authority(tmp_path)
    async with answering(b"+PONG\r\n", serving(authority)) as port:
        address = parse(f"rediss://{HOST}:{port}?ssl_ca_certs={authority.file}")
        found = await encryption(address, address.servers[0])
        assert isinstance(found, Encryption)
        assert found.version.startswith("TLSv1.")
        assert found.days is not None
        assert 0.9 < found.days < 1.1
        unchecked = parse(f"rediss://{HOST}:{port}?ssl_cert_reqs=none")
        assert (await encryption(unchecked, unchecked.servers[0])) == Encryption(found.version, None)
    plain = parse(valkey)
    assert await encryption(plain, plain.servers[0]) is None
