"""`xec health`: does a server answer? For probes, units and scripts."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from xec.cli import Command
from xec.errors import FileError, ServiceError, UsageError

if TYPE_CHECKING:
    import grpc

Option = typer.Option
_POLL_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Trust:
    """Files of a TLS connection, in PEM; all None: no TLS.

    Args:
        ca: certificates that the server's is checked against.
        cert: the caller's own, where the server asks for one.
        key: of `cert`.
        name: the server's name in its certificate, if another one than it is called by.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    name: str | None = None

    def channel(self, server: str, options: tuple[tuple[str, Any], ...]) -> grpc.Channel:
        """A channel to a server.

        Raises:
            UsageError: files that do nothing by themselves.
            FileError: a file cannot be read.
        """
        import grpc  # noqa: PLC0415

        if self.ca is None:
            if self.cert or self.key or self.name:
                raise UsageError("--tls-cert, --tls-key and --tls-name need --tls-ca.")
            return grpc.insecure_channel(server, options)
        if (self.cert is None) != (self.key is None):
            raise UsageError("--tls-cert and --tls-key belong together: give both.")
        own = (None, None) if self.cert is None else (_read(self.key), _read(self.cert))
        credentials = grpc.ssl_channel_credentials(_read(self.ca), *own)
        if self.name:
            options = (*options, ("grpc.ssl_target_name_override", self.name))
        return grpc.secure_channel(server, credentials, options)


def _read(path: Path | None) -> bytes:
    assert path is not None
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}.") from error


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Args:
        service: name of a service; empty: the server as a whole.
        timeout: seconds for an answer.
        alive: any answer will do, also that it does not serve: it drains, or waits for its engine.
    """

    service: str = ""
    timeout: float = 3.0
    alive: bool = False


def _reason(channel: grpc.Channel, question: Question) -> str:
    """Why the server does not serve; empty where it does."""
    import grpc  # noqa: PLC0415
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    request = health_pb2.HealthCheckRequest(service=question.service)
    try:
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=question.timeout)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return f"it has no service {question.service!r}"
        return f"{error.code().name} ({' '.join(str(error.details()).split())})"
    if question.alive or answer.status == health_pb2.HealthCheckResponse.SERVING:
        return ""
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def await_serving(
    server: str, question: Question, wait: float = 0.0, trust: Trust | None = None
) -> None:
    """Return once a server says that it serves.

    Args:
        server: address, ``host:port``.
        question: asked until it is answered well.
        wait: seconds in which it is asked again.
        trust: files for TLS.

    Raises:
        ServiceError: it does not serve, or does not answer.
        UsageError: the address or the timeout make no sense.
        FileError: a file for TLS cannot be read.
    """
    from xec_client.settings import CHANNEL_OPTIONS, Settings  # noqa: PLC0415

    Settings(server, question.timeout)
    end = time.monotonic() + wait
    with (trust or Trust()).channel(server, CHANNEL_OPTIONS) as channel:
        while reason := _reason(channel, question):
            if time.monotonic() + _POLL_SECONDS > end:
                raise ServiceError(
                    f"The server at {server} does not serve: {reason}; see its log, or give it "
                    "time with --wait."
                )
            time.sleep(_POLL_SECONDS)


def health(
    server: Annotated[
        str, typer.Argument(metavar="HOST:PORT", envvar="XEC_HEALTH_SERVER", help="The server.")
    ],
    *,
    wait: Annotated[float, Option(min=0, help="Seconds to wait until it serves.")] = 0.0,
    timeout: Annotated[float, Option(min=0.1, help="Seconds for one question.")] = 3.0,
    service: Annotated[
        str, Option(help="Name of a service, xec.v1.Reconstruction; by default the whole server.")
    ] = "",
    alive: Annotated[
        bool, Option("--alive", help="An answer will do, also NOT_SERVING: for liveness probes.")
    ] = False,
    tls_ca: Annotated[
        Path | None,
        Option(metavar="FILE", envvar="XEC_TLS_CA", help="Whom to trust (PEM): speak TLS."),
    ] = None,
    tls_cert: Annotated[
        Path | None, Option(metavar="FILE", envvar="XEC_TLS_CERT", help="Own certificate (PEM).")
    ] = None,
    tls_key: Annotated[
        Path | None, Option(metavar="FILE", envvar="XEC_TLS_KEY", help="Its key (PEM).")
    ] = None,
    tls_name: Annotated[
        str | None,
        Option(envvar="XEC_TLS_NAME", help="The server's name in its certificate, if another."),
    ] = None,
    quiet: Annotated[bool, Option("--quiet", help="Print nothing where it serves.")] = False,
) -> None:
    """Ask a server whether it serves: status 0 if it does, 7 if not.

    Example: xec health 127.0.0.1:50051 --wait 60
    """
    # gRPC would print its own lines about a server that is away; ours is a sentence.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    trust = Trust(tls_ca, tls_cert, tls_key, tls_name)
    await_serving(server, Question(service, timeout, alive), wait, trust)
    if not quiet:
        typer.echo(f"xec health: {server} {'answers' if alive else 'serves'}")


COMMAND = Command(run=health, needs=("grpc", "grpc_health"), extra="client")
