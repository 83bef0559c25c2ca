"""`xec reconstruct`: the events of a ROOT or MIDAS file, in this process or by a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from xec.cli import Command
from xec.conditions.dead_list import read_dead_list
from xec.conditions.intervals import Tag
from xec.errors import UsageError
from xec_client.access_options import ClientCert, ClientKey, ServerCa, TokenFile

MAX_BATCH: Final = 256  # what a server takes at most, xec.wire.limits


def reconstruct(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Events: a .root file in the experiment's format, or a MIDAS file (.mid, "
            ".mid.lz4, .mid.gz, .mid.bz2); run00407.mid.lz4 also stands for its subruns.",
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Results: a .parquet or .root file.")],
    local: Annotated[
        bool, typer.Option("--local", help="Reconstruct in this process, on all its cores.")
    ] = False,
    server: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT,...", help="Reconstruct by this server, or these."),
    ] = None,
    model: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Model repository, for --local.")
    ] = Path("model_repository"),
    dead_list: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Dead sensors, one id per line, beyond those that the events mark; by default "
            "the server's own list, or its database's for the run.",
        ),
    ] = None,
    conditions: Annotated[
        str | None,
        typer.Option(
            metavar="URL|FILE",
            help="Database of dead sensors by run, for --local; a URL without a password, or "
            "XEC_CONDITIONS_DATABASE.",
        ),
    ] = None,
    tag: Annotated[
        Tag | None, typer.Option(case_sensitive=False, help="Whose lists of the database hold.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=MAX_BATCH, help="Events in a batch.")] = 64,
    in_flight: Annotated[
        int, typer.Option(min=1, max=64, help="Batches under way at the same time.")
    ] = 4,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for each batch, retries included (--server).")
    ] = 60.0,
    server_ca: ServerCa = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
    token_file: TokenFile = None,
    show: Annotated[
        int, typer.Option(min=0, metavar="N", help="Print the first N events as tables.")
    ] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,
) -> None:
    """Reconstruct the events of a ROOT or MIDAS file.

    Example: xec reconstruct run00407.root --server 127.0.0.1:50051 --out run00407.parquet
    """
    if local == (server is not None):
        raise UsageError("Say where to reconstruct: either --local or --server HOST:PORT.")
    from xec_client.access import Access  # noqa: PLC0415
    from xec_client.by_run import lists_by_run  # noqa: PLC0415
    from xec_client.file_run import Job, Report, reconstruct_file  # noqa: PLC0415
    from xec_client.places import Embedded, Remote  # noqa: PLC0415

    access = Access(server_ca, client_cert, client_key, token_file)
    if local and access:
        raise UsageError("--server-ca, --client-cert and --token-file belong to --server.")
    place = Embedded(model) if server is None else Remote(server, timeout, access)
    given = None if dead_list is None else read_dead_list(dead_list)
    with lists_by_run(conditions, tag, given, server) as lists:
        job = Job(source, out, lists if given is None else given, batch_size, in_flight)
        reconstruct_file(job, place, Report(show, quiet))


COMMAND = Command(run=reconstruct, needs=("grpc", "lz4", "uproot", "pyarrow"), extra="client")
