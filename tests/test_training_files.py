"""Events from files for a training: every event once, in any order; what cannot be used."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from io_samples import random_events, raw_columns, write_events, write_raw
from support_training import (
    INVALID,
    SIZES,
    TOTAL,
    epoch,
    firsts,
    flat,
    invalid_columns,
    numbers,
    same,
    source,
    write_numbered_files,
    write_partly_invalid,
)
from xec.errors import FileError, UsageError
from xec.io.root import EventFile
from xec_training.data.batch import TrainingBatch
from xec_training.data.files import FileSource
from xec_training.data.index import IndexedFile, count, cut, part_blocks, validation_entries


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_numbered_files(tmp_path_factory.mktemp("numbered"))


@pytest.fixture(scope="module")
def partly_invalid(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_partly_invalid(tmp_path_factory.mktemp("invalid"))


# --- every event once


def test_an_epoch_holds_each_event_once_in_whole_batches(paths: list[Path]) -> None:
    one = source(paths)
    assert one.batches_per_epoch == TOTAL // 20
    assert one.events_per_epoch == 280
    epochs = [epoch(one) for _ in range(5)]
    everything = set(range(1, TOTAL + 1))
    assert {len(batch) for batch in epochs[0]} == {20}
    for events in map(flat, epochs):
        assert len(set(events)) == len(events) == 280
        assert set(events) <= everything
    # Another order in each epoch, and another tail in most.
    assert all(a != b for a, b in itertools.combinations(epochs, 2))
    assert len({frozenset(everything - set(flat(e))) for e in epochs}) > 2
    one.close()


def test_events_keep_their_readings(paths: list[Path]) -> None:
    expected: dict[int, torch.Tensor] = {}
    for path in paths:
        with EventFile(path) as file:
            for chunk in file.chunks():
                batch = TrainingBatch.from_chunk(chunk)
                expected |= dict(zip(numbers(batch), batch.npho, strict=True))
    one = source(paths)
    for _ in range(3):
        batch = one.next_batch()
        for number, npho in zip(numbers(batch), batch.npho, strict=True):
            assert torch.equal(npho, expected[number])
    one.close()


def test_batches_mix_the_files(paths: list[Path]) -> None:
    one = source(paths, window=6)
    mixed = [{number > SIZES[0] for number in batch} for batch in epoch(one)]
    assert all(len(kinds) == 2 for kinds in mixed)
    one.close()
    ordered = [numbers(batch) for batch in one.batches()]
    unmixed = [len({number > SIZES[0] for number in batch}) for batch in ordered]
    assert sum(unmixed) < len(unmixed) + 2  # control: only one batch lies across the border


def test_seeds_differ_and_equal_ones_do_not(paths: list[Path]) -> None:
    batches = [source(paths, seed=seed).next_batch() for seed in (3, 3, 4)]
    assert same(batches[0], batches[1])
    assert not same(batches[0], batches[2])


@pytest.mark.parametrize("batch_size", [7, 33])
def test_ranks_share_an_epoch_out(paths: list[Path], batch_size: int) -> None:
    ranks = [source(paths, rank=r, world=3, batch_size=batch_size) for r in range(3)]
    assert {one.batches_per_epoch for one in ranks} == {TOTAL // (3 * batch_size)}
    for _ in range(2):
        seen = [set(flat(epoch(one))) for one in ranks]
        union = set.union(*seen)
        assert sum(map(len, seen)) == len(union) == ranks[0].events_per_epoch
        assert 0 <= TOTAL - len(union) < 3 * batch_size
    for one in ranks:
        one.close()


def test_a_pass_holds_every_event_once_in_order(paths: list[Path]) -> None:
    one = source(paths)
    ordered = [numbers(batch) for batch in one.batches()]
    assert flat(ordered) == list(range(1, TOTAL + 1))
    assert [len(batch) for batch in ordered] == [20] * 14 + [17]
    shared = [
        flat([numbers(b) for b in source(paths, rank=r, world=3).batches()]) for r in range(3)
    ]
    assert flat(shared) == flat(ordered)
    assert all(shared)


# --- parts


def energies(one: FileSource) -> set[int]:
    return {number for batch in one.batches() for number in numbers(batch)}


def test_parts_are_disjoint_complete_and_stable(paths: list[Path]) -> None:
    train = energies(source(paths, part="train", validation_share=0.2))
    validation = energies(source(paths, part="validation", validation_share=0.2))
    assert not train & validation
    assert train | validation == set(range(1, TOTAL + 1))
    assert len(validation) == pytest.approx(0.2 * TOTAL, abs=len(paths))
    for other in ({"seed": 9}, {"window": 1, "batch_size": 3}):
        again = source(paths, part="validation", validation_share=0.2, **other)
        assert energies(again) == validation
    turned = source(paths[::-1], part="validation", validation_share=0.2)
    assert energies(turned) == validation
    shares = [
        energies(source(paths, part="validation", validation_share=0.2, rank=r, world=2))
        for r in range(2)
    ]
    assert shares[0] | shares[1] == validation
    assert not shares[0] & shares[1]


def test_small_files_give_their_share_on_average() -> None:
    files = [IndexedFile(Path(f"run{number}.root"), 10, True) for number in range(4000)]
    kept = [validation_entries(file, 0.05) for file in files]
    assert set(kept) == {0, 1}
    # 4000 draws of probability 1/2, four standard deviations.
    assert sum(kept) == pytest.approx(2000, abs=4 * np.sqrt(1000))
    assert not any(validation_entries(file, 0.0) for file in files)
    assert all(validation_entries(file, 1.0) == 10 for file in files)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.37, 1.0])
def test_blocks_of_both_parts_cover_every_entry_once(share: float) -> None:
    files = [IndexedFile(Path(f"{n}.root"), n, True) for n in (0, 1, 63, 64, 65, 200)]
    covered: Counter[tuple[int, int]] = Counter()
    for part in ("train", "validation"):
        for file, start, stop in part_blocks(files, part, share).tolist():
            assert 0 < stop - start <= 64
            assert start // 64 == (stop - 1) // 64  # within a basket
            covered.update((file, entry) for entry in range(start, stop))
    expected = {(n, entry) for n, file in enumerate(files) for entry in range(file.entries)}
    assert set(covered) == expected
    assert set(covered.values()) == {1}


def test_cutting_blocks_is_cutting_the_sequence_of_their_events() -> None:
    blocks = np.array([[0, 5, 9], [1, 0, 1], [0, 20, 26]])

    def events(rows: np.ndarray) -> list[tuple[int, int]]:
        return [(file, entry) for file, a, b in rows.tolist() for entry in range(a, b)]

    whole = events(blocks)
    assert count(blocks) == 11
    for first, stop in itertools.combinations(range(12), 2):
        assert events(cut(blocks, first, stop)) == whole[first:stop]


# --- events that cannot be used


def test_events_without_a_valid_sensor_are_dropped_and_counted(partly_invalid: list[Path]) -> None:
    ranks = [source(partly_invalid, batch_size=10, rank=r, world=3) for r in range(3)]
    for round_ in (1, 2):
        seen = []
        for one in ranks:
            batches = [firsts(one.next_batch()) for _ in range(one.batches_per_epoch)]
            assert [len(batch) for batch in batches] == [10] * 4
            seen.append(set(flat(batches)))
        assert sum(map(len, seen)) == 90  # each rank's own, some of them twice
        assert set.union(*seen) == set(range(INVALID + 1, 121))
        assert sum(one.dropped for one in ranks) == INVALID * round_
    for one in ranks:
        one.close()


def test_a_pass_leaves_invalid_events_out(partly_invalid: list[Path]) -> None:
    ordered = [firsts(batch) for batch in source(partly_invalid).batches()]
    assert flat(ordered) == list(range(INVALID + 1, 121))


def test_files_of_invalid_events_alone_are_named(tmp_path: Path) -> None:
    names = [write_raw(tmp_path / f"{n}.root", invalid_columns(70, 70)) for n in "ab"]
    one = source(names)
    for read in (one.next_batch, lambda: next(one.batches())):
        with pytest.raises(FileError, match=r"all 140 events of .*a\.root and 1 more files are"):
            read()


# --- files that do not fit


def test_another_geometry_is_named(paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"run0\.root was made with the geometry geometry, the"):
        source(paths, geometry_hash="other")
    source(paths, geometry_hash="geometry")
    unknown = write_raw(tmp_path / "a.root", raw_columns(20))  # says nothing about its geometry
    source([unknown], geometry_hash="other")


def test_a_missing_truth_is_named_where_it_is_needed(paths: list[Path], tmp_path: Path) -> None:
    bare = write_events(tmp_path / "bare.root", random_events(20, truth=False), synthetic=False)
    with pytest.raises(FileError, match=r"bare\.root has no truth \(energyTruth"):
        source([*paths, bare], require_truth=True)
    source(paths, require_truth=True)
    one = source([bare])
    assert not one.next_batch().has_truth.any()
    assert not one.synthetic
    assert source(paths).synthetic
    one.close()


def test_the_truth_is_read_without_the_readings(paths: list[Path], tmp_path: Path) -> None:
    """That of the part on all ranks, in the order of the files; of events that have one."""
    bare = write_events(tmp_path / "bare.root", random_events(20, truth=False), synthetic=False)
    some = random_events(20, seed=5)
    assert some.truth is not None
    some.truth.energy[:5] = np.nan
    write_events(tmp_path / "some.root", some)
    every = [*paths, bare, tmp_path / "some.root"]
    energy, angle = source(every, rank=1, world=2).truth()
    batches = [b[b.has_truth] for r in range(2) for b in source(every, rank=r, world=2).batches()]
    expected = TrainingBatch.concatenate(batches)
    assert len(energy) == TOTAL + 15
    assert torch.equal(energy, expected.energy)
    assert torch.equal(angle, expected.angle)
    held_out = source(every, part="validation", validation_share=0.2).truth()[0]
    assert 0.15 * TOTAL < len(held_out) < 0.25 * (TOTAL + 40)
    assert [len(part) for part in source([bare]).truth()] == [0, 0]


def test_too_few_events_are_named(paths: list[Path]) -> None:
    with pytest.raises(UsageError, match=r"There are 47 train events in .*for each of 3 ranks"):
        source(paths[2:], world=3)
    with pytest.raises(FileError, match=r"1 validation events .* for 3 ranks"):
        source(paths[:1], part="validation", validation_share=1.0 / SIZES[0], world=3)
    with pytest.raises(FileError, match="There are no validation events"):
        source(paths, part="validation")
    small = source(paths[2:], part="validation", validation_share=0.1)
    assert len(list(small.batches())) == 1  # a pass needs no full batch
    with pytest.raises(UsageError, match="lower batch_size"):
        small.next_batch()


def test_a_description_is_fit_for_json(paths: list[Path]) -> None:
    description = json.loads(json.dumps(source(paths).description))
    assert description["events"] == TOTAL
    assert description["files"] == 3
    assert description["digest"] != source(paths[:2]).description["digest"]
