"""A client's address is what a proxy of ours says, and nothing that the client wrote."""

from __future__ import annotations

import pytest

from backplane.errors import Misconfigured
from backplane.settings import Settings
from gateway.addresses import Addresses, group, is_own

PROXIES = ("10.0.0.0/8", "::1")


def of(peer: str | None, *forwarded: str, trusted: tuple[str, ...] = PROXIES) -> str:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    scope = {"client": (peer, 1234) if peer else None, "headers": headers}
    return Addresses(Settings(trusted_proxies=trusted)).of(scope)


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.9", (), "203.0.113.9"),
        ("203.0.113.9", ("198.51.100.1",), "203.0.113.9"),
        ("10.1.1.1", (), "10.1.1.1"),
        ("10.1.1.1", ("198.51.100.1",), "198.51.100.1"),
        ("10.1.1.1", ("1.2.3.4, 198.51.100.1",), "198.51.100.1"),
        ("10.1.1.1", ("1.2.3.4", "198.51.100.1, 10.2.2.2"), "198.51.100.1"),
        ("10.1.1.1", ("10.3.3.3, 10.2.2.2",), "10.3.3.3"),
        ("10.1.1.1", ("198.51.100.1, nonsense",), "10.1.1.1"),
        ("10.1.1.1", ("1.2.3.4, , 10.2.2.2",), "10.2.2.2"),
        ("10.1.1.1", ("198.51.100.1:4711",), "198.51.100.1"),
        ("::1", ("[2001:db8::5]:4711",), "2001:db8::5"),
        ("::ffff:10.1.1.1", ("198.51.100.1",), "198.51.100.1"),
        ("fe80::1%eth0", (), "fe80::1"),
        (None, ("198.51.100.1",), ""),
    ],
)
def test_the_first_address_from_the_right_that_is_no_proxy_of_ours_counts(
    peer: str | None, forwarded: tuple[str, ...], expected: str
) -> None:
    assert of(peer, *forwarded) == expected


def test_without_trusted_proxies_the_header_is_not_read_not_even_from_this_machine() -> None:
    assert of("127.0.0.1", "198.51.100.1", trusted=()) == "127.0.0.1"


def test_a_header_of_any_length_is_read_from_its_end() -> None:
    assert of("10.1.1.1", "1.2.3.4," * 50_000 + "198.51.100.1") == "198.51.100.1"


def test_what_is_no_network_stops_the_start() -> None:
    with pytest.raises(Misconfigured, match="TRUSTED_PROXIES"):
        Addresses(Settings(trusted_proxies=("10.0.0.1/8",)))


def test_an_ipv6_address_counts_for_its_network_and_an_ipv4_address_for_itself() -> None:
    assert group("2001:db8:1:2:3::4") == group("2001:db8:1:2:ffff::1") != group("2001:db8:1:3::4")
    assert group("203.0.113.9") == "203.0.113.9"


def test_this_machine_is_known_in_each_of_its_forms() -> None:
    assert all(is_own(address) for address in ("127.0.0.1", "127.8.8.8", "::1", ""))
    assert not is_own("10.0.0.1")
