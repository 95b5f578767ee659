"""Diagnosis: why a server cannot be reached, found out by asking it in each way that is likely to be meant.

What the libraries say of it is short: a server without TLS, asked with TLS, is "wrong version number" or silence, and
the other way round a "connection closed". Here it costs a second connection, and nobody waits for it but who starts a
process, or asks the doctor.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import hiredis

from backplane.addresses import Address, Server
from backplane.servers import as_text

PATIENCE = 2.0
"""Seconds for each thing that is tried: longer than a server far away takes, and short for a person who waits."""
_ALERT = 0.2
"""Seconds in which a server that refuses our certificate says so; with TLS 1.3 it does after the handshake."""
_SHOWS = "show a certificate with ssl_certfile and ssl_keyfile in THREADLINE_REDIS_URL"
_BELIEVE = "name the file of the authority with ssl_ca_certs in THREADLINE_REDIS_URL"
_NO_TRUST = {
    9: ("a certificate that is not valid yet", "see that the clocks of both machines are right"),
    10: ("a certificate that has expired", "renew the certificate of the server"),
    18: ("a certificate that it has signed itself", _BELIEVE),
    19: ("a certificate of an authority that is not known here", _BELIEVE),
    20: ("a certificate of an authority that is not known here", _BELIEVE),
    21: ("a certificate of an authority that is not known here", _BELIEVE),
}
"""By OpenSSL's number (X509_V_ERR_…, https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error/)."""
_OTHER_NAME = frozenset({62, 64})
"""The host name, or the address, is not in the certificate."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and what to change."""

    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.text}; {self.advice}"


@dataclass(frozen=True, slots=True)
class Encryption:
    """How a connection is encrypted."""

    version: str
    """Such as TLSv1.3."""
    days: float | None
    """How long the server's certificate is still valid; None when certificates are not checked."""


class _Faulty(Exception):
    def __init__(self, text: str, advice: str) -> None:
        super().__init__(text)
        self.fault = Fault(text, advice)


async def diagnose(address: Address) -> Fault | None:
    """Return why no server can be reached that an address names; None when one can.

    For Sentinels and a Cluster, each that is named is asked at once; the fault of the first counts when all have one.
    """
    asked = [_examine(address, server) for server in address.servers]
    found = await asyncio.gather(*asked)
    return None if None in found else found[0]


async def encryption(address: Address, server: Server) -> Encryption | None:
    """Return how connections to a server are encrypted; None without TLS, or when it cannot be reached."""
    if not address.tls:
        return None
    with suppress(OSError, TimeoutError):
        async with _connected(server, address.tls_context) as line:
            return line.encryption()
    return None


async def _examine(address: Address, server: Server) -> Fault | None:
    try:
        await _examine_way(address, server)
        async with _connected(server, address.tls_context) as line:
            await _examine_login(address, server, line)
            if address.kind == "sentinel":
                await _examine_sentinel(address, server, line)
            elif address.kind == "cluster":
                await _examine_node(server, line)
            else:
                await _examine_primary(address, server, line)
    except _Faulty as faulty:
        return faulty.fault
    except hiredis.HiredisError as error:
        return Fault(
            f"expected Redis or Valkey at {server}, got a server that speaks something else ({error})",
            "correct host and port in THREADLINE_REDIS_URL",
        )
    except OSError as error:
        return _silent(server) if _timed_out(error) else _closed(server, error)
    return None


def _timed_out(error: OSError) -> bool:
    """Return whether it was our patience that ended, and not that of the network."""
    return isinstance(error, TimeoutError) and not error.errno


def _silent(server: Server) -> Fault:
    return Fault(
        f"{server} takes the connection, and does not answer within {PATIENCE:g} s",
        "see whether that server is stopped or overloaded, and that Redis or Valkey is what listens there",
    )


def _closed(server: Server, error: OSError) -> Fault:
    return Fault(f"{server} closes the connection ({error.strerror or error})", "see the log of that server")


# --- the way there -------------------------------------------------------------------------------------


async def _examine_way(address: Address, server: Server) -> None:
    """Raise what is wrong below the commands: the name, the port, TLS."""
    try:
        async with _connected(server, None):
            pass
    except (OSError, TimeoutError) as error:
        raise _nobody(server, error) from None
    if address.tls:
        await _examine_tls(address, server)
        return
    try:
        async with _connected(server, None) as line:
            await line.ask("PING")
    except (OSError, TimeoutError, hiredis.ProtocolError):
        if await _speaks_tls(server):
            raise _Faulty(
                f"expected a server without TLS at {server}, got one that speaks TLS",
                "write rediss in place of redis in THREADLINE_REDIS_URL (docs/redis.md#tls)",
            ) from None
        raise


async def _examine_tls(address: Address, server: Server) -> None:
    try:
        async with _connected(server, address.tls_context) as line:
            await line.alert()
    except ssl.SSLCertVerificationError as error:
        raise _not_believed(server, error) from None
    except OSError as error:
        if await _speaks_plain(server):
            raise _Faulty(
                f"expected a server with TLS at {server}, got one without",
                "name its TLS port (`tls-port` in its configuration), or write redis in place of rediss in "
                "THREADLINE_REDIS_URL",
            ) from None
        if _timed_out(error):
            raise
        raise _not_taken(address, server, error) from None


def _nobody(server: Server, error: OSError | TimeoutError) -> _Faulty:
    if isinstance(error, socket.gaierror):
        return _Faulty(
            f"expected a host that is known, got {server.host!r}: {error.strerror}",
            "check the host in THREADLINE_REDIS_URL, and that this machine can look up names",
        )
    if isinstance(error, ConnectionRefusedError):
        return _Faulty(
            f"nothing listens at {server}", "start Redis there, or correct host and port in THREADLINE_REDIS_URL"
        )
    if _timed_out(error):
        return _Faulty(
            f"{server} did not answer within {PATIENCE:g} s",
            "check host and port, and whether a firewall or a NetworkPolicy is between",
        )
    return _Faulty(f"{server} cannot be reached: {error.strerror or error}", "check THREADLINE_REDIS_URL")


def _not_believed(server: Server, error: ssl.SSLCertVerificationError) -> _Faulty:
    if error.verify_code in _OTHER_NAME:
        return _Faulty(
            f"expected a certificate for {server.host}, got one for other names: {error.verify_message}",
            "name the server as its certificate does, or have one issued for this name",
        )
    text, advice = _NO_TRUST.get(
        error.verify_code, (f"one that is refused: {error.verify_message}", "have another certificate issued")
    )
    return _Faulty(f"expected a certificate of {server} that can be believed, got {text}", advice)


def _not_taken(address: Address, server: Server, error: OSError) -> _Faulty:
    reason = getattr(error, "reason", None) or ""
    if "ssl_certfile" not in address.tls_options:
        if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason or isinstance(error, ConnectionError):
            return _Faulty(f"{server} wants a certificate of clients, and none was shown", _SHOWS)
    elif "ALERT" in reason or isinstance(error, ConnectionError):
        return _Faulty(
            f"{server} does not take our certificate {address.tls_options['ssl_certfile']} ({reason or error})",
            "show one that is valid, of an authority that the server knows (its `tls-ca-cert-file`)",
        )
    return _Faulty(f"{server} does not speak TLS as we do ({reason or error})", "see the log of that server")


async def _speaks_tls(server: Server) -> bool:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent: only whether it answers in TLS
    try:
        async with _connected(server, context):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except (OSError, TimeoutError):
        return False


async def _speaks_plain(server: Server) -> bool:
    with suppress(OSError, TimeoutError, hiredis.ProtocolError):
        async with _connected(server, None) as line:
            await line.ask("PING")
            return True
    return False


# --- what it says --------------------------------------------------------------------------------------


async def _examine_login(address: Address, server: Server, line: _Line) -> None:
    """Raise what the server has against us."""
    sentinel = address.kind == "sentinel"
    login = address.sentinel_login if sentinel else address.login
    who = "sentinel_username and sentinel_password" if sentinel else "user and password"
    if login["password"]:
        user = (login["username"],) if login["username"] else ()
        answer = await line.ask("AUTH", *user, login["password"])
        if isinstance(answer, hiredis.ReplyError) and str(answer).startswith(("WRONGPASS", "ERR AUTH", "ERR invalid")):
            raise _Faulty(
                f"{server} does not take this user and password: {answer}",
                f"correct {who} in THREADLINE_REDIS_URL; special characters are written as %40",
            )
    answer = await line.ask("PING")
    if not isinstance(answer, hiredis.ReplyError):
        return
    said = str(answer)
    if said.startswith("NOAUTH"):
        raise _Faulty(f"{server} wants a user and a password, and got none", f"give {who} in THREADLINE_REDIS_URL")
    if said.startswith("NOPERM"):
        raise _Faulty(f"the user may not PING: {said}", "compare its rights with deploy/valkey/users.acl")
    if said.startswith("DENIED"):
        raise _Faulty(
            f"{server} is in protected mode, and lets in nobody from another machine",
            "give it users and passwords (deploy/valkey/users.acl is an example)",
        )
    if "max number of clients" in said:
        raise _Faulty(f"{server} has as many clients as it may", "raise `maxclients`, and its limit of open files")
    if said.startswith("MISCONF"):
        raise _Faulty(f"{server} takes no writes: {said}", "make room on its disk, or see there why it cannot write")
    raise _Faulty(f"{server} answers: {said}", "see its log; LOADING and MASTERDOWN pass by themselves")


async def _examine_primary(address: Address, server: Server, line: _Line) -> None:
    answer = await line.ask("SELECT", str(address.db))
    if isinstance(answer, hiredis.ReplyError) and "out of range" in str(answer):
        raise _Faulty(
            f"{server} has no database {address.db}",
            "write a lower number behind the port in THREADLINE_REDIS_URL, or raise `databases` there",
        )
    answer = await line.ask("INFO", "replication")  # unlike ROLE, every user of ours may ask that
    if isinstance(answer, bytes) and b"role:slave" in answer.splitlines():
        fields = dict(field.partition(":")[::2] for field in as_text(answer).splitlines())
        raise _Faulty(
            f"expected a primary at {server}, got a replica of {fields.get('master_host')}:"
            f"{fields.get('master_port')}, which takes no writes",
            "name the primary in THREADLINE_REDIS_URL, or its Sentinels with redis+sentinel://",
        )


async def _examine_sentinel(address: Address, server: Server, line: _Line) -> None:
    answer = await line.ask("SENTINEL", "MASTERS")
    if isinstance(answer, hiredis.ReplyError):
        if "unknown command" in str(answer):
            raise _Faulty(
                f"expected a Sentinel at {server}, got a server that holds data",
                "name the Sentinels (port 26379), or write redis:// for one server",
            )
        raise _Faulty(f"the Sentinel {server} answers: {answer}", "correct sentinel_username and sentinel_password")
    primaries = [dict(zip(pairs[::2], pairs[1::2], strict=False)) for pairs in answer]
    names = [as_text(primary[b"name"]) for primary in primaries]
    if address.service not in names:
        raise _Faulty(
            f"the Sentinel {server} watches over {', '.join(names) or 'nothing'}, not over {address.service!r}",
            "write the name behind the hosts of THREADLINE_REDIS_URL",
        )
    named = primaries[names.index(address.service)]
    primary = Server(as_text(named[b"ip"]), int(named[b"port"]))
    fault = await _examine(_of_one(address), primary)
    if fault is not None:
        raise _Faulty(f"the Sentinels name {primary} as the primary: {fault.text}", fault.advice)


def _of_one(address: Address) -> Address:
    return Address(
        "single",
        address.servers,
        address.tls,
        username=address.username,
        password=address.password,
        tls_options=address.tls_options,
    )


async def _examine_node(server: Server, line: _Line) -> None:
    answer = await line.ask("CLUSTER", "INFO")
    if isinstance(answer, hiredis.ReplyError):
        if "cluster support disabled" in str(answer):
            raise _Faulty(f"expected a node of a Cluster at {server}, got one server", "write redis:// in its place")
        raise _Faulty(f"{server} answers: {answer}", "compare the user's rights with deploy/valkey/users.acl")
    if b"cluster_state:ok" not in answer:
        raise _Faulty(
            f"the Cluster of {server} is down: slots have no primary, or most primaries are not heard",
            "see `CLUSTER INFO` and `CLUSTER NODES` there",
        )


# --- one connection ------------------------------------------------------------------------------------


class _Line:
    """One connection, on which one thing after the other is asked."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._replies = hiredis.Reader()

    async def ask(self, *command: str) -> Any:
        """Return the answer to one command.

        Raises:
            OSError, TimeoutError, hiredis.ProtocolError: when there is none, or none of Redis.
        """
        async with asyncio.timeout(PATIENCE):
            self._writer.write(hiredis.pack_command(command))  # type: ignore[arg-type]  # it takes text as well
            while (reply := self._replies.gets()) is False:
                data = await self._reader.read(65_536)
                if not data:
                    raise ConnectionResetError("closed without an answer")
                self._replies.feed(data)
            return reply

    async def alert(self) -> None:
        """Wait for a word against our certificate, and raise it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_ALERT):
                if not await self._reader.read(1):
                    raise ConnectionResetError("closed after the handshake")

    def encryption(self) -> Encryption:
        """Return how it is encrypted."""
        kept: ssl.SSLObject = self._writer.get_extra_info("ssl_object")
        end = (kept.getpeercert() or {}).get("notAfter")
        days = (ssl.cert_time_to_seconds(str(end)) - time.time()) / 86_400 if end else None
        return Encryption(kept.version() or "TLS", days)


@asynccontextmanager
async def _connected(server: Server, context: ssl.SSLContext | None) -> AsyncIterator[_Line]:
    async with asyncio.timeout(PATIENCE):
        if server.path:
            reader, writer = await asyncio.open_unix_connection(server.path)
        else:
            reader, writer = await asyncio.open_connection(server.host, server.port, ssl=context)
    try:
        yield _Line(reader, writer)
    finally:
        writer.transport.abort()
