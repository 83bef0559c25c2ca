"""Files of events of any kind, by their names: MIDAS (``.mid`` and compressed), else ROOT."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, Self

from xec.errors import UsageError
from xec.event import BoolArray, EventBatch, FloatArray
from xec.io.midas.compression import midas_suffix
from xec.io.midas.event_file import MidasEventFile
from xec.io.midas.event_writer import MidasEventWriter
from xec.io.root import EventFile
from xec.io.root_columns import EventChunk
from xec.io.root_writer import RootEventWriter


class EventSource(AbstractContextManager["EventSource"], Protocol):
    """An open file of events; those that know their number of events have a length."""

    path: Path

    def __enter__(self) -> Self:
        """The source itself."""
        ...

    @property
    def synthetic(self) -> bool:
        """Whether the events are labelled, or known, to be simulated."""
        ...

    @property
    def geometry_hash(self) -> str | None:
        """Of the geometry that the file names, if it does."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of a file that was read to its end, one sentence each."""
        ...

    def runs(self) -> tuple[int, ...]:
        """The runs that its events belong to, ascending; none where there are no events.

        Raises:
            FileError: the file is damaged.
        """
        ...

    def chunks(self, size: int) -> Iterator[EventChunk]:
        """All events, at most `size` at a time.

        Raises:
            FileError: the file is damaged; chunks before that were already given.
        """
        ...


class EventSink(AbstractContextManager["EventSink"], Protocol):
    """A file of events being written, which appears when the block succeeds."""

    def __enter__(self) -> Self:
        """Create the file under a temporary name."""
        ...

    def write(
        self,
        events: EventBatch,
        dead: BoolArray | None = None,
        npho_reference: FloatArray | None = None,
    ) -> None:
        """Append events; `dead` are invalid in the file, the rest is kept where the kind can."""
        ...


def open_events(path: Path) -> EventSource:
    """Open a file of events.

    Raises:
        FileError: as `EventFile` and `MidasEventFile`.
    """
    return EventFile(path) if midas_suffix(path) is None else MidasEventFile(path)


def open_event_writer(path: Path, *, run: int, geometry_hash: str, synthetic: bool) -> EventSink:
    """The writer for the kind of file that the name tells.

    Args:
        path: ends in ``.root``, ``.mid``, ``.mid.lz4``, ``.mid.gz`` or ``.mid.bz2``.
        run: number of the run.
        geometry_hash: of the geometry of the events.
        synthetic: whether they were simulated.

    Raises:
        UsageError: for another name.
    """
    if midas_suffix(path) is not None:
        return MidasEventWriter(path, run=run, geometry_hash=geometry_hash, synthetic=synthetic)
    if path.suffix == ".root":
        return RootEventWriter(path, geometry_hash=geometry_hash, synthetic=synthetic)
    raise UsageError(f"{path}: events are written to .root or .mid files (.mid.lz4, .gz, .bz2).")
