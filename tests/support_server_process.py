"""`xec serve` as a process of its own, whose memory and descriptors are its own too."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

_START = "import sys; from xec.cli import main; sys.argv = ['xec', *sys.argv[1:]]; main()"


@dataclass
class Served:
    """A running server process."""

    address: str
    process: psutil.Process

    @property
    def resident(self) -> float:
        """Megabytes."""
        return float(self.process.memory_info().rss) / 1e6

    @property
    def most_resident(self) -> float:
        """Megabytes, since the last `forget`."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in text.splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) / 1e3

    def forget(self) -> None:
        """Begin `most_resident` anew."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    @property
    def descriptors(self) -> int:
        return int(self.process.num_fds())


@contextmanager
def serving(repository: Path, folder: Path, *options: str, code: str = _START) -> Iterator[Served]:
    """A server on one session, started for real.

    Args:
        repository: of the model.
        folder: for its ready file and log.
        options: further ones of `xec serve`.
        code: run in place of the plain start, for a control.
    """
    ready, log = folder / "ready", folder / "log"
    command = [sys.executable, "-c", code, "serve", "--model", str(repository), "--no-dead-list"]
    command += ["--listen", "127.0.0.1:0", "--ready-file", str(ready), "--sessions", "1", *options]
    with log.open("w") as file:
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 60
        while not ready.exists():
            assert child.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield Served(ready.read_text().strip(), psutil.Process(child.pid))
        assert child.poll() is None, log.read_text()
    finally:
        child.terminate()
        child.wait(30)
