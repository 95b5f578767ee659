"""Addresses: what a Redis URL says, for one server, for Sentinel, and for Cluster.

    redis://user:password@host:6379/0                                one server
    unix:///run/valkey.sock                                          one server, on this machine
    redis+sentinel://user:password@host-1:26379,host-2/mymaster/0    a primary that Sentinels watch over
    redis+cluster://user:password@host-1:6379,host-2                 a Cluster; any of its nodes will do

`rediss` in place of `redis` means TLS, to every server that is named or found. An option that means nothing is an
error: redis-py would take `decode_responses=True` from a URL, and every reply would be of another type.

A URL is split here and not by urllib: that one names the whole of what it cannot read in its errors, the password too.
Whatever stands in front of the last @ is in no message of ours, and what stands where a password could have slipped to
is not either.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal
from urllib.parse import unquote

from backplane.errors import Misconfigured
from backplane.tls import client_context

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
_LOOPBACK = frozenset({"localhost", "::1"})


@dataclass(frozen=True, slots=True)
class Server:
    """One server: a host and a port, or the path of a socket."""

    host: str
    port: int = _PORT
    path: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.path or f"{host}:{self.port}"

    @property
    def here(self) -> bool:
        """Whether what is sent there stays on this machine."""
        return bool(self.path) or self.host in _LOOPBACK or self.host.startswith("127.")


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
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls_options: Mapping[str, Any] = field(default_factory=dict)
    """ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_cert_reqs, ssl_check_hostname."""

    def __str__(self) -> str:
        """Return the URL without what must not be seen; what a log line or a report may show."""
        scheme = "unix" if self.servers[0].path else f"redis{'s' * self.tls}"
        if self.kind != "single":
            scheme += f"+{self.kind}"
        login = f"{self.username or ''}{':***' if self.password else ''}"
        hosts = ",".join(str(server) for server in self.servers)
        service = f"/{self.service}" if self.service else ""
        db = "" if self.kind == "cluster" else f"{'?db=' if self.servers[0].path else '/'}{self.db}"
        return f"{scheme}://{login + '@' if login else ''}{hosts}{service}{db}"

    @property
    def login(self) -> dict[str, Any]:
        """Who we are, as redis-py is told."""
        return {"username": self.username, "password": self.password}

    @property
    def sentinel_login(self) -> dict[str, Any]:
        """The same for the Sentinels, which have users of their own."""
        return {"username": self.sentinel_username, "password": self.sentinel_password}

    @cached_property
    def tls_context(self) -> ssl.SSLContext | None:
        """What every connection of ours is encrypted with; None without TLS.

        Raises:
            Misconfigured: naming the file that cannot be read.
        """
        return client_context(self.tls_options) if self.tls else None


def _yes_or_no(text: str) -> bool:
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]


def _one_of_required(text: str) -> str:
    if text not in {"none", "optional", "required"}:
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
_PARTS = re.compile(r"(?P<netloc>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?P<fragment>#.*)?", re.DOTALL)


def parse(url: str) -> Address:
    """Return what a URL says.

    Raises:
        Misconfigured: naming the part that is wrong; never the password.
    """
    scheme, given, rest = url.strip().partition("://")
    if not given or scheme not in _KINDS:
        known = scheme if given and re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) else "none"
        raise _wrong(f"a scheme of {', '.join(_KINDS)}", known)
    kind, tls = _KINDS[scheme]
    parts = _split(rest)
    login, _, hosts = parts["netloc"].rpartition("@")
    username, _, password = login.partition(":")
    options = _options(parts["query"])
    _check_tls(tls, options)
    path = [unquote(part) for part in parts["path"].split("/")[1:] if part]
    if scheme == "unix":
        servers: tuple[Server, ...] = (Server("", 0, unquote(parts["path"])),)
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
        raise _wrong("nothing behind the database, and on a Cluster no database but 0", "more")
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


def _split(rest: str) -> dict[str, str]:
    """Return netloc, path and query of what stands behind the scheme."""
    found = _PARTS.fullmatch(rest)
    assert found is not None  # it matches any text
    parts = {name: text or "" for name, text in found.groupdict().items()}
    if parts["fragment"] or "@" in parts["path"] + parts["query"]:
        raise _wrong(
            "the characters / ? # @ : and % of a user or password written as %2F %3F %23 %40 %3A and %25",
            "a # or an @ behind the hosts",
        )
    return parts


def _options(query: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for option in query.split("&") if query else ():
        name, _, text = option.partition("=")
        if name not in _OPTIONS:
            raise _wrong(f"options of {', '.join(_OPTIONS)}", name)
        try:
            found[name] = _OPTIONS[name](unquote(text))
        except (KeyError, ValueError):
            raise _wrong(f"a value that {name} takes", "another") from None
    return found


def _check_tls(tls: bool, options: Mapping[str, Any]) -> None:
    if not tls and (given := [name for name in options if name.startswith("ssl_")]):
        raise _wrong(f"rediss:// in front of {given[0]}: without TLS it does nothing", "redis://")
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise _wrong("ssl_certfile beside ssl_keyfile: a key proves nothing without its certificate", "the key alone")


def _server(text: str, port: int) -> Server:
    host, colon, after = text.rpartition(":")
    if text.endswith("]") or not colon:  # an IPv6 address, or a name, without a port
        host, after = text, str(port)
    return Server(host.strip("[]") or "localhost", _number(after, "a number as port"))


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise _wrong(what, "something else")  # of a password with a / in it, this is the beginning
    return int(text)


def _wrong(expected: str, got: str) -> Misconfigured:
    return Misconfigured(
        f"THREADLINE_REDIS_URL: expected {expected}, got {got}; docs/redis.md shows a URL of each kind"
    )
