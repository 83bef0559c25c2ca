"""`xec daq` and `xec serve` as real processes that can be killed, and the judge of what came out.

The judge knows only what was given to the source and what the output folder and the spool hold; an
answer belongs to its event if it is what NumPy computes for it.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conftest import STUB_METADATA, build_stub_model, random_events, stub_answers, write_model
from xec.engines.base import tensors_of
from xec.errors import FileError
from xec.event import EventBatch, Reconstruction
from xec.io.midas.event_writer import MidasEventWriter
from xec.io.parquet_read import read_results
from xec.io.root_writer import RootEventWriter
from xec_client.daq.parts import parts_in
from xec_client.daq.spool.check import Verdict, check
from xec_client.daq.spool.contents import Contents, read_contents
from xec_client.daq.spool.ids import EventId

GEOMETRY = STUB_METADATA["geometry_hash"]

# These commands alone: a process is started and killed often.
_SHIM = """
from importlib.metadata import EntryPoint
from xec import cli
PLACES = {
    "daq": "xec_client.daq.command:COMMAND",
    "health": "xec_client.health:COMMAND",
    "reconstruct": "xec_client.command:COMMAND",
    "serve": "xec_server.command:COMMAND",
}
cli.entry_points = lambda **_: [EntryPoint(n, p, cli.GROUP) for n, p in PLACES.items()]
cli.main()
"""


def xec(
    *arguments: object, first: str = "", output: Any = subprocess.PIPE, **variables: str
) -> subprocess.Popen[str]:
    """A subcommand as a process, which runs the Python text `first` before.

    `output` takes what it prints; `variables` are those of its environment beyond ours.
    """
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    return subprocess.Popen(
        [sys.executable, "-c", first + _SHIM, *map(str, arguments)],
        stdout=output,
        stderr=output,
        text=True,
        env=environment,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """`xec serve` at one address, to be killed and started again, with another model too."""

    def __init__(self, repository: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.process: subprocess.Popen[str] | None = None
        self.start(repository)

    def start(self, repository: Path) -> None:
        arguments = ("--sessions", "1", "--listen", self.address, "--no-dead-list")
        self.process = xec("serve", "--model", repository, *arguments)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert self.address in line, line or self.process.communicate()[1]

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.communicate()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()


@contextmanager
def server_process(repository: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(repository)
    try:
        yield server
    finally:
        server.stop()


def other_model(folder: Path) -> Path:
    """The stub model under another version, and so of another digest."""
    write_model(build_stub_model({"model_version": "stub-2"}), folder)
    return folder


def events_of(run: int, count: int, seed: int = 0, first: int = 0) -> EventBatch:
    batch = random_events(count, seed)
    batch.run[:] = run
    batch.event[:] = np.arange(first, first + count)
    return batch


def root_file(path: Path, batch: EventBatch) -> Path:
    with RootEventWriter(path, geometry_hash=GEOMETRY, synthetic=True) as writer:
        writer.write(batch)
    return path


def midas_file(path: Path, batch: EventBatch) -> Path:
    run = int(batch.run[0])
    with MidasEventWriter(path, run=run, geometry_hash=GEOMETRY, synthetic=True) as writer:
        writer.write(batch)
    return path


@dataclass(frozen=True)
class Folders:
    """The folders of one forwarder."""

    base: Path

    @property
    def spool(self) -> Path:
        return self.base / "spool"

    @property
    def out(self) -> Path:
        return self.base / "out"

    @property
    def parts(self) -> list[Path]:
        return [part.path for part in parts_in(self.out)] if self.out.exists() else []

    def arguments(self, server: str) -> list[str]:
        return ["--server", server, "--spool", str(self.spool), "--out", str(self.out)]

    def results(self) -> list[Reconstruction]:
        return [one for path in self.parts for one in read_results(path)]


def ended(process: subprocess.Popen[str], timeout: float = 120) -> tuple[int, str, str]:
    """Status and output of a process that ends by itself."""
    try:
        out, error = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, error = process.communicate()
        raise AssertionError(f"it did not end:\n{out}\n{error}") from None
    return process.returncode, out, error


def killed(process: subprocess.Popen[str], after: float) -> bool:
    """Kill a process after so many seconds; False: it had ended by itself."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(after)
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def wait_until(condition: Any, timeout: float = 60) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def spooled(folders: Folders) -> int:
    """Events in the spool of a process that lives; it may change while it is read."""
    try:
        return len(read_contents(folders.spool).spooled)
    except (OSError, FileError):
        return 0


def ledger_of(*batches: EventBatch) -> dict[EventId, str]:
    """What the producing side offered: ids, and what the energy of their answers must be."""
    ledger = {}
    for batch in batches:
        energy = stub_answers(tensors_of(batch))["energy"][:, 0]
        for row in range(len(batch)):
            event_id = EventId(int(batch.run[row]), int(batch.event[row]))
            ledger[event_id] = str(float(energy[row]))
    return ledger


def digests_of(
    ledger: dict[EventId, str], results: Iterable[Reconstruction]
) -> list[tuple[EventId, str]]:
    """Ids of results, each with what the ledger says of it if that is what was answered."""
    found = []
    for one in results:
        event_id, energy = EventId(one.run, one.event), float(one.energy.mean[0])
        expected = ledger.get(event_id, "nan")
        # The stub model sums in float32. Energies of different events are far further apart.
        is_same = math.isclose(energy, float(expected), rel_tol=1e-5)
        found.append((event_id, expected if is_same else str(energy)))
    return found


def judged(
    ledger: dict[EventId, str], results: Iterable[Reconstruction], contents: Contents
) -> Verdict:
    return check(ledger, digests_of(ledger, results), contents)


def verdict_of(folders: Folders, *batches: EventBatch) -> Verdict:
    """The independent checker's verdict on an output folder and a spool."""
    return judged(ledger_of(*batches), folders.results(), read_contents(folders.spool))
