"""What `--cluster` says: `local:2`, `tcp://scheduler:8786`, `slurm:profile`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from xec.errors import UsageError

_LOCAL: Final = re.compile(r"local:([1-9]\d{0,2})")
_SCHEDULER: Final = re.compile(r"(tcp|tls)://[^\s/]+:\d{1,5}")
_SLURM: Final = re.compile(r"slurm:([A-Za-z0-9_-]+)")


class ClusterKind(StrEnum):
    """How a cluster comes about."""

    LOCAL = "local"  # processes on this machine
    SCHEDULER = "scheduler"  # one that runs already
    SLURM = "slurm"  # jobs that we ask for


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """A cluster.

    Args:
        kind: how it comes about.
        detail: number of processes, address of the scheduler, or name of the profile.
    """

    kind: ClusterKind
    detail: str

    @property
    def processes(self) -> int:
        """Of a cluster on this machine; 0 for others."""
        return int(self.detail) if self.kind is ClusterKind.LOCAL else 0


def parse_cluster(text: str) -> ClusterAddress:
    """Read what `--cluster` says.

    Raises:
        UsageError: it is none of the three.
    """
    if match := _LOCAL.fullmatch(text):
        return ClusterAddress(ClusterKind.LOCAL, match[1])
    if _SCHEDULER.fullmatch(text):
        return ClusterAddress(ClusterKind.SCHEDULER, text)
    if match := _SLURM.fullmatch(text):
        return ClusterAddress(ClusterKind.SLURM, match[1])
    raise UsageError(
        f"--cluster {text[:60]} is none of local:PROCESSES, tcp://HOST:PORT, tls://HOST:PORT and "
        "slurm:PROFILE."
    )
