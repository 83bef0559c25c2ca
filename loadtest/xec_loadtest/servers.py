"""Servers as processes of their own: ours alone, and ours before a real Triton."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from xec.errors import ServiceError


class Engine(Enum):
    """What computes."""

    ONNX = "onnx"
    TRITON = "triton"


Tell = Callable[[str], None]
"""Is told what is being done, where it takes time."""


@contextmanager
def serving(engine: Engine, model: Path, tell: Tell) -> Iterator[str]:
    """A server with this engine; yields its address once it is ready, and stops it at the end.

    Args:
        engine: inside the server, or a Triton that is started as well.
        model: repository.
        tell: is told what is being done.

    Raises:
        ServiceError: the server ends before it is ready.
        XecError: Triton cannot be started.
    """
    if engine is Engine.ONNX:
        with _server(model) as address:
            yield address
        return
    from xec_server.triton.launcher import TritonSettings, running  # noqa: PLC0415

    with (
        running(TritonSettings(model), tell) as triton,
        _server(model, "--engine", "triton", "--triton", triton.address) as address,
    ):
        yield address


@contextmanager
def _server(model: Path, *arguments: str) -> Iterator[str]:
    """`xec serve`, on a free port of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        ready, log = Path(folder) / "ready", Path(folder) / "log"
        command = [sys.executable, "-c", "from xec.cli import main; main()", "serve"]
        command += ["--model", str(model), "--no-dead-list", "--listen", "127.0.0.1:0"]
        command += ["--ready-file", str(ready), *arguments]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            _wait_for(ready, process, log)
            yield ready.read_text().strip()
        finally:
            process.terminate()
            process.wait()


def _wait_for(ready: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    while not ready.exists():
        if process.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines()
            why = lines[-1].removeprefix("xec: ").removesuffix(".") if lines else "it says nothing"
            raise ServiceError(f"The server ended before it was ready: {why}.")
        time.sleep(0.02)
