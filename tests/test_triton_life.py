"""How a Triton of ours ends: without a process, a file or shared memory left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import build_stub_model
from support_triton import add_model, configuration, needs_triton
from xec.errors import EngineError
from xec_server.triton.launcher import TritonSettings, running
from xec_server.triton.processes import descendants

pytestmark = needs_triton
SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stub model: it loads in a moment."""
    folder = tmp_path_factory.mktemp("life")
    add_model(
        folder, "stub", build_stub_model().SerializeToString(), configuration("stub", max_batch=2)
    )
    return folder


def until(condition: Callable[[], bool], seconds: float = 40) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@dataclass
class Started:
    """`xec triton`, ready."""

    process: subprocess.Popen[str]
    address: str
    folder: Path
    ready: Path

    def __post_init__(self) -> None:
        command = command_of(self.named("tritonserver"))
        self.prefix = command.partition("shm-region-prefix-name=")[2].split()[0]
        (name,) = self.shared_memory()
        assert (SHARED_MEMORY / name).stat().st_mode & 0o077 == 0  # of nobody else's concern

    def below(self) -> frozenset[int]:
        return descendants(self.process.pid)

    def named(self, part: str) -> int:
        """The one process below that runs this program."""
        (found,) = [pid for pid in self.below() if Path(command_of(pid).split()[0]).name == part]
        return found

    def left(self) -> list[str]:
        """What this Triton has laid down in files and shared memory."""
        folders = [p.name for p in self.folder.iterdir() if p.name.startswith("xec-triton-")]
        return folders + self.shared_memory()

    def shared_memory(self) -> list[str]:
        return [path.name for path in SHARED_MEMORY.glob(f"{self.prefix}*")]


def command_of(process_id: int) -> str:
    return Path(f"/proc/{process_id}/cmdline").read_text().replace("\0", " ")


def alive(process_ids: frozenset[int]) -> list[int]:
    """Those that run, whoever their parent is by now."""

    def runs(process_id: int) -> bool:
        try:
            stat = Path(f"/proc/{process_id}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return stat.rpartition(")")[2].split()[0] not in "ZX"

    return [process_id for process_id in process_ids if runs(process_id)]


def popen(repository: Path, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "xec", "triton", "--model", str(repository)]
    return subprocess.Popen(
        [*command, "--grpc-port", "0", "--ready-file", str(folder / "ready")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )


@contextmanager
def xec_triton(repository: Path, folder: Path) -> Iterator[Started]:
    ready = folder / "ready"
    process = popen(repository, folder)
    below: frozenset[int] = frozenset()
    try:
        assert until(lambda: ready.exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        below = descendants(process.pid)
        yield Started(process, ready.read_text().strip(), folder, ready)
    finally:
        process.kill()
        process.communicate()
        for process_id in alive(below):  # a test that failed leaves nothing behind either
            os.kill(process_id, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(repository: Path, tmp_path: Path, number: signal.Signals) -> None:
    with xec_triton(repository, tmp_path) as started:
        below = started.below()
        assert len(below) >= 3
        assert len(started.left()) == 2
        assert {Path(command_of(pid).split()[0]).name for pid in below} >= {
            "tritonserver",
            "triton_python_backend_stub",
        }
        started.process.send_signal(number)
        out, error = started.process.communicate(timeout=40)
        assert started.process.returncode == 0
        assert out == f"xec triton: stub on {started.address}\n"
        assert error == ""
        assert alive(below) == []
        assert started.left() == []
        assert not started.ready.exists()


def test_a_launcher_that_is_killed_leaves_no_process(repository: Path, tmp_path: Path) -> None:
    with xec_triton(repository, tmp_path) as started:
        below = started.below()
        assert alive(below)
        started.process.kill()
        assert until(lambda: alive(below) == [])
        assert until(lambda: started.shared_memory() == [])


def test_a_guard_that_is_killed_leaves_no_process(repository: Path, tmp_path: Path) -> None:
    """Then the kernel tells Triton, and the launcher reports it."""
    with xec_triton(repository, tmp_path) as started:
        below = started.below()
        os.kill(started.named(Path(sys.executable).name), signal.SIGKILL)
        _, error = started.process.communicate(timeout=40)
        assert started.process.returncode == EngineError.exit_code
        assert error.startswith("xec: Triton ended with status -9: ")
        assert error.count("\n") == 1
        assert until(lambda: alive(below) == [])


@pytest.mark.parametrize(
    ("victim", "sentence"),
    [
        ("tritonserver", "xec: Triton ended with status 137: "),
        ("triton_python_backend_stub", "xec: A process in which Triton computes has died "),
    ],
)
def test_a_death_inside_is_reported(
    repository: Path, tmp_path: Path, victim: str, sentence: str
) -> None:
    """Triton itself stays ready when the process that computes dies; the launcher does not."""
    with xec_triton(repository, tmp_path) as started:
        below = started.below()
        os.kill(started.named(victim), signal.SIGKILL)
        _, error = started.process.communicate(timeout=60)
        assert started.process.returncode == EngineError.exit_code
        assert error.startswith(sentence)
        assert error.count("\n") == 1
        assert alive(below) == []
        assert started.left() == []
        assert not started.ready.exists()


def test_a_signal_while_it_starts_ends_it_too(repository: Path, tmp_path: Path) -> None:
    process = popen(repository, tmp_path)
    try:
        below: frozenset[int] = frozenset()

        def started() -> bool:
            nonlocal below
            below = descendants(process.pid)
            return len(below) >= 2

        assert until(started)
        process.terminate()
        _, error = process.communicate(timeout=40)
    finally:
        process.kill()
    assert (process.returncode, error) == (128 + signal.SIGTERM, "")
    assert alive(below) == []
    assert [path.name for path in tmp_path.iterdir()] == []


def test_the_library_call_stops_at_the_end_of_its_block(repository: Path) -> None:
    below: frozenset[int] = frozenset()
    address = ""

    def fail_inside() -> None:
        nonlocal below, address
        with running(TritonSettings(repository)) as server:
            below, address = descendants(server.process_id), server.address
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    assert len(below) >= 2
    assert alive(below) == []
    host, _, port = address.partition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), 1).close()
