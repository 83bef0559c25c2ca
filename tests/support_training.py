"""Event files for the tests of training sources, and a look at what their threads do."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from io_samples import random_events, raw_columns, write_events, write_raw
from xec_training.data.batch import TrainingBatch
from xec_training.data.files import FileSource
from xec_training.data.index import count
from xec_training.data.prefetch import Prefetcher
from xec_training.data.reading import BlockReader

SIZES = (150, 100, 47)
TOTAL = sum(SIZES)
INVALID = 30


def write_numbered(path: Path, first: int, size: int, seed: int) -> None:
    """Events that are told apart by their energy: 1, 2, 3 ... MeV."""
    events = random_events(size, seed)
    assert events.truth is not None
    number = np.arange(first, first + size, dtype=np.float32) + 1
    write_events(path, replace(events, truth=replace(events.truth, energy=number)))


def write_numbered_files(folder: Path) -> list[Path]:
    """Files whose 297 events have the energies 1 to 297 MeV."""
    first = 0
    for number, size in enumerate(SIZES):
        write_numbered(folder / f"run{number}.root", first, size, number)
        first += size
    return sorted(folder.glob("*.root"))


def invalid_columns(size: int, invalid: int) -> dict[str, np.ndarray]:
    """Events of which the first `invalid` have no valid sensor."""
    columns = raw_columns(size)
    columns["npho"][:invalid] = 1e10
    columns["npho"][:, 0] = np.where(np.arange(size) < invalid, 1e10, 1 + np.arange(size))
    return columns


def write_partly_invalid(folder: Path) -> list[Path]:
    """120 events told apart by the count of their first sensor, 30 of which are invalid."""
    return [write_raw(folder / "a.root", invalid_columns(120, INVALID))]


def source(paths: list[Path], **changes: Any) -> FileSource:
    settings: dict[str, Any] = {"batch_size": 20, "seed": 0, "window": 2, "validation_share": 0.0}
    return FileSource(paths, **{**settings, **changes})


def numbers(batch: TrainingBatch) -> list[int]:
    return [round(value) for value in batch.energy.tolist()]


def epoch(one: FileSource) -> list[list[int]]:
    return [numbers(one.next_batch()) for _ in range(one.batches_per_epoch)]


def flat(batches: list[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(batches))


def same(a: TrainingBatch, b: TrainingBatch) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def firsts(batch: TrainingBatch) -> list[int]:
    return [round(value) for value in batch.npho[:, 0].tolist()]


def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by the number of events of each window that is read."""
    found: list[int] = []
    plain = BlockReader.read

    def counted(self: BlockReader, blocks: np.ndarray) -> Any:
        found.append(count(blocks))
        return plain(self, blocks)

    monkeypatch.setattr(BlockReader, "read", counted)
    return found


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def wait_until_full(items: Prefetcher[Any]) -> None:
    until(lambda: len(items._channel.items) == items._channel.ahead)


def reading_threads(besides: set[threading.Thread]) -> int:
    """Prefetching threads that run, without those of other tests."""
    return sum(t.name == "xec-prefetch" for t in set(threading.enumerate()) - besides)
