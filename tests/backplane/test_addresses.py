"""What a Redis URL says."""

from __future__ import annotations

import ssl
from urllib.parse import quote

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
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
        ("redis://h?ssl_ca_certs=a.pem", "rediss"),
        ("rediss://h?ssl_keyfile=a.key", "ssl_certfile"),
        ("h:6379", "scheme"),
    ],
)
def test_what_means_nothing_is_refused_and_named(url: str, names: str) -> None:
    with pytest.raises(Misconfigured, match="THREADLINE_REDIS_URL") as caught:
        parse(url)
    assert names in caught.value.message


def test_special_characters_of_user_and_password_are_percent_encoded() -> None:
    word = "p@s:s/w?o#r%d &é\u2100[]+"
    found = parse(f"rediss://{quote('a:b', safe='')}:{quote(word, safe='')}@h:7000/1")
    assert (found.username, found.password, found.servers, found.db) == ("a:b", word, (Server("h", 7000),), 1)
    found = parse(f"redis+sentinel://h/main?sentinel_password={quote(word, safe='')}&sentinel_username=a+b")
    assert (found.sentinel_password, found.sentinel_username) == (word, "a+b")


def test_what_only_a_strict_reader_would_mind_is_taken() -> None:
    """An @, a colon or a bracket in a password is clear, for the hosts begin behind the last @."""
    for word in ("p@ss", "pa:ss", "pa[ss", "pa]ss", "50%", "a+b", "\u2100"):
        assert parse(f"redis://user:{word}@h:7000").password == word
    assert parse(" redis://h\n").servers == (Server("h", 6379),)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hidden@h/x",
        "redis://user:hidden@h:port",
        "redis://user:hidden@h?nothing=1",
        "redis://user:hidden/word@h:6379/0",
        "redis://user:hidden?word@h:6379/0",
        "redis://user:hidden#word@h:6379/0",
        "redis://:hidden/word@h",
        "redis://user:hidden:word/@h",
        "redis://user:hidden",
        "user:hidden@h",
        "http://user:hidden@h",
        "redis+sentinel://h/main?sentinel_password=hidden&db=hidden",
        "redis+sentinel://h?sentinel_password=hidden",
        "redis+sentinel://h/main?sentinel_password=hid@hidden",
        "redis+cluster://user:hidden@h/3",
    ],
)
def test_a_refusal_never_shows_the_password(url: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        parse(url)
    assert "hidden" not in str(caught.value)
    assert "word" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:hidden@h:1/0", "redis://u:***@h:1/0"),
        ("redis://:hidden@h:1/2", "redis://:***@h:1/2"),
        ("redis://h:1/0", "redis://h:1/0"),
        ("rediss://u:hidden@[::1]:7?ssl_cert_reqs=none", "rediss://u:***@[::1]:7/0"),
        ("unix://u:hidden@/run/valkey.sock", "unix://u:***@/run/valkey.sock?db=0"),
        (
            "rediss+sentinel://u:hidden@a,b:2/main/0?sentinel_username=s&sentinel_password=hidden",
            "rediss+sentinel://u:***@a:26379,b:2/main/0",
        ),
        ("redis+cluster://u:hidden@a", "redis+cluster://u:***@a:6379"),
    ],
)
def test_an_address_is_shown_without_its_passwords(url: str, shown: str) -> None:
    assert str(parse(url)) == shown
    assert "hidden" not in repr(parse(url))


def test_what_stays_on_this_machine_is_known() -> None:
    here = ["redis://localhost", "redis://127.0.0.1", "redis://127.0.1.1", "redis://[::1]", "unix:///run/valkey.sock"]
    assert all(parse(url).servers[0].here for url in here)
    assert not any(parse(url).servers[0].here for url in ("redis://10.0.0.1", "redis://h"))
