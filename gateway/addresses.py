"""Where a request comes from, as far as that can be believed.

A proxy's own address says nothing of its clients, and what stands in `X-Forwarded-For` was written by whoever sent the
request, up to the part that a proxy of ours appended. So the header is read from the right, for as long as a proxy of
`trusted_proxies` wrote it: the first address that is none of theirs is the client's.
"""

from __future__ import annotations

import ipaddress

from starlette.types import Scope

from backplane.errors import Misconfigured
from backplane.settings import Settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

ADDRESS = "threadline.address"
"""The key of an ASGI scope under which the client's address stands, as text; empty when it is not known."""
_MOST = 64
"""Entries of the header that are read; no chain of our own proxies is longer."""
_SITE = 64
"""Bits of an IPv6 address that one customer is given at the least (RFC 6177)."""


class Addresses:
    """Finds the addresses of clients.

    Args:
        settings: `trusted_proxies` is read.

    Raises:
        Misconfigured: when it names something else than addresses and networks.
    """

    def __init__(self, settings: Settings) -> None:
        self._trusted = [_network(text) for text in settings.trusted_proxies]

    def of(self, scope: Scope) -> str:
        """Return the address that a request comes from; empty when it cannot be told (a Unix socket)."""
        peer = scope.get("client")
        address = _read(str(peer[0])) if peer else None
        if address is None or not self._trusts(address):
            return "" if address is None else str(address)
        for text in reversed(_forwarded(scope)):
            further = _read(text)
            if further is None:  # nobody of ours wrote that; the last one whom we know is where it ends
                break
            address = further
            if not self._trusts(address):
                break
        return str(address)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def group(address: str) -> str:
    """Return whom an address counts for: an IPv6 address for its network, because a customer is given all of it."""
    read = _read(address)
    if isinstance(read, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((read, _SITE), strict=False))
    return address


def is_own(address: str) -> bool:
    """Tell whether an address is this machine's own, or is not known: nobody else's programs call from there."""
    read = _read(address)
    return read is None or read.is_loopback


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise Misconfigured(
            f"THREADLINE_TRUSTED_PROXIES: expected addresses and networks such as 10.0.0.0/8, got {text!r}; "
            "give the first address of the network, and its length"
        ) from None


def _forwarded(scope: Scope) -> list[str]:
    values = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
    return b",".join(values).decode("latin-1").rsplit(",", _MOST)[-_MOST:] if values else []


def _read(text: str) -> Address | None:
    """Return an address that is written with or without a port; None for what is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:  # how a socket for both kinds names an IPv4 peer
            return address.ipv4_mapped
        if address.scope_id is not None:
            return ipaddress.IPv6Address(int(address))
    return address
