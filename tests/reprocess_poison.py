"""A reprocessing by two Dask workers in which one run ends every process that touches it.

Run: python tests/reprocess_poison.py MODEL OUT RUN...; prints the state of each run as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from xec.event import Reconstruction
from xec_client.places import Backend, Embedded, Work
from xec_client.reprocess.cluster import OnCluster
from xec_client.reprocess.cluster_address import parse_cluster
from xec_client.reprocess.job import Job, reprocess

POISON = 1002  # its number


@dataclass(frozen=True)
class Poisoned(Embedded):
    """The embedded engine; one run ends the process, as a crash in native code would."""

    @contextmanager
    def open(self) -> Iterator[Backend]:
        with super().open() as backend:

            def reconstruct(work: Work) -> list[Reconstruction]:
                if POISON in work.events.run:
                    os._exit(11)
                return backend.reconstruct(work)

            yield Backend(reconstruct, backend.geometry_hash)


def main(model: str, out: str, *runs: str) -> None:
    """Reprocess and tell."""
    # By its name, not as __main__, so that workers can import it.
    from reprocess_poison import Poisoned as Named

    job = Job([Path(run) for run in runs], Path(out), Named(Path(model), 1), part_events=8)
    course = reprocess(job, OnCluster(parse_cluster("local:2"), patience=120), lambda _: None)
    found = {s.path.name: course.status_of(s) for s in course.sources}
    sys.stdout.write(json.dumps({name: [s.state, s.reason] for name, s in found.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
