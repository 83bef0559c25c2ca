"""A link to a TCP server that holds everything back for a while, or loses it without a word."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class SlowLink:
    """Forwards connections to a port of this machine.

    `seconds` is how long each piece takes. While `loses` is set, what comes is dropped and nobody
    is told; a connection that has lost something never carries anything again.
    """

    def __init__(self, port: int) -> None:
        self.seconds = 0.0
        self.loses = False
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open += [near, far]
                dead = threading.Event()
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(*ends, dead), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, dead: threading.Event) -> None:
        with suppress(OSError):
            while piece := source.recv(1 << 16):
                if self.loses:
                    dead.set()
                if not dead.is_set():
                    time.sleep(self.seconds)
                    sink.sendall(piece)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@contextmanager
def slow_link(port: int) -> Iterator[SlowLink]:
    link = SlowLink(port)
    try:
        yield link
    finally:
        link.close()
