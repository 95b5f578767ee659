"""Addresses: what a Redis URL says, for one server, for Sentinel, and for Cluster.

    redis://user:password@host:6379/0                                one server
    unix:///run/valkey.sock                                          one server, on this machine
    redis+sentinel://user:password@host-1:26379,host-2/mymaster/0    a primary that Sentinels watch over
    redis+cluster://user:password@host-1:6379,host-2                 a Cluster; any of its nodes will do

`rediss` in place of `redis` means TLS, to every server that is named or found. An option that means nothing is an
error: redis-py would take `decode_responses=True` from a URL, and every reply would be of another type.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from backplane.errors import Misconfigured

Kind = Literal["single", "sentinel", "cluster"]
_KINDS: Mapping[str, tuple[Kind, bool]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "unix": ("single", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_PORT, _SENTINEL_PORT = 6379, 26379


@dataclass(frozen=True, slots=True)
class Server:
    """One server: a host and a port, or the path of a socket."""

    host: str
    port: int = _PORT
    path: str = ""

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Address:
    """Where the data is, and how to get in."""

    kind: Kind
    servers: tuple[Server, ...]
    """The one server, the Sentinels, or some nodes of the Cluster."""
    tls: bool = False
    service: str = ""
    """What the Sentinels call the primary."""
    db: int = 0
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    tls_options: Mapping[str, Any] = field(default_factory=dict)
    """ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_cert_reqs, ssl_check_hostname: as redis-py names them."""

    @property
    def login(self) -> dict[str, Any]:
        """What redis-py is told beside host and port."""
        given: dict[str, Any] = {"username": self.username, "password": self.password}
        return given | ({"ssl": True, **self.tls_options} if self.tls else {})

    @property
    def sentinel_login(self) -> dict[str, Any]:
        """The same for the Sentinels, which have users of their own."""
        return self.login | {"username": self.sentinel_username, "password": self.sentinel_password}

    @cached_property
    def tls_context(self) -> ssl.SSLContext | None:
        """What asyncio is told for a connection of ours; None without TLS."""
        if not self.tls:
            return None
        options = self.tls_options
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
        required = options.get("ssl_cert_reqs", "required")
        context.check_hostname = options.get("ssl_check_hostname", True) and required != "none"
        context.verify_mode = _REQUIRED[required]
        return context


_REQUIRED = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


def _yes_or_no(text: str) -> bool:
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]


def _one_of_required(text: str) -> str:
    if text not in _REQUIRED:
        raise KeyError(text)
    return text


_OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "db": int,
    "sentinel_username": str,
    "sentinel_password": str,
    "ssl_ca_certs": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_cert_reqs": _one_of_required,
    "ssl_check_hostname": _yes_or_no,
}


def parse(url: str) -> Address:
    """Return what a URL says.

    Raises:
        Misconfigured: naming the part that is wrong; never the password.
    """
    parts = urlsplit(url)
    if parts.scheme not in _KINDS:
        raise _wrong(f"a scheme of {', '.join(_KINDS)}", parts.scheme or "none")
    kind, tls = _KINDS[parts.scheme]
    login, _, hosts = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    options = _options(parts)
    path = [unquote(part) for part in parts.path.split("/")[1:] if part]
    if parts.scheme == "unix":
        servers: tuple[Server, ...] = (Server("", 0, unquote(parts.path)),)
        path = []
    else:
        port = _SENTINEL_PORT if kind == "sentinel" else _PORT
        servers = tuple(_server(host, port) for host in (hosts or "localhost").split(","))
    service = path.pop(0) if kind == "sentinel" and path else ""
    if kind == "sentinel" and not service:
        raise _wrong("the name of the primary behind the Sentinels, such as /mymaster", "none")
    if kind == "single" and len(servers) > 1:
        raise _wrong("one host, or redis+sentinel:// or redis+cluster:// for several", f"{len(servers)} hosts")
    db = options.pop("db", None) if not path else _number(path.pop(0), "a number of a database")
    if path or (kind == "cluster" and db):
        raise _wrong("nothing behind the database, and on a Cluster no database but 0", parts.path)
    return Address(
        kind,
        servers,
        tls,
        service,
        db or 0,
        unquote(username) or None,
        unquote(password) or None,
        options.pop("sentinel_username", None),
        options.pop("sentinel_password", None),
        options,
    )


def _options(parts: SplitResult) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise _wrong(f"options of {', '.join(_OPTIONS)}", name)
        try:
            found[name] = _OPTIONS[name](text)
        except (KeyError, ValueError):
            raise _wrong(f"a value that {name} takes", "another") from None
    return found


def _server(text: str, port: int) -> Server:
    host, colon, after = text.rpartition(":")
    if text.endswith("]") or not colon:  # an IPv6 address, or a name, without a port
        host, after = text, str(port)
    return Server(host.strip("[]") or "localhost", _number(after, "a port"))


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise _wrong(what, text)
    return int(text)


def _wrong(expected: str, got: str) -> Misconfigured:
    return Misconfigured(
        f"THREADLINE_REDIS_URL: expected {expected}, got {got}; docs/redis.md shows a URL of each kind"
    )
