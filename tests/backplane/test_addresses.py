"""What a Redis URL says."""

from __future__ import annotations

import ssl

import pytest

from backplane.addresses import Server, parse
from backplane.errors import Misconfigured


def test_one_server() -> None:
    plain = parse("redis://host:7000/3")
    assert (plain.kind, plain.servers, plain.db, plain.tls) == ("single", (Server("host", 7000),), 3, False)
    assert parse("redis://").servers == (Server("localhost", 6379),)
    assert parse("redis://[::1]:7000").servers == (Server("::1", 7000),)
    assert parse("redis://[::1]").servers == (Server("::1", 6379),)
    assert parse("redis://h?db=2").db == 2


def test_a_socket_of_this_machine() -> None:
    found = parse("unix://user:word@/run/valkey.sock?db=1")
    assert (found.servers[0].path, found.db, found.username, found.password) == ("/run/valkey.sock", 1, "user", "word")


def test_sentinels_with_users_of_their_own() -> None:
    found = parse("redis+sentinel://app:p%40ss@a,b:26380/main/2?sentinel_username=s&sentinel_password=t")
    assert (found.kind, found.service, found.db) == ("sentinel", "main", 2)
    assert found.servers == (Server("a", 26379), Server("b", 26380))
    assert found.login == {"username": "app", "password": "p@ss"}
    assert found.sentinel_login == {"username": "s", "password": "t"}


def test_a_cluster_over_tls() -> None:
    found = parse("rediss+cluster://:word@a,b:7001?ssl_cert_reqs=none&ssl_check_hostname=no")
    assert (found.kind, found.tls, found.servers) == ("cluster", True, (Server("a", 6379), Server("b", 7001)))
    assert found.login["ssl"] is True
    context = found.tls_context
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


def test_tls_checks_certificates_unless_told_otherwise() -> None:
    context = parse("rediss://h").tls_context
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert parse("redis://h").tls_context is None


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("http://h", "redis+sentinel"),
        ("redis://a,b", "redis+cluster"),
        ("redis+sentinel://a", "/mymaster"),
        ("redis+cluster://a/1", "database"),
        ("redis://h/x", "database"),
        ("redis://h:x", "port"),
        ("redis://h/0/1", "database"),
        ("redis://h?decode_responses=True", "decode_responses"),
        ("redis://h?protocol=3", "protocol"),
        ("redis://h?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
    ],
)
def test_what_means_nothing_is_refused_and_named(url: str, names: str) -> None:
    with pytest.raises(Misconfigured, match="THREADLINE_REDIS_URL") as caught:
        parse(url)
    assert names in caught.value.message


def test_a_refusal_never_shows_the_password() -> None:
    with pytest.raises(Misconfigured) as caught:
        parse("redis://user:hidden@h/x")
    assert "hidden" not in str(caught.value)
