"""Exit with 0 when this container's gateway or worker lives; Python's own library only, for the image has no curl."""

from __future__ import annotations

import os
import sys
import urllib.request

_OK = 200


def main() -> int:
    """Ask it on loopback, past any proxy of the environment; a worker where it serves metrics.

    A gateway whose event loop is blocked does not answer in time, a worker answers 503.
    """
    metrics = os.environ.get("THREADLINE_METRICS_PORT", "0")
    port = metrics if metrics != "0" else os.environ.get("THREADLINE_PORT", "8080")
    url = f"http://127.0.0.1:{port}/healthz"
    asker = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with asker.open(url, timeout=2) as answer:
            return 0 if answer.status == _OK else 1
    except OSError as error:
        print(f"expected {url} to answer, got {error}; see the log of this container", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
