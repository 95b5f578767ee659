"""What is taken for the URL of a gateway."""

from __future__ import annotations

import pytest

from backplane.errors import Misconfigured
from cli import gateway_url


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080", "https://chat.example.com/", " http://[::1]:8080/threadline ", "http://gateway"]
)
def test_a_url_of_a_gateway_is_taken(url: str) -> None:
    gateway_url.check(url)


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8080",
        "http://",
        "http://:8080",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:0",
        "http://127.0.0.1:x",
        "http://[::1",
        "http://a b",
        "http://\x1b[31mred",
        "redis://127.0.0.1:6379",
    ],
)
def test_what_is_none_is_named_without_steering_the_terminal(url: str) -> None:
    with pytest.raises(
        Misconfigured, match=r"expected one such as http://127\.0\.0\.1:8080, got '.*THREADLINE_URL"
    ) as got:
        gateway_url.check(url)
    assert got.value.message.isprintable()
