"""The life of a Triton of ours: started, found to answer rightly, stopped without a trace.

    with running(TritonSettings(Path("model_repository"))) as triton:
        ...  # talk to triton.address

Starting costs seconds, once the environment is built (see `environment`).
"""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import tritonclient.grpc as triton

from xec.engines.repository import read_model
from xec.errors import EngineError, ModelError
from xec.io.output import writing
from xec_server.triton import guard
from xec_server.triton.arguments import LOOPBACK, Listening, command_line, variables
from xec_server.triton.environment import Environment, Progress, provide
from xec_server.triton.layout import lay_out
from xec_server.triton.probe import check_answers, wait_until_listening
from xec_server.triton.processes import descendants
from xec_server.triton.reason import port_in_use, reason_of

GRACE_SECONDS: Final = 15.0
"""For Triton to end by itself: its own limit for calls in flight and some for the stubs."""

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108
_LAST_SECONDS: Final = 10.0
_CONFIG: Final = "config.pbtxt"


@dataclass(frozen=True, slots=True)
class TritonSettings:
    """What to serve and where.

    Args:
        repository: folder in Triton's layout.
        models: names of those to serve; all of the repository by default.
        flavour: a file of `<model>/configs`; None takes `config.pbtxt`.
        grpc_port: on the loopback interface; 0 chooses a free one.
        metrics_port: likewise; None serves no metrics.
        environment: folder of Triton's Python environment; in the user's cache by default.
        log: file for what Triton prints; a temporary one by default.
        start_seconds: for loading and warming all models.
    """

    repository: Path
    models: tuple[str, ...] = ()
    flavour: str | None = None
    grpc_port: int = 0
    metrics_port: int | None = None
    environment: Path | None = None
    log: Path | None = None
    start_seconds: float = 120.0


def _ignore(text: str) -> None:
    del text


class Triton:
    """A Triton that runs; made by `start`."""

    def __init__(
        self,
        settings: TritonSettings,
        models: tuple[str, ...],
        listening: Listening,
        folder: Path,
        environment: Environment,
    ) -> None:
        self.models = models
        self.address = f"{LOOPBACK}:{listening.grpc}"
        self.metrics = f"{LOOPBACK}:{listening.metrics}" if listening.metrics else None
        self.log = settings.log or folder / "triton.log"
        self._folder = folder
        self._shared_memory = f"xec_triton_{secrets.token_hex(8)}"
        self._repository = settings.repository
        layout = lay_out(folder, environment, settings.repository, list(models))
        self._links = layout.models
        command = command_line(
            environment, layout, listening, settings.flavour, self._shared_memory
        )
        with writing(self.log), self.log.open("wb") as log:
            self._process = self._guarded(command, variables(environment), log)
        self._computing: frozenset[int] = frozenset()

    def _guarded(
        self, command: list[str], environment: dict[str, str], log: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        guarded = [sys.executable, "-I", str(Path(guard.__file__)), str(GRACE_SECONDS)]
        return subprocess.Popen(  # noqa: S603
            [*guarded, self._shared_memory, *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=self._folder,
            env=environment,
        )

    @property
    def process_id(self) -> int:
        """Of the process that watches over Triton; Triton is its child."""
        return self._process.pid

    def check_alive(self) -> None:
        """Raise the reason, as an `XecError`, when Triton or one of its processes has ended."""
        status = self._process.poll()
        if status is not None:
            log = self.log.read_text(errors="replace")
            raise reason_of(log.replace(str(self._links), str(self._repository)), status)
        if dead := self._computing - descendants(self._process.pid):
            raise EngineError(
                f"A process in which Triton computes has died (process {min(dead)}); Triton does "
                "not notice and refuses every event: start it again."
            )

    def settle(self) -> None:
        """Watch the processes that run the models, and close their memory to other users.

        Triton makes its shared memory readable for all, whatever the file mode mask says; events
        and answers pass through it.
        """
        self._computing = descendants(self._process.pid)
        for region in SHARED_MEMORY.glob(f"{self._shared_memory}*"):
            with suppress(FileNotFoundError):  # Triton has just died: `check_alive` will tell
                region.chmod(0o600)

    def wait(self, seconds: float) -> bool:
        """Wait for Triton's end; whether it came."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
            return True
        return False

    def stop(self) -> None:
        """End Triton and all its processes, and remove what was laid out for it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if not self.wait(GRACE_SECONDS + _LAST_SECONDS):
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def start(settings: TritonSettings, progress: Progress = _ignore) -> Triton:
    """Start Triton and wait until it answers the golden events of every model rightly.

    Args:
        settings: what to serve and where.
        progress: is told what is being done, where it takes time.

    Raises:
        ModelError: a model is missing, altered, contradicts its configuration or answers wrongly.
        ServiceError: a port is in use.
        FileError: the log cannot be written.
        EngineError: Triton cannot run here, its environment cannot be built, or it fails.
    """
    models = _checked_models(settings)
    environment = provide(settings.environment, progress)
    listening = _free_ports(settings.grpc_port, settings.metrics_port)
    folder = Path(tempfile.mkdtemp(prefix="xec-triton-"))
    try:
        server = Triton(settings, models, listening, folder, environment)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        _wait_until_right(server, settings)
    except BaseException:
        server.stop()
        raise
    return server


@contextmanager
def running(settings: TritonSettings, progress: Progress = _ignore) -> Iterator[Triton]:
    """`start`, and stop at the end of the block."""
    server = start(settings, progress)
    try:
        yield server
    finally:
        server.stop()


def _wait_until_right(server: Triton, settings: TritonSettings) -> None:
    wait_until_listening(server.address, settings.start_seconds, server.check_alive)
    with triton.InferenceServerClient(server.address) as client:
        for name in server.models:
            check_answers(client, settings.repository, name)
    server.settle()


def _checked_models(settings: TritonSettings) -> tuple[str, ...]:
    """The names to serve, after reading each model as the embedded engine would."""
    repository = settings.repository
    names = settings.models
    if not names and repository.is_dir():
        names = tuple(sorted(path.parent.name for path in repository.glob(f"*/{_CONFIG}")))
        if not names:
            raise ModelError(f"{repository} holds no model: no folder with a {_CONFIG}.")
    for name in names or ("reconstruct",):
        if Path(name).name != name:
            raise ModelError(f"{name!r} is no name of a model: it is one folder's.")
        read_model(repository, name)
        _check_flavour(repository / name, settings.flavour)
    return names


def _check_flavour(model: Path, flavour: str | None) -> None:
    """Triton takes `config.pbtxt` silently where the flavour's file is missing."""
    if flavour is None:
        if not (model / _CONFIG).is_file():
            raise ModelError(f"{model} has no {_CONFIG}: export the model again.")
        return
    folder = model / "configs"
    known = sorted(path.stem for path in folder.glob("*.pbtxt"))
    if flavour not in known:
        raise ModelError(
            f"{model} has no flavour {flavour}; it has {', '.join(known) or 'none'}: leave out "
            "--flavour to take config.pbtxt."
        )


def _free_ports(grpc: int, metrics: int | None) -> Listening:
    """The ports themselves where they are free, and any free ones for 0."""
    with ExitStack() as held:
        ports = [_bound(held, port) for port in (grpc, metrics) if port is not None]
    return Listening(*ports)


def _bound(held: ExitStack, wanted: int) -> int:
    trial = held.enter_context(socket.socket())
    trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        trial.bind((LOOPBACK, wanted))
    except OSError as error:
        raise port_in_use(f"{LOOPBACK}:{wanted}") from error
    return int(trial.getsockname()[1])
