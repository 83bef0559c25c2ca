"""The endless sequence of batches of one rank, cut from shuffled windows of blocks.

In each epoch the blocks of all files are put into a new order. The sequence of their events, less
a tail that does not fill a batch on every rank, is dealt to the ranks in equal stretches. A rank
reads several blocks at a time, a window, and shuffles its events. What is in memory is a window
or two, however large the files are.

When events were dropped (`BlockReader.read`), a rank would come out short and other ranks would
wait for it; it then starts another lap over its stretch, shuffled anew, until it has its batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from xec.errors import FileError
from xec.io.root_table import BASKET_ENTRIES
from xec_training.data.batch import TrainingBatch
from xec_training.data.index import Blocks, count, cut
from xec_training.data.reading import BlockReader


@dataclass(frozen=True, slots=True)
class Position:
    """Between two batches: where the first event that was not handed out yet is."""

    epoch: int = 0
    batch: int = 0  # of the epoch
    lap: int = 0  # of the epoch
    window: int = 0  # of the lap
    row: int = 0  # of the shuffled window
    dropped: int = 0  # events, in all windows before this one


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What a rank reads, and in which order.

    Args:
        paths: the files.
        blocks: of all ranks, (n, 3).
        batch_size: events per batch.
        window: blocks that are read and shuffled together.
        seed: of all shuffling.
        rank: which of the `world` ranks this is.
        world: number of ranks.
        pin: leave batches where a GPU can fetch them by itself.
    """

    paths: tuple[Path, ...]
    blocks: Blocks
    batch_size: int
    window: int
    seed: int
    rank: int
    world: int
    pin: bool = False

    @property
    def named(self) -> str:
        """The files, in an error."""
        first, *others = self.paths
        return f"{first} and {len(others)} more files" if others else str(first)

    @property
    def window_batches(self) -> int:
        """Batches in a window of whole blocks."""
        return -(-self.window * BASKET_ENTRIES // self.batch_size)

    @property
    def batches(self) -> int:
        """Per epoch and rank."""
        return count(self.blocks) // (self.batch_size * self.world)

    def stretch(self, epoch: int) -> Blocks:
        """The rank's blocks in the order of an epoch."""
        order = np.random.default_rng([1, self.seed, epoch]).permutation(len(self.blocks))
        events = self.batches * self.batch_size
        return cut(self.blocks[order], self.rank * events, (self.rank + 1) * events)

    def ordered_stretch(self) -> Blocks:
        """The rank's blocks in the order of the files: nothing is left out."""
        total = count(self.blocks)
        first, stop = (rank * total // self.world for rank in (self.rank, self.rank + 1))
        return cut(self.blocks, first, stop)

    def shuffled(self, size: int, epoch: int, lap: int, window: int) -> torch.Tensor:
        """Order of the `size` events of a window."""
        rng = np.random.default_rng([2, self.seed, epoch, self.rank, lap, window])
        return torch.from_numpy(rng.permutation(size))

    def ready(self, batch: TrainingBatch) -> TrainingBatch:
        """The batch as it is handed out."""
        return batch.pinned() if self.pin else batch

    def all_invalid(self, events: int) -> FileError:
        """What to raise when all of so many events were dropped."""
        return FileError(
            f"all {events} events of {self.named} are invalid: none has a sensor with a valid "
            "reading; train with other files."
        )


def shuffled_batches(plan: Plan, start: Position) -> Iterator[tuple[TrainingBatch, Position]]:
    """Batches without end from a position on, each with the position behind it.

    Raises:
        FileError: when a file cannot be read any more, or no event of the rank can be used.
    """
    with BlockReader(plan.paths) as reader:
        while True:
            cursor = _Cursor(plan, reader, start)
            for number in range(start.batch + 1, plan.batches + 1):
                batch = cursor.take(plan.batch_size)
                yield plan.ready(batch), cursor.position(number)
            start = Position(start.epoch + 1, dropped=cursor.dropped)


class _Cursor:
    """A place in one epoch of a rank, with the shuffled window around it."""

    def __init__(self, plan: Plan, reader: BlockReader, start: Position) -> None:
        self.plan, self.reader = plan, reader
        self.blocks = plan.stretch(start.epoch)
        self.epoch, self.lap, self.window, self.row = start.epoch, start.lap, start.window, 0
        self.dropped, self.dropped_here = start.dropped, 0
        self.usable = start.window > 0  # whether this lap has met a usable event
        self.events: TrainingBatch | None = None
        if start.row:
            self.events = self._read()
            self.row = start.row

    def take(self, size: int) -> TrainingBatch:
        """The next `size` events."""
        parts: list[TrainingBatch] = []
        while size:
            if self.events is None:
                self.events = self._read()
            part = self.events[self.row : self.row + size]
            parts.append(part)
            self.row += len(part)
            size -= len(part)
            if self.row == len(self.events):
                self._leave()
        return TrainingBatch.concatenate(parts)

    def position(self, batch: int) -> Position:
        """Where the cursor is, behind the `batch`-th batch of the epoch."""
        if batch == self.plan.batches:
            return Position(self.epoch + 1, dropped=self.dropped)
        return Position(self.epoch, batch, self.lap, self.window, self.row, self.dropped)

    def _read(self) -> TrainingBatch:
        first = self.window * self.plan.window
        group = self.blocks[first : first + self.plan.window]
        # In the order of the files, so that each is opened once.
        events, self.dropped_here = self.reader.read(group[np.lexsort((group[:, 1], group[:, 0]))])
        self.usable |= len(events) > 0
        return events[self.plan.shuffled(len(events), self.epoch, self.lap, self.window)]

    def _leave(self) -> None:
        """On to the next window; behind the last one, to another lap."""
        # Later laps only meet again what the first one has counted.
        self.dropped += self.dropped_here if self.lap == 0 else 0
        self.events, self.row = None, 0
        self.window += 1
        if self.window * self.plan.window >= len(self.blocks):
            if not self.usable:
                raise self.plan.all_invalid(count(self.blocks))
            self.lap, self.window, self.usable = self.lap + 1, 0, False


def ordered_batches(plan: Plan) -> Iterator[TrainingBatch]:
    """One pass over the rank's events in the order of the files; the last batch may be smaller.

    Raises:
        FileError: when a file cannot be read, or no event of the rank can be used.
    """
    blocks = plan.ordered_stretch()
    used = 0
    rest: list[TrainingBatch] = []
    with BlockReader(plan.paths) as reader:
        for first in range(0, len(blocks), plan.window):
            events, _ = reader.read(blocks[first : first + plan.window])
            used += len(events)
            events = TrainingBatch.concatenate([*rest, events])
            whole = len(events) - len(events) % plan.batch_size
            for start in range(0, whole, plan.batch_size):
                yield plan.ready(events[start : start + plan.batch_size])
            rest = [events[whole:]]
    if len(blocks) and not used:
        raise plan.all_invalid(count(blocks))
    yield from (plan.ready(events) for events in rest if len(events))
