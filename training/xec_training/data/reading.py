"""Reading blocks of events, with few files open at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import torch

from xec.io.root import EventFile
from xec_training.data.batch import TrainingBatch
from xec_training.data.index import Blocks

MAX_OPEN_FILES: Final = 8


class BlockReader:
    """Reads blocks, keeping the files that were used last open; a context manager.

    Args:
        paths: the files that blocks refer to by number.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._open: OrderedDict[int, EventFile] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._open:
            self._close_oldest()

    def read(self, blocks: Blocks) -> tuple[TrainingBatch, int]:
        """The usable events of some blocks, one at least, in their order, and how many are not.

        An event without any valid sensor shows a network nothing and is not usable.

        Raises:
            FileError: when a file is damaged, or is not there any more.
        """
        found: list[TrainingBatch] = []
        dropped = 0
        for file, start, stop in blocks.tolist():
            for chunk in self._file(file).chunks(stop - start, entry_start=start, entry_stop=stop):
                batch = TrainingBatch.from_chunk(chunk)
                usable = torch.from_numpy(chunk.events.npho_valid).any(dim=1)
                if not usable.all():
                    dropped += len(usable) - int(usable.sum())
                    batch = batch[usable]
                found.append(batch)
        return TrainingBatch.concatenate(found), dropped

    def _file(self, number: int) -> EventFile:
        if number in self._open:
            self._open.move_to_end(number)
        else:
            if len(self._open) == MAX_OPEN_FILES:
                self._close_oldest()
            self._open[number] = EventFile(self._paths[number])
        return self._open[number]

    def _close_oldest(self) -> None:
        _, file = self._open.popitem(last=False)
        file.__exit__(None, None, None)
