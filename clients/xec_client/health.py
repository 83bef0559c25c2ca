"""`xec health`: does a server answer? For probes, units and scripts."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from xec.cli import Command
from xec.errors import ServiceError, UsageError

if TYPE_CHECKING:
    import grpc

    from xec_client.access import Access

Option = typer.Option
_POLL_SECONDS: Final = 0.2


def _channel(server: str, access: Access, name: str | None) -> grpc.Channel:
    """A channel to a server, which may go by another name in its certificate."""
    import grpc  # noqa: PLC0415

    from xec_client.settings import CHANNEL_OPTIONS  # noqa: PLC0415

    credentials = access.credentials()
    if credentials is None:
        if name is not None:
            raise UsageError("--server-name is that in a certificate: it needs --server-ca.")
        return grpc.insecure_channel(server, CHANNEL_OPTIONS)
    override = () if name is None else (("grpc.ssl_target_name_override", name),)
    return grpc.secure_channel(server, credentials, (*CHANNEL_OPTIONS, *override))


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


def _reason(channel: grpc.Channel, question: Question, encrypted: bool) -> str:
    """Why the server does not serve; empty where it does."""
    import grpc  # noqa: PLC0415
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    from xec_client.status import failure_of  # noqa: PLC0415

    request = health_pb2.HealthCheckRequest(service=question.service)
    try:
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=question.timeout)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return f"it has no service {question.service!r}"
        failure = failure_of(error, encrypted)
        return f"{failure.code.name}, {failure.advice} ({failure.details})"
    if question.alive or answer.status == health_pb2.HealthCheckResponse.SERVING:
        return ""
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def await_serving(
    server: str,
    question: Question,
    wait: float = 0.0,
    access: Access | None = None,
    name: str | None = None,
) -> None:
    """Return once a server says that it serves.

    Args:
        server: address, ``host:port``.
        question: asked until it is answered well.
        wait: seconds in which it is asked again.
        access: files for TLS; no token is sent.
        name: of the server in its certificate, if another one than it is called by.

    Raises:
        ServiceError: it does not serve, or does not answer.
        UsageError: the address or the timeout make no sense, or there are several addresses.
        FileError: a file for TLS cannot be read.
    """
    from xec_client.access import NO_ACCESS  # noqa: PLC0415
    from xec_client.settings import Settings  # noqa: PLC0415

    if len(Settings(server, question.timeout).addresses) > 1:
        raise UsageError(f"{server} are several servers: ask one at a time.")
    end = time.monotonic() + wait
    access = access or NO_ACCESS
    encrypted = access.server_ca is not None
    while True:
        # A new one each time: see `xec_client.connections.BlockingConnections`.
        with _channel(server, access, name) as channel:
            reason = _reason(channel, question, encrypted)
        if not reason:
            return
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
    server_ca: Annotated[
        Path | None,
        Option(metavar="PEM", envvar="XEC_SERVER_CA", help="Who signed its certificate: TLS."),
    ] = None,
    client_cert: Annotated[
        Path | None, Option(metavar="PEM", envvar="XEC_CLIENT_CERT", help="Our certificate.")
    ] = None,
    client_key: Annotated[
        Path | None, Option(metavar="PEM", envvar="XEC_CLIENT_KEY", help="Its key.")
    ] = None,
    server_name: Annotated[
        str | None,
        Option(envvar="XEC_SERVER_NAME", help="Its name in the certificate, if another one."),
    ] = None,
    quiet: Annotated[bool, Option("--quiet", help="Print nothing where it serves.")] = False,
) -> None:
    """Ask a server whether it serves: status 0 if it does, 7 if not.

    Example: xec health 127.0.0.1:50051 --wait 60
    """
    # gRPC would print its own lines about a server that is away; ours is a sentence.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from xec_client.access import Access  # noqa: PLC0415

    access = Access(server_ca, client_cert, client_key)
    await_serving(server, Question(service, timeout, alive), wait, access, server_name)
    if not quiet:
        typer.echo(f"xec health: {server} {'answers' if alive else 'serves'}")


COMMAND = Command(run=health, needs=("grpc", "grpc_health"), extra="client")
