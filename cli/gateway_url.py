"""The URL of a gateway, as a person gives it: refused before anything is asked of it."""

from __future__ import annotations

from urllib.parse import urlsplit

from backplane.errors import Misconfigured


def check(url: str) -> None:
    """Refuse what is no URL of a gateway.

    The libraries that connect take some of it for one, and then each fails in its own way, or never ends trying.

    Raises:
        Misconfigured: naming it, and how one looks.
    """
    if _is_one(url.strip()):
        return
    raise Misconfigured(
        f"gateway URL: expected one such as http://127.0.0.1:8080, got {url!r}; give it with --url or THREADLINE_URL"
    )


def _is_one(url: str) -> bool:
    if not url.startswith(("http://", "https://")) or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, or half of an IPv6 address
        return False
