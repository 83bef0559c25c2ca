"""Which events of which files a training uses: parts, blocks, and the share of each rank.

A block is a run of entries of one file, at most as many as a basket of our writer holds, and the
unit that is shuffled and read. Blocks are rows (file, start, stop) of one array, 24 bytes for 64
events, so that an index of millions of events stays small.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xec.errors import FileError
from xec.io.root import EventFile
from xec.io.root_table import BASKET_ENTRIES
from xec_training.data.source import Part

Blocks = NDArray[np.int64]  # (n, 3) file, first entry, entry after the last


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """What one opening of a file tells."""

    path: Path
    entries: int
    synthetic: bool


def index_files(
    paths: Sequence[Path], geometry_hash: str | None, require_truth: bool
) -> tuple[IndexedFile, ...]:
    """Open each file once, one at a time.

    Args:
        paths: event files.
        geometry_hash: of the training; files that name another one are refused, files that name
            none are taken.
        require_truth: refuse files without the branches of the truth.

    Raises:
        FileError: the first file that cannot be read or used.
    """
    return tuple(_indexed(path, geometry_hash, require_truth) for path in paths)


def _indexed(path: Path, geometry_hash: str | None, require_truth: bool) -> IndexedFile:
    with EventFile(path) as file:
        if None not in (geometry_hash, file.geometry_hash) and file.geometry_hash != geometry_hash:
            raise FileError(
                f"{path} was made with the geometry {str(file.geometry_hash)[:12]}, the training "
                f"uses {str(geometry_hash)[:12]}: train with the geometry of the file."
            )
        if require_truth and not file.has_truth:
            raise FileError(
                f"{path} has no truth (energyTruth and the like), which a training of the gamma's "
                "quantities needs: give simulated files, or train the filling alone."
            )
        return IndexedFile(path, len(file), file.synthetic)


def validation_entries(file: IndexedFile, share: float) -> int:
    """How many of a file's entries, its last ones, are kept for validation.

    Whole numbers whose expectation over files is exact: `share` of the entries plus a number
    between 0 and 1 that depends on nothing but the file's name, rounded down. So even files of a
    few events give their share, and an event's part never changes while files keep their names.
    """
    digest = hashlib.sha256(file.path.name.encode()).digest()
    dither = int.from_bytes(digest[:4]) / 2.0**32
    return min(file.entries, math.floor(share * file.entries + dither)) if share > 0 else 0


def part_blocks(
    files: Sequence[IndexedFile], part: Part, validation_share: float, size: int = BASKET_ENTRIES
) -> Blocks:
    """The blocks of one part, in the order of files and entries.

    Args:
        files: all files.
        part: which of the two.
        validation_share: of the events that are kept out of the training.
        size: most entries of a block. Blocks begin at its multiples, as baskets do.
    """
    found: list[Blocks] = []
    for number, file in enumerate(files):
        split = file.entries - validation_entries(file, validation_share)
        first, last = (0, split) if part == "train" else (split, file.entries)
        inner = np.arange((first // size + 1) * size, last, size, dtype=np.int64)
        edges = np.concatenate([[first], inner, [last]]).astype(np.int64)
        starts, stops = edges[:-1], edges[1:]
        rows = np.stack([np.full_like(starts, number), starts, stops], axis=1)
        found.append(rows[stops > starts])
    return np.concatenate(found) if found else np.empty((0, 3), dtype=np.int64)


def count(blocks: Blocks) -> int:
    """Number of events."""
    return int((blocks[:, 2] - blocks[:, 1]).sum())


def cut(blocks: Blocks, first: int, stop: int) -> Blocks:
    """Events `first` to `stop` (excluded) of the sequence of blocks; the outer ones are cut."""
    length = blocks[:, 2] - blocks[:, 1]
    end = np.cumsum(length)
    begin = end - length
    inside = (end > first) & (begin < stop)
    kept: Blocks = blocks[inside].copy()
    kept[:, 1] += np.maximum(0, first - begin[inside])
    kept[:, 2] -= np.maximum(0, end[inside] - stop)
    return kept


def digest(files: Sequence[IndexedFile]) -> str:
    """Of names and numbers of entries: whether two sets of files are the same."""
    lines = "".join(f"{file.path.name} {file.entries}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]
