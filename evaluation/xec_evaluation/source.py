"""The files of events: found, checked against the model, and read as one stream."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xec.errors import FileError, ModelError, UsageError
from xec.io.root import open_events
from xec.io.root_columns import EventChunk
from xec_evaluation.content import DataFile

CHUNK: Final = 64
"""Events in memory at a time."""


@dataclass(frozen=True, slots=True)
class Source:
    """Files that were opened once and found usable.

    Args:
        files: what they hold.
        own_lists: whether every file holds its dead list and what its dead sensors would have
            read, as simulated files do.
        limit: most events to read; None for all.
    """

    files: tuple[DataFile, ...]
    own_lists: bool
    limit: int | None

    def __len__(self) -> int:
        total = sum(file.events for file in self.files)
        return total if self.limit is None else min(total, self.limit)

    @property
    def has_truth(self) -> bool:
        """Whether any file holds truth."""
        return any(file.truth for file in self.files)

    @property
    def synthetic(self) -> bool:
        """Whether any file holds simulated events."""
        return any(file.synthetic for file in self.files)

    def chunks(self) -> Iterator[tuple[int, EventChunk]]:
        """Number of the file, and events of it, at most `CHUNK` at a time.

        Raises:
            FileError: a part of a file is damaged.
        """
        left = len(self)
        for number, name in enumerate(file.path for file in self.files):
            with open_events(name) as file:
                for chunk in file.chunks(CHUNK, entry_stop=left):
                    yield number, chunk
                left -= min(len(file), left)
            if not left:
                return


def _matches(pattern: str) -> list[str]:
    if Path(pattern).exists() or not glob.has_magic(pattern):
        return [pattern]
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (pattern may be absolute)
    if not found:
        raise FileError(f"No file matches {pattern}.")
    return found


def _refuse_geometry(path: str, events: str, model: str, others: dict[str, str]) -> None:
    for other, geometry in others.items():
        if geometry != events:
            raise FileError(
                f"{path} and {other} were made with different geometries, {events[:12]}… and "
                f"{geometry[:12]}…: evaluate them one by one."
            )
    if events != model:
        raise ModelError(
            f"{path} was made with geometry {events[:12]}…, the model for {model[:12]}…: use a "
            "model for the geometry of the file."
        )


def open_source(patterns: Sequence[str], limit: int | None, geometry_hash: str) -> Source:
    """Find and check the files.

    Args:
        patterns: paths, or patterns such as ``run*.root``.
        limit: most events to read; None for all.
        geometry_hash: of the model's geometry.

    Raises:
        FileError: a file is missing, damaged or foreign, none has an event, or two files were made
            with different geometries.
        ModelError: the model was made for another geometry.
        UsageError: a file is named twice.
    """
    files: list[DataFile] = []
    geometries: dict[str, str] = {}
    own_lists = True
    for path in [path for pattern in patterns for path in _matches(pattern)]:
        if any(Path(path).samefile(file.path) for file in files if Path(path).exists()):
            raise UsageError(f"{path} is named twice: its events would count double.")
        with open_events(path) as events:
            files.append(DataFile(path, len(events), events.has_truth, events.synthetic))
            if events.geometry_hash is not None:
                _refuse_geometry(path, events.geometry_hash, geometry_hash, geometries)
                geometries[path] = events.geometry_hash
            for chunk in events.chunks(1, entry_stop=1):
                own_lists &= chunk.dead is not None and chunk.npho_reference is not None
    if not any(file.events for file in files):
        raise FileError(f"There are no events in {', '.join(file.path for file in files)}.")
    return Source(tuple(files), own_lists, limit)
