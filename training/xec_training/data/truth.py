"""The truth of many events without their readings, which are a thousand times as large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xec.event import Truth
from xec.io.root_columns import ColumnReader
from xec.io.root_schema import TREE, TRUTH
from xec.io.root_tree import find_tree, has_branch, open_file, read_columns
from xec_training.data.index import Blocks

CHUNK: Final = 100_000  # events


def read_truth(paths: Sequence[Path], blocks: Blocks) -> tuple[Tensor, Tensor]:
    """Energy (M,) in MeV and angle (M, 2) in degrees of the events that have a truth.

    Args:
        paths: the files that blocks refer to by number.
        blocks: (n, 3), those of a file side by side.

    Raises:
        FileError: when a file is damaged, or is not there any more.
    """
    energy, angle = [torch.empty(0)], [torch.empty(0, 2)]
    for number in np.unique(blocks[:, 0]).tolist():
        own = blocks[blocks[:, 0] == number]
        for truth, known in _truth(paths[number], int(own[:, 1].min()), int(own[:, 2].max())):
            energy.append(torch.from_numpy(truth.energy[known]))
            angle.append(torch.from_numpy(truth.angle[known]))
    return torch.cat(energy), torch.cat(angle)


def _truth(path: Path, start: int, stop: int) -> Iterator[tuple[Truth, NDArray[np.int64]]]:
    """Truth of entries and which of them have it."""
    names = ["run", *(branch.name for branch in TRUTH)]
    with closing(open_file(path)) as file:
        tree = find_tree(file, TREE, path)
        if not all(has_branch(tree, name) for name in names):
            return
        steps = read_columns(tree, names, size=CHUNK, start=start, stop=stop, path=path)
        for first, columns in steps:
            truth, known = ColumnReader(path, first, columns).truth()
            if truth is not None:
                yield truth, known.nonzero()[0]
