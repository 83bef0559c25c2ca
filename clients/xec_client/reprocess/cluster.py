"""Working on pieces by Dask: a cluster on this machine, one that runs already, or batch jobs.

Dask may run a piece twice and forgets what it did when its scheduler ends. Neither matters: parts
are published once by their names, and what was done is in the output folder.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, Final

import dask
import distributed
from distributed.client import ClosedClientError

from xec.errors import ServiceError, UsageError
from xec_client.reprocess.cluster_address import ClusterAddress, ClusterKind
from xec_client.reprocess.feeding import LOST, Feeding
from xec_client.reprocess.plan import Piece
from xec_client.reprocess.worker import Assignment, Outcome

CONNECT_SECONDS: Final = 10.0
ALLOWED_DEATHS: Final = 3
"""Workers that may die with a piece before it is given up, where we start the scheduler."""

_SPAWNED: Final = "distributed.nanny.pre-spawn-environ"


def _environment() -> dict[str, Any]:
    """What Dask sets in the environment of workers, without what makes the allocator slow.

    MALLOC_TRIM_THRESHOLD_ has it return every larger array to the system at once, and our workers,
    whose memory is bounded anyway, then spend several percent on getting it back.
    """
    given: dict[str, Any] = dask.config.get(_SPAWNED)
    return {name: value for name, value in given.items() if name != "MALLOC_TRIM_THRESHOLD_"}


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates for talking to the scheduler and the workers.

    Args:
        ca: of those who signed, PEM.
        cert: ours, PEM.
        key: its key, PEM.
    """

    ca: Path
    cert: Path
    key: Path

    def security(self) -> distributed.Security:
        """The same for Dask, which then refuses anything unencrypted."""
        options: dict[str, Any] = {
            "tls_ca_file": str(self.ca),
            "require_encryption": True,
        }
        for role in ("client", "scheduler", "worker"):
            options |= {f"tls_{role}_cert": str(self.cert), f"tls_{role}_key": str(self.key)}
        return distributed.Security(**options)


@dataclass(frozen=True, slots=True)
class OnCluster:
    """Pieces on the workers of a cluster.

    Args:
        address: which cluster.
        workers: batch jobs to ask for.
        tls: certificates; None: unencrypted.
        patience: seconds to wait for the first worker.
    """

    address: ClusterAddress
    workers: int = 1
    tls: Tls | None = None
    patience: float = 600.0

    def run(self, pieces: Iterator[Piece], assignment: Assignment) -> Generator[Outcome]:
        """The outcomes of all pieces, as they come.

        A few pieces more than there are workers are handed over at a time.

        Raises:
            ServiceError: the scheduler cannot be reached or is lost, or no worker comes.
            UsageError: a package for this kind of cluster is not installed.
        """
        first = next(pieces, None)
        if first is None:
            return
        with self._connected() as client, _told_when_lost():
            yield from Feeding(client, assignment, self.patience).run(chain([first], pieces))

    @contextmanager
    def _connected(self) -> Iterator[distributed.Client]:
        """A client of the cluster, with a worker at least."""
        security = None if self.tls is None else self.tls.security()
        settings = {
            "distributed.scheduler.allowed-failures": ALLOWED_DEATHS,
            # Dask gives up a place whose worker is not back in 15 s, which a busy machine exceeds.
            "distributed.deploy.lost-worker-timeout": self.patience,
            _SPAWNED: _environment(),
        }
        with ExitStack() as stack:
            stack.enter_context(dask.config.set(settings))
            # It logs a traceback for each worker that dies; what matters is told by the outcomes.
            logging.getLogger("distributed").setLevel(logging.CRITICAL)
            where = self._started(stack, security)
            try:
                seconds = min(self.patience, CONNECT_SECONDS)
                client = distributed.Client(where, security=security, timeout=seconds)
            except (OSError, TimeoutError) as error:
                raise ServiceError(
                    f"The Dask scheduler {self.address.detail} cannot be reached: {_line(error)}."
                ) from error
            stack.enter_context(client)
            try:
                client.wait_for_workers(1, timeout=self.patience)
            except TimeoutError as error:
                raise ServiceError(
                    f"No Dask worker came within {self.patience:g} s: look at the cluster, or wait "
                    "longer with --wait."
                ) from error
            yield client

    def _started(self, stack: ExitStack, security: distributed.Security | None) -> Any:
        """What to connect to: a cluster that we start, or the address of one."""
        match self.address.kind:
            case ClusterKind.SCHEDULER:
                return self.address.detail
            case ClusterKind.LOCAL:
                return stack.enter_context(self._processes(security))
            case ClusterKind.SLURM:
                return stack.enter_context(self._batch_jobs(security))

    def _processes(self, security: distributed.Security | None) -> Any:
        """Workers on this machine, spawned, each with a nanny that replaces it when it dies."""
        try:
            return distributed.LocalCluster(
                n_workers=self.address.processes,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                silence_logs=logging.ERROR,
                security=security,
            )
        except (OSError, RuntimeError) as error:
            raise ServiceError(f"The Dask workers cannot be started: {_line(error)}") from error

    def _batch_jobs(self, security: distributed.Security | None) -> Any:
        if find_spec("dask_jobqueue") is None:
            raise UsageError(
                "--cluster slurm needs dask-jobqueue: pip install 'xec-reconstruct[slurm]'."
            )
        from dask_jobqueue import SLURMCluster  # noqa: PLC0415

        profile = self.address.detail
        own = dask.config.get(f"jobqueue.{profile}", None)
        if own is None:
            raise UsageError(
                f"Dask's configuration has no jobqueue.{profile}: describe the jobs there, see "
                "docs/reprocess.md."
            )
        whole = dask.config.merge(dask.config.get("jobqueue.slurm"), own)
        dask.config.set({f"jobqueue.{profile}": whole})
        cluster = SLURMCluster(config_name=profile, security=security)
        cluster.scale(jobs=self.workers)
        return cluster


@contextmanager
def _told_when_lost() -> Iterator[None]:
    """Turn what Dask raises when its scheduler is gone into one sentence."""
    try:
        yield
    except (OSError, TimeoutError, CancelledError, ClosedClientError) as error:
        raise ServiceError(LOST) from error


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
