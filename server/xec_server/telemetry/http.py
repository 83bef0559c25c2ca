"""The page that Prometheus reads: GET /metrics and GET /healthz, in threads of their own.

Few connections at a time, each for a short time: whoever holds them all blocks nothing but this.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from xec.errors import ServiceError
from xec_server.address import Address

MOST_CONNECTIONS: Final = 8
LONGEST_SECONDS: Final = 10.0
_IDLE_SECONDS: Final = 3.0


class _Handler(BaseHTTPRequestHandler):
    server: _HttpServer
    timeout: ClassVar[float] = _IDLE_SECONDS  # between two pieces of a request
    server_version = "xec"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer one of two paths."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            self._send(HTTPStatus.OK, encode(self.server.registry), kind)
        elif path == "/healthz":
            serving = self.server.is_serving()
            status = HTTPStatus.OK if serving else HTTPStatus.SERVICE_UNAVAILABLE
            self._send(status, b"serving\n" if serving else b"not serving\n")
        else:
            self._send(HTTPStatus.NOT_FOUND, b"There are /metrics and /healthz.\n")

    def _send(self, status: HTTPStatus, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base's name)
        """Nothing: what a stranger asks for is no news."""


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 4 * MOST_CONNECTIONS
    block_on_close = False
    allow_reuse_address = True

    def __init__(
        self, address: Address, registry: CollectorRegistry, is_serving: Callable[[], bool]
    ) -> None:
        if ":" in address.host:
            self.address_family = socket.AF_INET6
        self.registry = registry
        self.is_serving = is_serving
        self._room = threading.Semaphore(MOST_CONNECTIONS)
        super().__init__((address.host, address.port), _Handler)

    def server_bind(self) -> None:
        """Bind, without asking the name service who this machine is."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve in a thread, if there is room."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve, and not for longer than is decent."""
        timer = threading.Timer(LONGEST_SECONDS, _cut, (request,))
        timer.daemon = True
        timer.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            timer.cancel()
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a connection that broke is no news."""


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):  # it has ended meanwhile
        connection.shutdown(socket.SHUT_RDWR)


class MetricsPage:
    """Serves a registry until it is closed.

    Args:
        wanted: where to listen; port 0 lets the system choose one.
        registry: what to show.
        is_serving: what /healthz says.

    Raises:
        ServiceError: nothing can listen there.
    """

    def __init__(
        self, wanted: Address, registry: CollectorRegistry, is_serving: Callable[[], bool]
    ) -> None:
        try:
            self._server = _HttpServer(wanted, registry, is_serving)
        except OSError as error:
            raise ServiceError(
                f"Nothing can listen on {wanted} for metrics: is the port in use, or the host of "
                "another machine? Choose another one with --metrics."
            ) from error
        self.address = Address(wanted.host, self._server.server_port)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="xec-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
