"""What a worker answers over HTTP where `metrics_port` is set: its metrics, and whether its event loop goes on.

    /healthz    200 while the event loop goes on, else 503 with the line that blocks it
    /metrics    for Prometheus; every other path answers the same

It is served by a thread, not by the loop: so a worker whose loop is blocked still says so, and where.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client.exposition import ThreadingWSGIServer, make_wsgi_app

from backplane.errors import Misconfigured
from backplane.settings import Settings
from worker.metrics import Metrics

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


@contextmanager
def serving(metrics: Metrics, trouble: Callable[[], str | None], settings: Settings) -> Iterator[None]:
    """Serve on `metrics_port` of `host` for the length of this block, unless it is 0.

    Args:
        metrics: what is told at /metrics.
        trouble: returns what is wrong, None when nothing is; called on threads of the server.
        settings: `metrics_port` and `host` are read.

    Raises:
        Misconfigured: when the port is taken.
    """
    if not settings.metrics_port:
        yield
        return
    try:
        server = _listening(settings.host, settings.metrics_port, _app(metrics, trouble))
    except OSError as error:
        raise Misconfigured(
            f"THREADLINE_METRICS_PORT: expected a free port, got {settings.metrics_port}, which cannot be listened on "
            f"({error.strerror}); give each worker of a machine its own"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="http", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _app(metrics: Metrics, trouble: Callable[[], str | None]) -> WSGIApplication:
    told = make_wsgi_app(metrics.registry)

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/healthz":
            return told(environ, start)  # type: ignore[no-any-return]  # the library says nothing of it
        wrong = trouble()
        start("503 Service Unavailable" if wrong else "200 OK", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{wrong or 'ok'}\n".encode()]

    return answer


class _Silent(WSGIRequestHandler):
    """Writes no line for each request."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
        """Say nothing."""


def _listening(host: str, port: int, app: WSGIApplication) -> ThreadingWSGIServer:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]

    class Server(ThreadingWSGIServer):
        """A server of the address's family."""

        address_family = family

    return make_server(str(address[0]), port, app, Server, handler_class=_Silent)
