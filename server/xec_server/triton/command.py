"""`xec triton`: a Triton of ours on the command line."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from xec.cli import Command
from xec.io.output import replacing

if TYPE_CHECKING:
    from xec_server.triton.launcher import Triton

Option = typer.Option
_POLL_SECONDS: Final = 0.5


def _announce(server: Triton) -> None:
    metrics = f", metrics on http://{server.metrics}/metrics" if server.metrics else ""
    typer.echo(f"xec triton: {', '.join(server.models)} on {server.address}{metrics}")


def triton(
    *,
    model: Annotated[Path, Option(help="Model repository in Triton's layout.")] = Path(
        "model_repository"
    ),
    serve: Annotated[
        list[str] | None, Option(help="Name of a model; repeat for several. All by default.")
    ] = None,
    grpc_port: Annotated[int, Option(help="Port; 0 chooses a free one.", min=0, max=65535)] = 8001,
    metrics_port: Annotated[
        int | None, Option(help="Serve Prometheus metrics; 0 chooses.", min=0, max=65535)
    ] = None,
    flavour: Annotated[
        str | None, Option(help="Configuration: a file of MODEL/NAME/configs.")
    ] = None,
    environment: Annotated[
        Path | None,
        Option(help="Triton's Python environment; built there, or in the user's cache."),
    ] = None,
    log: Annotated[Path | None, Option(help="File for what Triton prints.")] = None,
    ready_file: Annotated[
        Path | None, Option(help="Holds the address while Triton is ready.")
    ] = None,
) -> None:
    """Serve a model repository with NVIDIA's Triton, on this machine only.

    Its Python environment (300 MB) is built at the first start.

    Example: xec triton --model model_repository --grpc-port 8001
    """
    # Heavy modules only now: this file is loaded for every `xec` command.
    from rich.console import Console  # noqa: PLC0415

    from xec_server.notify import READY, STOPPING, notify  # noqa: PLC0415
    from xec_server.triton.launcher import TritonSettings, running  # noqa: PLC0415

    settings = TritonSettings(
        repository=model,
        models=tuple(serve or ()),
        flavour=flavour,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        environment=environment,
        log=log,
    )
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    with (
        console.status("starting Triton") as status,
        running(settings, status.update if console.is_terminal else console.print) as server,
    ):
        status.stop()
        told_to_stop = _signals()
        with _ready(ready_file, server):
            _announce(server)
            notify(READY, f"STATUS=listens on {server.address}")
            while not told_to_stop.wait(_POLL_SECONDS):
                server.check_alive()
            notify(STOPPING)


@contextmanager
def _ready(path: Path | None, server: Triton) -> Iterator[None]:
    """Show that Triton is ready, as long as the block lasts."""
    if path is None:
        yield
        return
    with replacing(path) as file:
        file.write(f"{server.address}\n".encode())
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _signals() -> threading.Event:
    """Is set by SIGTERM or SIGINT, which end nothing by themselves any more."""
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    return told


COMMAND = Command(run=triton, needs=("grpc", "packaging", "tritonclient"), extra="triton")
