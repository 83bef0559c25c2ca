"""`xec daq`: events of a running experiment to a server, and its answers to files."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from xec.cli import Command
from xec.errors import UsageError
from xec_client.access_options import ClientCert, ClientKey, ServerCa, TokenFile

if TYPE_CHECKING:
    from xec.io.midas.readings import BankName, ReadingBanks
    from xec_client.daq.source import Source

Option = typer.Option
GIB: Final = 1 << 30
MAX_BATCH: Final = 256  # what a server takes at most, xec.wire.limits


def parse_bank(text: str) -> BankName:
    """The bank of ``XNPH`` or ``XNPH:DOUBLE``.

    Raises:
        UsageError: the name is not four characters, or the type is unknown or holds no fractions.
    """
    from xec.io.midas.layout import BankType  # noqa: PLC0415
    from xec.io.midas.readings import BankName  # noqa: PLC0415

    name, colon, kind = text.partition(":")
    if not colon:
        return BankName(name)
    if kind not in BankType.__members__:
        raise UsageError(
            f"There is no bank type {kind!r}: {name}:FLOAT or {name}:DOUBLE hold readings."
        )
    return BankName(name, BankType[kind])


def _banks(npho: str, time: str, time_unit: float, event_id: int | None) -> ReadingBanks:
    from xec.io.midas.readings import ReadingBanks  # noqa: PLC0415

    return ReadingBanks(parse_bank(npho), parse_bank(time), time_unit, event_id)


def _refuse_contradictions(
    given: list[str], replay: Path | None, rate: float | None, seed: int
) -> None:
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} contradict each other: give one source.")
    if str(replay) == "-":
        raise UsageError(
            "--replay takes a file: what a pipe gave once it does not give again after a kill. "
            "Write a MIDAS file, and --follow it while it is written."
        )
    if (rate is not None or seed) and given != ["--replay"]:
        raise UsageError("--rate and --seed belong to --replay.")


def _source(
    replay: Path | None, follow: Path | None, live: str | None, banks: ReadingBanks
) -> Source | None:
    from xec_client.daq.source import MidasSource, file_source  # noqa: PLC0415

    if replay is not None:
        return file_source(replay, banks)
    if follow is not None:
        from xec.io.midas.compression import midas_suffix  # noqa: PLC0415
        from xec.io.midas.reader import Follow  # noqa: PLC0415

        if midas_suffix(follow) is None:
            raise UsageError(f"{follow} is no MIDAS file: only these can be followed.")
        return MidasSource(follow, banks, Follow().patience)
    if live is not None:
        from xec_client.daq.live import LiveSource  # noqa: PLC0415

        return LiveSource(live, banks)
    return None


def daq(
    *,
    server: Annotated[str, Option(metavar="HOST:PORT,...", help="The server, or several.")],
    spool: Annotated[
        Path, Option(metavar="FOLDER", help="Keeps events until their results are durable.")
    ],
    out: Annotated[Path, Option(metavar="FOLDER", help="Results, in parts per run and model.")],
    replay: Annotated[
        Path | None, Option(metavar="FILE", help="Events of a .root file or a MIDAS run.")
    ] = None,
    rate: Annotated[
        float | None,
        Option(metavar="HZ", help="Replay with Poisson arrivals that wait for nobody."),
    ] = None,
    seed: Annotated[int, Option(help="Of the arrival times.")] = 0,
    follow: Annotated[
        Path | None, Option(metavar="FILE", help="A MIDAS run that is being written.")
    ] = None,
    live: Annotated[
        str | None, Option(metavar="BUFFER", help="A running experiment's buffer (SYSTEM).")
    ] = None,
    npho_bank: Annotated[str, Option(metavar="NAME[:TYPE]", help="Photons.")] = "XNPH:FLOAT",
    time_bank: Annotated[str, Option(metavar="NAME[:TYPE]", help="Times.")] = "XTIM:FLOAT",
    time_unit: Annotated[float, Option(help="Nanoseconds per unit of the time bank.")] = 1e9,
    event_id: Annotated[
        int | None, Option(min=0, help="Of the events that hold both banks; all by default.")
    ] = None,
    kind: Annotated[str, Option("--format", help="parquet or root.")] = "parquet",
    dead_list: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Dead sensors, one id per line; by default what the source tells, else the "
            "server's own list for the run.",
        ),
    ] = None,
    batch_size: Annotated[int, Option(min=1, max=MAX_BATCH, help="Events in a request.")] = 16,
    timeout: Annotated[float, Option(min=0.1, help="Seconds for a request.")] = 10.0,
    server_ca: ServerCa = None,
    client_cert: ClientCert = None,
    client_key: ClientKey = None,
    token_file: TokenFile = None,
    part_events: Annotated[int, Option(min=1, help="Events that end a part.")] = 10_000,
    part_seconds: Annotated[float, Option(min=0.1, help="Age that ends a part.")] = 60.0,
    spool_gib: Annotated[float, Option(min=0.25, help="The spool's largest size, GiB.")] = 20.0,
    grace: Annotated[
        float, Option(min=0, help="Seconds for what is spooled after SIGTERM or SIGINT.")
    ] = 10.0,
    report_seconds: Annotated[float, Option(min=0.1, help="Between two lines.")] = 10.0,
    metrics_file: Annotated[
        Path | None, Option(metavar="FILE", help="Metrics in Prometheus's text format.")
    ] = None,
    quiet: Annotated[bool, Option("--quiet", help="Print no lines.")] = False,
) -> None:
    """Forward events of the data acquisition to a server, and never lose one without a record.

    Without a source, forward what an earlier process left in the spool. Ends when all is through,
    with status 0; after SIGTERM or SIGINT with status 7 where events stay in the spool.

    Example: xec daq --replay run00407.mid.lz4 --rate 30 --server 127.0.0.1:50051 --spool spool
    --out results
    """
    sources = {"--replay": replay, "--follow": follow, "--live": live}
    _refuse_contradictions([k for k, v in sources.items() if v is not None], replay, rate, seed)
    # gRPC and glog would print their own lines about a server that is away; ours is a sentence.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.basicConfig(
        level=logging.ERROR if quiet else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    # Heavy modules only now: this file is loaded for every `xec` command.
    from xec.conditions.dead_list import read_dead_list  # noqa: PLC0415
    from xec_client.access import Access  # noqa: PLC0415
    from xec_client.daq.forwarder import ForwardSettings  # noqa: PLC0415
    from xec_client.daq.session import Manner, Places, run_daq  # noqa: PLC0415
    from xec_client.daq.sink import SinkSettings  # noqa: PLC0415
    from xec_client.daq.source import Replay  # noqa: PLC0415
    from xec_client.daq.spool import SpoolSettings  # noqa: PLC0415

    source = _source(replay, follow, live, _banks(npho_bank, time_bank, time_unit, event_id))
    if source is not None and rate is not None:
        source = Replay(source, rate, seed)
    dead = None if dead_list is None else read_dead_list(dead_list)
    manner = Manner(
        SpoolSettings(max_bytes=int(spool_gib * GIB)),
        SinkSettings(kind, part_events, part_seconds),
        ForwardSettings(batch_size, timeout, dead),
        grace,
        report_seconds,
    )

    def tell(line: str) -> None:
        if not quiet:
            typer.echo(f"xec daq: {line}")

    access = Access(server_ca, client_cert, client_key, token_file)
    run_daq(source, Places(server, spool, out, metrics_file, access), manner, tell)


COMMAND = Command(run=daq, needs=("grpc", "lz4", "uproot", "pyarrow", "google_crc32c"), extra="daq")
