"""From the options of the command line to a job, and what is told about it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console

from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import Tag
from xec.errors import UsageError
from xec_client.by_run import lists_by_run
from xec_client.places import Embedded, Remote
from xec_client.progress import event_progress
from xec_client.reprocess.cluster_address import ClusterAddress, ClusterKind, parse_cluster
from xec_client.reprocess.course import Course, Executor
from xec_client.reprocess.job import Job, reprocess
from xec_client.reprocess.local import InProcess
from xec_client.reprocess.sources import Identity, paths_of
from xec_client.reprocess.states import RunState
from xec_client.reprocess.worker import AnyPlace

if TYPE_CHECKING:  # it needs SQLAlchemy
    from xec.conditions.snapshot import Snapshot

PemFiles = tuple[Path | None, Path | None, Path | None]

_MOST_REASONS: Final = 20


@dataclass(frozen=True, slots=True)
class Calling:
    """The options of `xec reprocess run`, by their names there."""

    sources: tuple[str, ...]
    out: Path
    model: Path
    server: str | None
    dead: DeadList | None
    conditions: str | None
    tag: Tag | None
    suffix: str
    part_events: int
    batch_size: int
    in_flight: int
    identity: Identity
    attempts: int
    again: bool
    cluster: str | None
    jobs: int
    cores: int
    wait: float
    tls: PemFiles
    timeout: float
    quiet: bool


def call(options: Calling) -> None:
    """Reprocess, and tell what came of it.

    Raises:
        UsageError: the options contradict each other.
        IncompleteError: some runs failed.
        XecError: as `reprocess`.
    """
    address = None if options.cluster is None else parse_cluster(options.cluster)
    executor = _executor(options, address)
    start = time.perf_counter()
    with (
        lists_by_run(options.conditions, options.tag, options.dead, options.server) as lists,
        event_progress(None, options.quiet) as advance,
    ):
        course = reprocess(_job(options, address, lists), executor, advance)
    if not options.quiet:
        _tell(course, time.perf_counter() - start)
    course.refuse_failed()


def _job(options: Calling, address: ClusterAddress | None, lists: Snapshot | None) -> Job:
    return Job(
        paths=paths_of(options.sources),
        out=options.out,
        place=_place(options, address),
        dead=options.dead,
        suffix=options.suffix,
        part_events=options.part_events,
        batch_size=options.batch_size,
        in_flight=options.in_flight,
        identity=options.identity,
        most_attempts=options.attempts,
        again=options.again,
        lists=lists,
    )


def _place(options: Calling, address: ClusterAddress | None) -> AnyPlace:
    if options.server is not None:
        return Remote(options.server, options.timeout)
    # Workers on other machines look for the model under the same path.
    repository = options.model if address is None else options.model.absolute()
    return Embedded(repository, _cores(options.cores, address))


def _cores(asked: int, address: ClusterAddress | None) -> int:
    """Cores of an engine; 0 means all that its process may use."""
    if asked or address is None or address.kind is not ClusterKind.LOCAL:
        return asked
    from xec.engines.onnx import usable_cores  # noqa: PLC0415

    return max(1, usable_cores() // address.processes)


def _executor(options: Calling, address: ClusterAddress | None) -> Executor:
    given = [path for path in options.tls if path is not None]
    if address is None:
        if given:
            raise UsageError("--tls-ca, --tls-cert and --tls-key belong to --cluster.")
        return InProcess()
    if find_spec("distributed") is None:
        raise UsageError("--cluster needs dask: pip install 'xec-reconstruct[offline]'.")
    from xec_client.reprocess.cluster import OnCluster, Tls  # noqa: PLC0415

    if len(given) not in {0, 3}:
        raise UsageError("--tls-ca, --tls-cert and --tls-key belong together: give all or none.")
    if address.detail.startswith("tls://") and not given:
        raise UsageError("A tls:// scheduler needs --tls-ca, --tls-cert and --tls-key.")
    return OnCluster(address, options.jobs, Tls(*given) if given else None, options.wait)


def _tell(course: Course, seconds: float) -> None:
    """How it went, and the reasons of what failed."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    states = course.states()
    told = ", ".join(f"{states[state]} {state.value}" for state in RunState if states[state])
    rate = f", {course.made / seconds:.0f} events/s" if course.made else ""
    console.print(f"runs    {told or 'none'}")
    console.print(f"events  {course.made} in {seconds:.1f} s{rate}")
    console.print(f"parts   {course.folder}")
    bad = [s for s in map(course.status_of, course.sources) if s.state is not RunState.DONE]
    for status in bad[:_MOST_REASONS]:
        console.print(f"{status.state.value}  {status.path}: {status.reason}")
    if len(bad) > _MOST_REASONS:
        console.print(f"and {len(bad) - _MOST_REASONS} more: xec reprocess status")
