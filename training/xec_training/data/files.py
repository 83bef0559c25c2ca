"""Training events from files, read one window ahead in the background.

Source of the order of things: `xec_training.data.stream`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from xec.errors import FileError, UsageError
from xec_training.data.batch import TrainingBatch
from xec_training.data.index import count, digest, index_files, part_blocks
from xec_training.data.prefetch import Prefetcher
from xec_training.data.resume import refuse_other_state
from xec_training.data.source import Part
from xec_training.data.stream import Plan, Position, ordered_batches, shuffled_batches
from xec_training.data.truth import read_truth

VALIDATION_SHARE: Final = 0.05
WINDOW: Final = 16  # blocks of 64 events: 75 MB

T = TypeVar("T")


class FileSource:
    """Events of files, shuffled anew in each epoch and shared out to the ranks.

    Every event of the part is given to exactly one rank per epoch, but for a tail of less than
    `world` x `batch_size` events that would not fill a batch everywhere; the tail is another one
    in each epoch. All batches have `batch_size` events.

    Args:
        paths: event files, at least one.
        batch_size: events per batch.
        seed: of the shuffling, not negative; the parts do not depend on it.
        rank: which of the `world` ranks this is.
        world: number of ranks.
        device: where batches are given.
        part: training or validation events; no event is in both.
        validation_share: of the events of each file, its last ones.
        window: blocks of up to 64 events that are read and shuffled together.
        geometry_hash: of the training's geometry; files that name another one are refused.
        require_truth: refuse files without truth.

    Attributes:
        waited_s: seconds that `next_batch` has waited for events to be read.

    Raises:
        FileError: when a file cannot be read or used, or the part holds no event.
        UsageError: when the training part does not fill one batch on each rank.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | None = None,
        part: Part = "train",
        validation_share: float = VALIDATION_SHARE,
        window: int = WINDOW,
        geometry_hash: str | None = None,
        require_truth: bool = False,
    ) -> None:
        self.device = torch.device("cpu") if device is None else device
        self.part, self.validation_share = part, validation_share
        self._files = index_files(paths, geometry_hash, require_truth)
        blocks = part_blocks(self._files, part, validation_share)
        self._plan = Plan(
            tuple(paths),
            blocks,
            batch_size,
            window,
            seed,
            rank,
            world,
            pin=self.device.type == "cuda",
        )
        self._refuse_none()
        if part == "train":
            self._refuse_too_few()
        self._position = Position()
        self._ahead: Prefetcher[tuple[TrainingBatch, Position]] | None = None
        self.waited_s = 0.0

    @property
    def batches_per_epoch(self) -> int:
        """Of each rank."""
        return self._plan.batches

    @property
    def events_per_epoch(self) -> int:
        """Of all ranks together."""
        return self._plan.batches * self._plan.batch_size * self._plan.world

    @property
    def synthetic(self) -> bool:
        """Whether any of the files is."""
        return any(file.synthetic for file in self._files)

    @property
    def dropped(self) -> int:
        """Events without any valid sensor that this rank has left out, in all epochs.

        Counted when the window around them is used up.
        """
        return self._position.dropped

    @property
    def description(self) -> dict[str, Any]:
        """The files in short, with a digest of their names and numbers of events."""
        return {
            "kind": "files",
            "part": self.part,
            "files": len(self._files),
            "first": self._files[0].path.name,
            "last": self._files[-1].path.name,
            "digest": digest(self._files),
            "events": count(self._plan.blocks),
            "validation_share": self.validation_share,
            "seed": self._plan.seed,
        }

    def next_batch(self) -> TrainingBatch:
        """The next events.

        Raises:
            FileError: when a file cannot be read any more, or no event of the rank can be used.
            UsageError: when the part does not fill one batch on each rank.
        """
        if self._ahead is None:
            self._refuse_too_few()
            self._ahead = self._prefetched(shuffled_batches(self._plan, self._position))
        started = time.perf_counter()
        batch, position = next(self._ahead)
        self.waited_s += time.perf_counter() - started
        self._position = position
        return batch.to(self.device)

    def batches(self) -> Iterator[TrainingBatch]:
        """One pass over the rank's share of the part, in the order of the files.

        Nothing is left out but events without any valid sensor; the last batch may be smaller.

        Raises:
            FileError: as in `next_batch`.
        """
        with closing(self._prefetched(ordered_batches(self._plan))) as ahead:
            for batch in ahead:
                yield batch.to(self.device)

    def truth(self) -> tuple[Tensor, Tensor]:
        """Energy (M,) and angle (M, 2) of all events of the part that have a truth.

        Raises:
            FileError: when a file cannot be read any more.
        """
        return read_truth(self._plan.paths, self._plan.blocks)

    def state_dict(self) -> dict[str, Any]:
        """Where the last batch given ends, however far the thread has read."""
        return {"source": self._identity(), "position": asdict(self._position)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; at most one window is read again.

        Raises:
            UsageError: when it belongs to another source.
        """
        refuse_other_state(state, self._identity())
        self.close()
        self._position = Position(**state["position"])

    def close(self) -> None:
        """End the thread."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def _prefetched(self, items: Iterator[T]) -> Prefetcher[T]:
        """Items of one window ahead."""
        return Prefetcher(items, self._plan.window_batches)

    def _identity(self) -> dict[str, int | str]:
        plan = self._plan
        return {
            "kind": "files",
            "part": self.part,
            "files": digest(self._files),
            "validation_share": str(self.validation_share),
            "batch_size": plan.batch_size,
            "window": plan.window,
            "seed": plan.seed,
            "rank": plan.rank,
            "world": plan.world,
        }

    def _refuse_none(self) -> None:
        events = count(self._plan.blocks)
        if not events:
            raise FileError(
                f"There are no {self.part} events in {self._plan.named} with a validation share of "
                f"{self.validation_share:g}: give more files or another share."
            )
        if events < self._plan.world:
            raise FileError(
                f"There are {events} {self.part} events in {self._plan.named} for "
                f"{self._plan.world} ranks: give more files or use fewer processes."
            )

    def _refuse_too_few(self) -> None:
        if not self._plan.batches:
            plan, events = self._plan, count(self._plan.blocks)
            raise UsageError(
                f"There are {events} {self.part} events in {plan.named}, not a batch of "
                f"{plan.batch_size} for each of {plan.world} ranks: lower batch_size."
            )
