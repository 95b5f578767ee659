"""TLS: how connections to Redis are encrypted, and whose certificates are believed.

One context for all connections of a process, those of redis-py and our own: redis-py would read the authorities anew
for each connection, and believe those of the system beside the one that was named.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import SentinelManagedSSLConnection

from backplane.errors import Misconfigured

_REQUIRED = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


def client_context(options: Mapping[str, Any]) -> ssl.SSLContext:
    """Return what our side of a connection does: TLS 1.2 or newer, certificate and host checked unless told not to.

    Args:
        options: ssl_ca_certs (whose certificates are believed; those of the system without it), ssl_certfile and
            ssl_keyfile (ours), ssl_cert_reqs, ssl_check_hostname.

    Raises:
        Misconfigured: naming the file that cannot be read.
    """
    authorities = options.get("ssl_ca_certs")
    try:
        context = ssl.create_default_context(cafile=authorities)
    except OSError as error:
        raise _unreadable("ssl_ca_certs", "certificates of authorities", authorities, error) from None
    # Debian's Python leaves this to the system's OpenSSL, which may allow any
    context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
    if "ssl_certfile" in options:
        _show(context, options["ssl_certfile"], options.get("ssl_keyfile"))
    required = options.get("ssl_cert_reqs", "required")
    context.check_hostname = options.get("ssl_check_hostname", True) and required != "none"
    context.verify_mode = _REQUIRED[required]
    return context


def _show(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    try:
        # without an answer to give, OpenSSL would ask for the passphrase of a key on the terminal, and wait
        context.load_cert_chain(certificate, key, password=lambda: "")
    except OSError as error:
        names = "ssl_certfile" if key is None else "ssl_certfile and ssl_keyfile"
        what = "a certificate and its key, without a passphrase,"
        raise _unreadable(names, what, certificate if key is None else f"{certificate} and {key}", error) from None


def _unreadable(names: str, what: str, got: str | None, error: OSError) -> Misconfigured:
    why = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    return Misconfigured(
        f"THREADLINE_REDIS_URL: expected {what} as PEM in the files of {names}, got {got}: {why or error}; "
        "see that the files are there, that this user may read them, and that they belong together"
    )


class TlsConnection(SSLConnection):
    """A connection of redis-py with a context of ours."""

    def __init__(self, *, tls: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context.context = tls


class WatchedTlsConnection(SentinelManagedSSLConnection):
    """The same, to the primary that Sentinels name."""

    def __init__(self, *, tls: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]  # redis-py's has no types
        self.ssl_context.context = tls
