"""Sources of files go on to the bit where they were, hold little, and leave no thread behind."""

from __future__ import annotations

import gc
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support_training import (
    epoch,
    reading_threads,
    reads,
    same,
    source,
    until,
    wait_until_full,
    write_numbered_files,
    write_partly_invalid,
)
from xec.errors import FileError, UsageError
from xec.io.root import EventFile
from xec_training.data import reading
from xec_training.data.prefetch import Prefetcher
from xec_training.data.reading import BlockReader
from xec_training.data.stream import Position, shuffled_batches


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_numbered_files(tmp_path_factory.mktemp("numbered"))


@pytest.fixture(scope="module")
def partly_invalid(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_partly_invalid(tmp_path_factory.mktemp("invalid"))


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("taken", [0, 1, 6, 13, 14, 15, 29])
def test_a_file_source_goes_on_where_it_was(paths: list[Path], taken: int, ahead: bool) -> None:
    """In the middle of an epoch (14 batches), at its end and after it."""
    first = source(paths)
    for _ in range(taken):
        first.next_batch()
    if ahead and taken:
        assert first._ahead is not None
        wait_until_full(first._ahead)
    state = json.loads(json.dumps(first.state_dict()))
    expected = [first.next_batch() for _ in range(16)]
    resumed = source(paths)
    if ahead:  # a thread that runs must not carry on with what it has read
        resumed.next_batch()
    resumed.load_state_dict(state)
    assert all(same(resumed.next_batch(), batch) for batch in expected)
    assert resumed.state_dict() == first.state_dict()
    first.close()
    resumed.close()


def test_resuming_in_another_place_gives_other_batches(paths: list[Path]) -> None:
    first = source(paths)
    first.next_batch()
    late = source(paths)
    late.load_state_dict(first.state_dict())
    assert not same(late.next_batch(), source(paths).next_batch())


def test_resuming_reads_one_window_again(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = source(paths, window=1, batch_size=5)
    for _ in range(50):
        first.next_batch()
    state = first.state_dict()
    first.close()
    read = reads(monkeypatch)
    resumed = source(paths, window=1, batch_size=5)
    resumed.load_state_dict(state)
    resumed.next_batch()
    resumed.close()
    assert sum(read) < 250  # what was handed out before


def test_a_state_of_other_files_is_refused(paths: list[Path]) -> None:
    state = source(paths).state_dict()
    with pytest.raises(UsageError, match="cannot go on with other data: its files"):
        source(paths[:2]).load_state_dict(state)
    with pytest.raises(UsageError, match="its batch_size was 20 and is now 10"):
        source(paths, batch_size=10).load_state_dict(state)


def test_sources_with_dropped_events_resume_as_well(partly_invalid: list[Path]) -> None:
    first = source(partly_invalid, batch_size=7, window=1)
    for _ in range(20):
        state, resumed = first.state_dict(), source(partly_invalid, batch_size=7, window=1)
        resumed.load_state_dict(state)
        assert same(resumed.next_batch(), first.next_batch())
        assert resumed.dropped == first.dropped
        resumed.close()
    first.close()


# --- memory and threads


def test_little_is_read_ahead(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    read = reads(monkeypatch)
    one = source(paths, window=1, batch_size=5)
    for number in range(1, 120):
        one.next_batch()
        assert one._ahead is not None
        wait_until_full(one._ahead)
        # What waits, what is being made, and the window that it is cut from.
        assert sum(read) - 5 * number <= 3 * 64 + 2 * 5
    one.close()
    del read[:]
    control = Prefetcher(shuffled_batches(one._plan, Position()), 10**6)
    until(lambda: sum(read) > 10 * 64)
    control.close()


def test_few_files_are_open_at_a_time(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    now: list[int] = []
    most = 0

    class Counted(EventFile):
        def __init__(self, path: Path) -> None:
            nonlocal most
            super().__init__(path)
            now.append(1)
            most = max(most, len(now))

        def __exit__(self, *why: Any) -> None:
            now.pop()
            super().__exit__(*why)

    monkeypatch.setattr(reading, "EventFile", Counted)
    one = source(paths, window=1)
    epoch(one)
    one.close()
    assert most == 3
    assert not now
    monkeypatch.setattr(reading, "MAX_OPEN_FILES", 2)
    most = 0
    epoch(one)
    one.close()
    assert most == 2


def test_no_thread_outlives_its_source(paths: list[Path]) -> None:
    before = set(threading.enumerate())
    one, forgotten = source(paths), source(paths)
    for other in (one, forgotten):
        other.next_batch()
    half = one.batches()
    next(half)
    assert reading_threads(before) == 3
    half.close()  # type: ignore[attr-defined]
    one.close()
    assert reading_threads(before) == 1
    del forgotten, other
    gc.collect()
    until(lambda: reading_threads(before) == 0)
    # A source that was closed goes on where it was.
    assert len(one.next_batch()) == 20
    one.close()


def test_errors_of_the_thread_arrive(paths: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "gone.root"
    path.write_bytes(paths[2].read_bytes())
    one = source([path])
    path.unlink()
    for read in (one.next_batch, lambda: next(one.batches())):
        with pytest.raises(FileError, match=r"gone\.root does not exist"):
            read()


def test_waiting_is_counted(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    one = source(paths, window=6)
    assert one.waited_s == 0.0
    go, plain = threading.Event(), BlockReader.read

    def held(self: BlockReader, blocks: np.ndarray) -> Any:
        assert go.wait(10)
        return plain(self, blocks)

    monkeypatch.setattr(BlockReader, "read", held)
    threading.Timer(0.2, go.set).start()
    started = time.perf_counter()
    one.next_batch()
    assert 0.15 < one.waited_s <= time.perf_counter() - started
    one.close()
