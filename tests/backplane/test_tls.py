"""What our side of an encrypted connection believes, and what is said of files that cannot be read."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from backplane.connection import open_servers
from backplane.errors import Misconfigured
from backplane.tls import client_context
from tests.servers.certificates import Authority

SECRET = "hidden-word"


@pytest.mark.parametrize("scheme", ["rediss://h", "rediss+sentinel://h/main"])
async def test_only_the_authority_that_is_named_is_believed(tmp_path: Path, scheme: str) -> None:
    """redis-py alone would believe those of the system as well."""
    authority = Authority(tmp_path)
    servers = open_servers(f"{scheme}?ssl_ca_certs={authority.file}")
    client = servers.client(0)
    connection: Any = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    context: ssl.SSLContext = connection.ssl_context.get()
    assert servers.address.tls_context is context
    assert len(context.get_ca_certs()) == 1
    await client.aclose()
    await servers.aclose()


@pytest.mark.parametrize(
    ("system", "spoken"),
    [("MINIMUM_SUPPORTED", "TLSv1_2"), ("TLSv1_2", "TLSv1_2"), ("TLSv1_3", "TLSv1_3")],
)
def test_nothing_older_than_tls_1_2_is_spoken(monkeypatch: pytest.MonkeyPatch, system: str, spoken: str) -> None:
    """Some Pythons leave it to the system, which may allow older ones, or ask for a newer one."""
    create = ssl.create_default_context

    def of_that_system(**given: Any) -> ssl.SSLContext:
        context = create(**given)
        context.minimum_version = ssl.TLSVersion[system]
        return context

    monkeypatch.setattr(ssl, "create_default_context", of_that_system)
    assert client_context({}).minimum_version is ssl.TLSVersion[spoken]


async def test_sentinels_are_asked_with_it_too(tmp_path: Path) -> None:
    servers: Any = open_servers(f"rediss+sentinel://a,b/main?ssl_ca_certs={Authority(tmp_path).file}")
    for sentinel in servers._sentinels.sentinels:
        assert sentinel.connection_pool.make_connection().ssl_context.get() is servers.address.tls_context
    await servers.aclose()


@pytest.mark.parametrize("name", ["ssl_ca_certs", "ssl_certfile"])
def test_a_file_that_is_not_there_or_no_certificate_stops_the_start(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for file in ("absent.pem", "empty.pem"):
        with pytest.raises(Misconfigured, match=name) as caught:
            open_servers(f"rediss://u:{SECRET}@h?{name}={tmp_path / file}")
        assert file in caught.value.message
        assert SECRET not in caught.value.message


def test_a_certificate_and_the_key_of_another_stop_the_start(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = f"ssl_certfile={authority.client.certificate}&ssl_keyfile={authority.server.key}"
    with pytest.raises(Misconfigured, match="belong together"):
        open_servers(f"rediss://h?{files}")
