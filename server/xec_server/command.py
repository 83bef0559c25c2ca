"""`xec serve`: the server on the command line."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from xec.cli import Command
from xec.conditions.dead_list import DeadList, read_dead_list
from xec.conditions.intervals import Tag
from xec.conditions.option import wanted_tag
from xec.engines.device import Device
from xec.engines.kind import EngineKind
from xec.errors import UsageError
from xec_server.telemetry.lines import LogFormat, LogLevel

if TYPE_CHECKING:
    from xec_server.app import Server
    from xec_server.events.run_lists import RunLists

Option = typer.Option
MAX_BATCH: Final = 256  # what a request holds at most, xec.wire.limits
MAX_CORES: Final = 1024  # a slip of the finger would take all memory of the machine


def _own_dead_list(file: Path | None, only_events: bool) -> DeadList | None:
    if file is not None and only_events:
        raise UsageError("--dead-list and --no-dead-list contradict each other: give one.")
    if file is not None:
        return read_dead_list(file)
    return DeadList.of(()) if only_events else None


def _run_lists(conditions: str | None, tag: Tag | None, other: bool) -> RunLists | None:
    tag = wanted_tag(conditions, tag, "--dead-list and --no-dead-list do", other=other)
    if tag is None:
        return None
    from xec_server.events.run_lists import open_run_lists  # noqa: PLC0415

    return open_run_lists(conditions, tag)


def _announce(server: Server) -> None:
    model = server.model
    typer.echo(
        f"xec serve: model {model.name} {model.version} (sha256 {model.sha256[:12]}) "
        f"listens on {server.address}"
        + ("" if server.admin is None else f", operators on {server.admin.address}")
    )


def serve(
    *,
    model: Annotated[
        Path, Option(help="Model repository: MODEL/reconstruct/<version>/model.onnx.")
    ] = Path("model_repository"),
    model_version: Annotated[
        int | None, Option(help="Version folder to serve; the highest by default.", min=1)
    ] = None,
    listen: Annotated[
        str, Option(help="HOST:PORT; port 0 chooses a free one.")
    ] = "127.0.0.1:50051",
    insecure_listen: Annotated[
        bool, Option("--insecure-listen", help="Listen beyond this machine, unencrypted.")
    ] = False,
    tls_cert: Annotated[
        Path | None, Option(metavar="PEM", help="Certificate of the server; then TLS is required.")
    ] = None,
    tls_key: Annotated[
        Path | None, Option(metavar="PEM", help="Its key, readable by nobody else.")
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        Option(metavar="PEM", help="Who signs client certificates, which are required then."),
    ] = None,
    tokens: Annotated[
        Path | None,
        Option(metavar="FILE", help="Who may call, made by xec tokens; nobody else may then."),
    ] = None,
    dead_list: Annotated[
        Path | None, Option(help="Dead channels of requests that carry none: one id per line.")
    ] = None,
    no_dead_list: Annotated[
        bool, Option("--no-dead-list", help="Such requests mark by themselves all that is dead.")
    ] = False,
    conditions: Annotated[
        str | None,
        Option(
            metavar="URL|FILE",
            help="Database of dead channels by run, for requests that carry none; a URL without a "
            "password, or XEC_CONDITIONS_DATABASE.",
        ),
    ] = None,
    tag: Annotated[
        Tag | None, Option(case_sensitive=False, help="Whose lists of the database hold.")
    ] = None,
    engine: Annotated[
        EngineKind, Option(help="onnx and torch compute here, triton in another process.")
    ] = EngineKind.ONNX,
    device: Annotated[
        Device, Option(help="What onnx (or torch, without tensorrt) computes on.")
    ] = Device.CPU,
    triton: Annotated[
        str | None, Option(help="HOST:PORT of Triton's gRPC service, for --engine triton.")
    ] = None,
    fallback: Annotated[
        bool, Option("--fallback", help="Keep onnx warm and answer by it while Triton is away.")
    ] = False,
    calls: Annotated[int, Option(help="Requests to Triton at a time.", min=1, max=1024)] = 32,
    batch_size: Annotated[
        int | None,
        Option(
            help="Events in one engine call; 1: reproducible bit for bit. 4, on a GPU 64.",
            min=1,
            max=MAX_BATCH,
        ),
    ] = None,
    batch_delay_ms: Annotated[
        float, Option(help="Wait for others while an engine call could start.", min=0)
    ] = 0.0,
    queue: Annotated[int, Option(help="Events that may wait in each lane.", min=1)] = 1024,
    client_calls: Annotated[
        int, Option(help="Calls of one client in progress, streams aside.", min=1)
    ] = 128,
    max_calls: Annotated[
        int, Option(help="Calls in progress in all, streams aside.", min=1)
    ] = 1024,
    connections: Annotated[int, Option(help="Connections at a time.", min=1)] = 512,
    sessions: Annotated[
        int, Option(help="Engine calls at a time; 0: cores / threads.", min=0, max=MAX_CORES)
    ] = 0,
    threads: Annotated[int, Option(help="Threads in one engine call.", min=1, max=MAX_CORES)] = 1,
    engine_timeout: Annotated[
        float, Option(help="Seconds that an engine call may take; then health says NOT_SERVING.")
    ] = 60.0,
    grace: Annotated[float, Option(help="Seconds to finish calls at the end.", min=0)] = 10.0,
    drain_delay: Annotated[
        float, Option(help="Seconds before that in which only health says no.", min=0)
    ] = 0.0,
    admin: Annotated[
        str | None,
        Option(metavar="HOST:PORT", help="Answer `xec admin` there; on this machine only."),
    ] = None,
    ready_file: Annotated[
        Path | None, Option(help="Holds the address while the server is ready.")
    ] = None,
    metrics: Annotated[
        str | None, Option(metavar="[HOST:]PORT", help="Show metrics to Prometheus there.")
    ] = None,
    trace: Annotated[
        str | None, Option(metavar="URL", help="Send spans to an OpenTelemetry collector (OTLP).")
    ] = None,
    log_format: Annotated[LogFormat, Option(help="How log lines are written.")] = LogFormat.TEXT,
    log_level: Annotated[
        LogLevel, Option(help="The lowest level that is written; debug has a line for each call.")
    ] = LogLevel.INFO,
) -> None:
    """Reconstruct events over gRPC.

    Example: xec serve --model model_repository --dead-list dead.txt

    With dead channels by run: xec serve --conditions conditions.sqlite --tag online

    In front of Triton: xec serve --engine triton --triton 127.0.0.1:8001 --no-dead-list
    """
    # gRPC and glog would print their own lines about a port in use; ours says it in a sentence.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Heavy modules only now: this file is loaded for every `xec` command.
    from xec.engines.onnx import OnnxSettings  # noqa: PLC0415
    from xec_server.address import Address  # noqa: PLC0415
    from xec_server.app import serve as run  # noqa: PLC0415
    from xec_server.calls.limits import CallLimits  # noqa: PLC0415
    from xec_server.identity.identity import open_identity  # noqa: PLC0415
    from xec_server.model.engine_watch import EngineLost, end_process  # noqa: PLC0415
    from xec_server.model.engines import EngineChoice  # noqa: PLC0415
    from xec_server.queueing.forwarder import ForwardPolicy  # noqa: PLC0415
    from xec_server.settings import ServerSettings, batching_for  # noqa: PLC0415
    from xec_server.telemetry.log_writer import logging_to  # noqa: PLC0415
    from xec_server.telemetry.settings import telemetry_settings  # noqa: PLC0415

    telemetry = telemetry_settings(metrics, trace)
    engine_settings = OnnxSettings(
        sessions=sessions,
        threads_per_session=threads,
        largest_batch=batch_size or (64 if device.is_gpu else 4),
        device=device,
    )
    choice = EngineChoice(model, model_version, engine, engine_settings, triton, fallback)
    settings = ServerSettings(
        address=Address.parse(listen),
        insecure_listen=insecure_listen,
        identity=open_identity(tls_cert, tls_key, tls_client_ca, tokens),
        batching=batching_for(engine_settings, batch_delay_ms / 1000, queue),
        forwarding=ForwardPolicy(queue=queue, calls=calls),
        limits=CallLimits(connections=connections, calls=max_calls, per_client=client_calls),
        engine_timeout=engine_timeout,
        grace=grace,
        drain_delay=drain_delay,
        ready_file=ready_file,
        admin=None if admin is None else Address.parse(admin),
        telemetry=telemetry,
    )
    own = _own_dead_list(dead_list, no_dead_list)
    runs = _run_lists(conditions, tag, dead_list is not None or no_dead_list)
    with logging_to(log_format, telemetry.lines, level=log_level.number):
        opened = choice.open()
        try:
            status = asyncio.run(run(opened, own, settings, _announce, runs, choice.open))
        except EngineLost as lost:
            end_process(lost)
        finally:
            opened.close()
    raise typer.Exit(status)


COMMAND = Command(
    run=serve,
    needs=("grpc", "onnxruntime", "grpc_health", "grpc_reflection", "grpc_status"),
    extra="server",
)
