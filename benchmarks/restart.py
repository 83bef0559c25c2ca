"""How long one server may be away behind the retries of its clients.

Run: python benchmarks/restart.py [--trials N]

A server is stopped and started again at its address after a gap, while a client calls it one event
at a time. For each gap and each retry policy: the share of gaps in which no call failed. With a
second server in the client's list no gap matters; this is about those that have one only.
"""

from __future__ import annotations

import argparse
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import numpy as np

from xec.detector.channels import N_CHANNELS
from xec.event import Event
from xec.wire.v1 import reconstruction_pb2 as pb
from xec.wire.v1 import reconstruction_pb2_grpc as pb_grpc
from xec_client import Client, RetryPolicy
from xec_client.errors import ClientError

GAPS = (0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0)
POLICIES = {
    "default": (RetryPolicy(), 10.0),
    "attempts=8": (RetryPolicy(attempts=8), 30.0),
}
_ESTIMATES = {"energy": 1, "gamma_time": 1, "uvw": 3, "angle": 2}


class Answers(pb_grpc.ReconstructionServicer):
    """Answers with zeros: this measures connections, not models."""

    def Reconstruct(self, request: Any, context: Any) -> Any:  # noqa: D102, N802
        del context
        response = pb.ReconstructResponse(run=request.event.run, event=request.event.event)
        for name, width in _ESTIMATES.items():
            for part in ("mean", "sigma", "low", "high"):
                getattr(getattr(response, name), part).extend([1.0] * width)
        return response


def started(port: int) -> grpc.Server:
    """A server at that port."""
    server = grpc.server(ThreadPoolExecutor(4), options=(("grpc.so_reuseport", 0),))
    pb_grpc.add_ReconstructionServicer_to_server(Answers(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server


def free_port() -> int:
    """One that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Caller:
    """A client that calls without a pause, and notes its failures."""

    def __init__(self, port: int, retry: RetryPolicy, timeout: float) -> None:
        valid = np.ones(N_CHANNELS, dtype=np.bool_)
        values = np.ones(N_CHANNELS, dtype=np.float32)
        self._event = Event(1, 1, values, values, valid, valid)
        self._client = Client(f"127.0.0.1:{port}", retry=retry, timeout=timeout)
        self.answered = 0
        self.failed = 0
        self._ended = False
        self._thread = threading.Thread(target=self._call)
        self._thread.start()

    def _call(self) -> None:
        with self._client as client:
            while not self._ended:
                try:
                    client.reconstruct(self._event, ())
                    self.answered += 1
                except ClientError:
                    self.failed += 1
                time.sleep(0.005)

    def has_answers(self) -> None:
        """Wait for one more."""
        before = self.answered
        while self.answered == before:
            time.sleep(0.005)

    def end(self) -> None:
        """Call no more."""
        self._ended = True
        self._thread.join()


def survived(gap: float, retry: RetryPolicy, timeout: float, trials: int) -> int:
    """Gaps of that length in which no call failed."""
    port = free_port()
    server = started(port)
    caller = Caller(port, retry, timeout)
    clean = 0
    for _ in range(trials):
        caller.has_answers()
        before = caller.failed
        server.stop(None).wait()
        time.sleep(gap)
        server = started(port)
        caller.has_answers()
        clean += caller.failed == before
    caller.end()
    server.stop(None).wait()
    return clean


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    trials = parser.parse_args().trials
    print(f"gap [s]    {'   '.join(POLICIES)}    (of {trials} gaps, those without a failed call)")
    for gap in GAPS:
        counts = [survived(gap, *policy, trials) for policy in POLICIES.values()]
        print(f"{gap:7.1f}    {'   '.join(f'{count:>7}' for count in counts)}")


if __name__ == "__main__":
    main()
