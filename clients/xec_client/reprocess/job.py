"""A whole reprocessing, from what was asked for to the state of every run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from xec.conditions.dead_list import DeadList
from xec.engines.repository import read_model
from xec.lineage import Provenance
from xec_client.places import Embedded
from xec_client.reprocess.aside import sweep
from xec_client.reprocess.by_run import with_lists
from xec_client.reprocess.course import Course, Executor
from xec_client.reprocess.files import DiskFiles, Files
from xec_client.reprocess.folder import lineage_folder, owned
from xec_client.reprocess.lineage import Recipe
from xec_client.reprocess.manifest import open_manifest, read_manifest
from xec_client.reprocess.sources import Identity, Source, look_at, refuse_ambiguous
from xec_client.reprocess.worker import AnyPlace, Assignment

if TYPE_CHECKING:  # it needs SQLAlchemy
    from xec.conditions.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked for.

    Args:
        paths: the inputs.
        out: output folder.
        place: who reconstructs.
        dead: the dead sensors; None where files or server tell, or `lists`.
        suffix: of the parts, ``.parquet`` or ``.root``.
        part_events: events of a part.
        batch_size: events that are reconstructed together.
        in_flight: batches under way at the same time.
        identity: by what inputs are recognised.
        most_attempts: after so many failures a run is abandoned.
        again: try abandoned runs once more.
        files: the disk that the output folder is on.
        lists: the dead sensors by run; None where they are told otherwise.
    """

    paths: Sequence[Path]
    out: Path
    place: AnyPlace
    dead: DeadList | None = None
    suffix: str = ".parquet"
    part_events: int = 2048
    batch_size: int = 64
    in_flight: int = 4
    identity: Identity = Identity.STAT
    most_attempts: int = 3
    again: bool = False
    files: Files = field(default_factory=DiskFiles)
    lists: Snapshot | None = None

    def recipe(self) -> Recipe:
        """What decides the results.

        Raises:
            ModelError: there is no model, or it is altered.
            ClientError: the server is not there.
        """
        told = _told(self.place)
        return Recipe(
            model_sha256=told.model_sha256,
            engine=told.engine,
            dead_list_id=self._dead_list_id(told),
            suffix=self.suffix,
            part_events=self.part_events,
            batch_size=self.batch_size,
            identity=self.identity.value,
        )

    def _dead_list_id(self, told: Provenance) -> str:
        if self.lists is not None:
            return f"by run, {self.lists.tag}"
        return told.dead_list_id if self.dead is None else self.dead.list_id

    def sources(self) -> list[Source]:
        """The inputs, looked at.

        Raises:
            UsageError: two of them cannot be told apart.
            ConditionsError: the lists of their runs cannot be read.
        """
        found = [look_at(path, self.identity) for path in self.paths]
        refuse_ambiguous(found)
        lists = self.lists
        return found if lists is None else [with_lists(source, lists) for source in found]


def _told(place: AnyPlace) -> Provenance:
    """Which model will answer, by which engine, with which list of its own."""
    if isinstance(place, Embedded):
        return Provenance("", "", read_model(place.repository).sha256, "", engine="onnx")
    with place.client() as client:
        model = client.model()
    told = model.provenance
    dead = "by run, of the server" if model.dead_lists == "database" else told.dead_list_id
    return Provenance("", "", told.model_sha256, "", dead, engine=f"server {told.engine}".strip())


def reprocess(job: Job, executor: Executor, advance: Callable[[int], None]) -> Course:
    """Do what is due, and nothing else.

    Args:
        job: what is asked for.
        executor: who works.
        advance: called with numbers of events that are done.

    Returns:
        The course, with the state of every run.

    Raises:
        XecError: something failed that is not the fault of one input; what was done is kept, and
            the same call goes on from there.
    """
    recipe = job.recipe()
    with owned(job.out, job.files):
        sources = job.sources()
        folder = lineage_folder(job.out, recipe, job.files)
        manifest = open_manifest(folder, job.files)
        contents = read_manifest(folder)
        course = Course(sources, recipe, folder, manifest, contents, job.most_attempts, job.again)
        place = job.place
        told = Assignment(place, recipe, job.dead, folder.absolute(), job.in_flight)
        course.run(executor, told, advance)
        sweep(folder, job.files)  # what workers left that were killed meanwhile
    return course
