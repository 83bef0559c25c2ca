"""`xec admin`: what an operator asks of a running server, on the command line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from xec.cli import Command
from xec.errors import AccessError, ModelError, ServiceError, UsageError, XecError

Option = typer.Option
_VARIABLE: Final = "XEC_TOKEN"
_LOOK_SECONDS: Final = 10.0

Admin = Annotated[
    str, Option(metavar="HOST:PORT", help="Where `xec serve --admin` listens for operators.")
]
TokenFile = Annotated[
    Path | None,
    Option(metavar="FILE", help=f"Holds your token, if the server asks for one; or {_VARIABLE}."),
]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Reload, drain or look at a running server."
)


@app.command()
def reload(
    *,
    admin: Admin,
    version: Annotated[
        int | None, Option(help="Folder in the repository; as at the start by default.", min=1)
    ] = None,
    timeout: Annotated[float, Option(help="Seconds to open and check the model.", min=1)] = 300.0,
    token_file: TokenFile = None,
) -> None:
    """Let another model of the repository answer, without a failed call.

    Example: xec admin reload --admin 127.0.0.1:50052
    """
    from xec.wire.v1 import admin_pb2 as pb  # noqa: PLC0415

    answer = _ask(admin, "Reload", pb.ReloadRequest(version=version or 0), timeout, token_file)
    text = "answers now" if answer.changed else "answers already: nothing was to be done"
    typer.echo(f"Model {_named(answer.provenance)} {text}.")


@app.command()
def drain(
    *,
    admin: Admin,
    grace: Annotated[
        float | None, Option(help="Seconds for calls under way; the server's by default.", min=0)
    ] = None,
    timeout: Annotated[float, Option(help="Seconds to wait for the end.", min=1)] = 300.0,
    token_file: TokenFile = None,
) -> None:
    """Let a server finish what it accepted and end; returns when nothing is under way.

    Example: xec admin drain --admin 127.0.0.1:50052
    """
    from xec.wire.v1 import admin_pb2 as pb  # noqa: PLC0415

    answer = _ask(admin, "Drain", pb.DrainRequest(grace=grace), timeout, token_file)
    if answer.cut_off:
        raise ServiceError(
            f"The server at {admin} ended with {answer.cut_off} events unanswered: their callers "
            "were told; allow more time with --grace."
        )
    typer.echo(f"The server at {admin} has answered all that it accepted, and ends.")


@app.command()
def status(*, admin: Admin, token_file: TokenFile = None) -> None:
    """Show what a server does just now.

    Example: xec admin status --admin 127.0.0.1:50052
    """
    from xec.wire.v1 import admin_pb2 as pb  # noqa: PLC0415

    answer = _ask(admin, "GetStatus", pb.GetStatusRequest(), _LOOK_SECONDS, token_file)
    for name, text in _lines(answer):
        typer.echo(f"{name:<11} {text}")


def _lines(answer: Any) -> list[tuple[str, str]]:
    state = "draining" if answer.draining else "serving" if answer.serving else "not serving"
    events = answer.events
    fates = ("computed", "failed", "expired", "abandoned", "refused")
    counted = ", ".join(f"{getattr(events, fate)} {fate}" for fate in fates)
    dead = {"database": "a database", "own": "the server's list", "none": "the requests"}
    swaps = f"{answer.swaps} reloads, {answer.models_open} in memory"
    return [
        ("state", f"{state} on {answer.address} for {answer.uptime_seconds:.0f} s"),
        ("model", f"{_named(answer.provenance)}; {swaps}"),
        ("engine", answer.provenance.engine),
        ("dead lists", f"from {dead.get(answer.conditions, answer.conditions)}"),
        ("events", f"{events.accepted} accepted: {counted}"),
        ("waiting", f"{answer.waiting} events, {answer.streams} streams open"),
    ]


def _named(provenance: Any) -> str:
    name, version = provenance.model_name, provenance.model_version
    return f"{name} {version} (sha256 {provenance.model_sha256[:12]})"


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(_VARIABLE) or None
    from xec.io.private import read_private  # noqa: PLC0415

    return read_private(file).decode("ascii", errors="replace").strip()


def _ask(admin: str, method: str, request: Any, timeout: float, token_file: Path | None) -> Any:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import grpc  # noqa: PLC0415

    from xec.wire.v1.admin_pb2_grpc import AdminStub  # noqa: PLC0415
    from xec_server.address import Address  # noqa: PLC0415

    address = Address.parse(admin)
    if not address.is_loopback:
        raise UsageError(f"{admin} is another machine's: operators' calls stay on one machine.")
    token = _token(token_file)
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    with grpc.insecure_channel(str(address)) as channel:
        call: Callable[..., Any] = getattr(AdminStub(channel), method)
        try:
            return call(request, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            raise _error(admin, error, grpc.StatusCode) from error


def _error(admin: str, error: Any, codes: Any) -> XecError:
    sentence = " ".join((error.details() or "no reason given").split())
    match error.code():
        case codes.FAILED_PRECONDITION:
            return ModelError(sentence)
        case codes.UNAUTHENTICATED | codes.PERMISSION_DENIED:
            return AccessError(sentence)
        case codes.INVALID_ARGUMENT:
            return UsageError(sentence)
        case codes.DEADLINE_EXCEEDED:
            text = f"The server at {admin} has not answered in time: it goes on, look at its log."
        case codes.UNIMPLEMENTED:
            text = f"{admin} is a server's port for events: name that of `xec serve --admin`."
        case codes.UNAVAILABLE if "connect" in sentence:
            text = f"Nothing answers operators at {admin}: does `xec serve --admin` run there?"
        case _:
            text = f"The server at {admin} did not do it: {sentence}"
    return ServiceError(text)


COMMAND = Command(run=app, needs=("grpc",), extra="server")
