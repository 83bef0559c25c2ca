"""`xec reprocess`: many files of events into parts of results, and `xec reprocess status`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from typer.core import TyperGroup

from xec.cli import Command
from xec.conditions.dead_list import read_dead_list
from xec.conditions.intervals import Tag
from xec.errors import IncompleteError, UsageError

MAX_BATCH: Final = 256  # what a server takes at most, xec.wire.limits
PIPED_WIDTH: Final = 160


class Format(StrEnum):
    """Kinds of parts."""

    PARQUET = "parquet"
    ROOT = "root"


class Recognise(StrEnum):
    """By what an input is recognised as the same."""

    STAT = "stat"
    CONTENT = "content"


class DefaultGroup(TyperGroup):
    """A group whose first subcommand is meant where none is named."""

    default_command = "run"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default subcommand in front of anything but a subcommand or a call for help."""
        if args and args[0] not in {*self.commands, "--help"}:
            args = [self.default_command, *args]
        rest: list[str] = super().parse_args(ctx, args)
        return rest


app = typer.Typer(
    cls=DefaultGroup,
    no_args_is_help=True,
    help="Reconstruct the events of many files, resumably; safe to call again at any time.\n\n"
    "Example: xec reprocess runs/*.root --out results",
)


@app.command("run")
def run(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Files of events (.root, .mid and compressed), patterns, or .list files with one "
            "of these per line.",
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Output folder, ours or new.")],
    model: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Model repository, where no server is named.")
    ] = Path("model_repository"),
    server: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Reconstruct by this server.")
    ] = None,
    dead_list: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Dead sensors, one id per line, beyond those that events mark."
        ),
    ] = None,
    conditions: Annotated[
        str | None,
        typer.Option(
            metavar="URL|FILE",
            help="Database of dead sensors by run; a URL without a password, or "
            "XEC_CONDITIONS_DATABASE.",
        ),
    ] = None,
    tag: Annotated[
        Tag | None, typer.Option(case_sensitive=False, help="Whose lists of the database hold.")
    ] = None,
    kind: Annotated[Format, typer.Option("--format", help="Of the parts.")] = Format.PARQUET,
    part_events: Annotated[int, typer.Option(min=1, help="Events of a part.")] = 2048,
    batch_size: Annotated[int, typer.Option(min=1, max=MAX_BATCH, help="Events in a batch.")] = 64,
    in_flight: Annotated[
        int, typer.Option(min=1, max=64, help="Batches under way at the same time.")
    ] = 4,
    identity: Annotated[
        Recognise,
        typer.Option(help="Recognise inputs by name, size and time (stat), or by their content."),
    ] = Recognise.STAT,
    attempts: Annotated[
        int, typer.Option(min=1, help="Failures after which a run is abandoned.")
    ] = 3,
    again: Annotated[bool, typer.Option("--again", help="Try abandoned runs once more.")] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="CLUSTER",
            help="Work by Dask: local:PROCESSES, tcp://HOST:PORT, tls://HOST:PORT, slurm:PROFILE.",
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Batch jobs to ask for (slurm).")] = 1,
    cores: Annotated[
        int,
        typer.Option(
            min=0, help="Cores of this process or each worker; 0: all, or a share (local)."
        ),
    ] = 0,
    wait: Annotated[float, typer.Option(min=1, help="Seconds to wait for a worker.")] = 600.0,
    tls_ca: Annotated[Path | None, typer.Option(metavar="PEM", help="Who signed (Dask).")] = None,
    tls_cert: Annotated[Path | None, typer.Option(metavar="PEM", help="Our certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="PEM", help="Its key.")] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for each batch, retries included (--server).")
    ] = 60.0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,
) -> None:
    """Bring every run to its end; what is done already is left alone.

    Example: xec reprocess runs/*.root 2026.list --out results --cluster local:2
    """
    from xec_client.reprocess.calling import Calling, call  # noqa: PLC0415
    from xec_client.reprocess.sources import Identity  # noqa: PLC0415

    call(
        Calling(
            sources=tuple(sources),
            out=out,
            model=model,
            server=server,
            dead=None if dead_list is None else read_dead_list(dead_list),
            conditions=conditions,
            tag=tag,
            suffix=f".{kind.value}",
            part_events=part_events,
            batch_size=batch_size,
            in_flight=in_flight,
            identity=Identity(identity.value),
            attempts=attempts,
            again=again,
            cluster=cluster,
            jobs=jobs,
            cores=cores,
            wait=wait,
            tls=(tls_ca, tls_cert, tls_key),
            timeout=timeout,
            quiet=quiet,
        )
    )


@app.command("status")
def status(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Output folder.")],
    *,
    lineage: Annotated[
        str | None, typer.Option(metavar="KEY", help="Only this lineage; by default all.")
    ] = None,
    files: Annotated[
        bool, typer.Option("--files", help="Print the parts of all runs that are done instead.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Also read every part and compare its digest.")
    ] = False,
) -> None:
    """The state of every run.

    Example: xec reprocess status results
    """
    from xec_client.reprocess.status import damaged, read_lineages, status_table  # noqa: PLC0415

    found = read_lineages(out, lineage)
    if files:
        if len(found) > 1:
            keys = ", ".join(each.folder.name for each in found)
            raise UsageError(f"{out} has several lineages: choose one by --lineage, of {keys}.")
        for each in found:
            for part in each.parts():
                typer.echo(each.folder / part.name)
    else:
        console = _console()
        for each in found:
            console.print(status_table(each))
    if verify:
        bad = [sentence for each in found for sentence in damaged(each)]
        for sentence in bad:
            typer.echo(f"xec: {sentence}", err=True)
        if bad:
            raise IncompleteError(
                f"{len(bad)} parts are not as they were published: move them away and call "
                "xec reprocess again."
            )


def _console() -> Console:
    console = Console(highlight=False)
    width: dict[str, Any] = {} if sys.stdout.isatty() else {"width": PIPED_WIDTH}
    return console if console.is_terminal else Console(highlight=False, **width)


COMMAND = Command(run=app, needs=("grpc", "lz4", "uproot", "pyarrow"), extra="client")
