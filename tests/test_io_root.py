"""Reading event files: values, streams, and what the file may or must hold."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import uproot

from io_samples import random_events, raw_columns, write_events, write_raw
from xec.contract import MIN_PHOTONS_FOR_TIME
from xec.errors import FileError, UsageError
from xec.event import EventBatch
from xec.io.root import event_count, open_events, read_events
from xec.io.root_writer import RootEventWriter

Columns = dict[str, np.ndarray]


def whole(path: Path, chunk: int = 256) -> EventBatch:
    (batch,) = read_events(path, chunk)
    return batch


def test_units_and_bits_of_a_foreign_file(tmp_path: Path) -> None:
    columns = raw_columns(5)
    columns["npho"][1, 10] = 1e10
    columns["npho"][2, 11] = np.nan
    columns["npho"][3, 12] = -2.5
    columns["relative_time"][4, 13] = 1e10
    columns["npho"][4, 13] = 500
    batch = whole(write_raw(tmp_path / "a.root", columns))
    expected = np.ones((5, 4760), dtype=bool)
    expected[1, 10] = expected[2, 11] = False
    assert np.array_equal(batch.npho_valid, expected)
    assert np.array_equal(batch.npho[expected], columns["npho"][expected])
    assert batch.npho[1, 10] == batch.npho[2, 11] == batch.time[4, 13] == 0
    assert not batch.time_valid[4, 13]
    good = batch.time_valid
    nanoseconds = columns["relative_time"].astype(np.float64) * 1e9
    np.testing.assert_allclose(batch.time[good], nanoseconds[good], rtol=1e-7)
    assert (batch.time[~good] == 0).all()
    assert batch.truth is None
    assert batch.run.dtype == batch.event.dtype == np.int64


def test_a_time_needs_more_light_than_the_threshold(tmp_path: Path) -> None:
    columns = raw_columns(1)
    limit = np.float32(MIN_PHOTONS_FOR_TIME)
    columns["npho"][0, :4] = [limit, np.nextafter(limit, np.float32(1e9)), 1e10, -5]
    batch = whole(write_raw(tmp_path / "a.root", columns))
    assert batch.time_valid[0, :4].tolist() == [False, True, False, False]


def test_float64_branches_and_wide_integers_are_read(tmp_path: Path) -> None:
    columns = raw_columns(2)
    wide = {
        "run": columns["run"].astype(np.int64) + 2**40,
        "event": columns["event"].astype(np.uint32),
        "npho": columns["npho"].astype(np.float64),
        "relative_time": columns["relative_time"].astype(np.float64),
    }
    batch = whole(write_raw(tmp_path / "a.root", wide))
    assert batch.run.tolist() == [2**40 + 3] * 2
    assert np.array_equal(batch.npho, columns["npho"])


def test_older_name_of_time_is_read_in_seconds(tmp_path: Path) -> None:
    columns = raw_columns(2)
    new = whole(write_raw(tmp_path / "new.root", columns))
    columns["time"] = columns.pop("relative_time")
    old = whole(write_raw(tmp_path / "old.root", columns))
    assert np.array_equal(new.time, old.time)
    assert old.time_valid.any()


@pytest.mark.parametrize("name", ["nphe", "relative_npho"])
def test_older_counts_are_refused_with_the_way_out(tmp_path: Path, name: str) -> None:
    columns = raw_columns(1)
    columns[name] = columns.pop("npho")
    path = write_raw(tmp_path / "old.root", columns)
    with pytest.raises(FileError, match=f"no branch npho, only {name}: .*Write npho"):
        event_count(path)


def test_dead_sensors_are_invalid_even_if_they_hold_numbers(tmp_path: Path) -> None:
    columns = raw_columns(3)
    columns["dead"] = np.zeros((3, 4760), dtype=np.int32)
    columns["dead"][0, 5] = columns["dead"][1:, 6] = 1
    path = write_raw(tmp_path / "a.root", columns)
    with open_events(path) as file:
        (chunk,) = file.chunks()
    assert chunk.dead is not None
    assert np.argwhere(chunk.dead).tolist() == [[0, 5], [1, 6], [2, 6]]
    assert np.array_equal(~chunk.events.npho_valid, chunk.dead)
    assert not (chunk.events.time_valid & chunk.dead).any()
    assert (chunk.events.npho[chunk.dead] == 0).all()


@pytest.mark.parametrize("size", [1, 7, 64, 100])
def test_chunks_join_to_the_whole(tmp_path: Path, size: int) -> None:
    events = random_events(90)
    path = write_events(tmp_path / "a.root", events)
    sizes = []
    row = 3
    for part in read_events(path, size, entry_start=3, entry_stop=80):
        sizes.append(len(part))
        assert np.array_equal(part.npho, events.npho[row : row + len(part)])
        assert np.array_equal(part.event, events.event[row : row + len(part)])
        row += len(part)
    assert row == 80
    assert max(sizes) <= size
    assert len(sizes) == -(-77 // size)


def test_ranges_outside_the_file(tmp_path: Path) -> None:
    path = write_events(tmp_path / "a.root", random_events(3))
    assert [len(part) for part in read_events(path, entry_stop=99)] == [3]
    assert list(read_events(path, entry_start=3)) == []
    assert list(read_events(path, entry_start=50, entry_stop=60)) == []
    for wrong in ({"chunk": 0}, {"entry_start": -1}):
        with pytest.raises(UsageError):
            list(read_events(path, **wrong))


def test_an_empty_tree_is_a_success_with_no_events(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "empty.root", raw_columns(0))
    assert event_count(path) == 0
    assert list(read_events(path)) == []


def test_truth_is_converted(tmp_path: Path) -> None:
    events = random_events(4)
    path = write_events(tmp_path / "a.root", events)
    with uproot.open(path) as file:
        giga = file["tree"]["energyTruth"].array(library="np")
    truth = whole(path).truth
    assert truth is not None
    assert events.truth is not None
    np.testing.assert_allclose(truth.energy, giga.astype(np.float64) * 1000, rtol=1e-7)
    np.testing.assert_allclose(truth.energy, events.truth.energy, rtol=2e-7)
    for name in ("gamma_time", "uvw", "xyz", "vertex", "direction", "angle"):
        assert np.array_equal(getattr(truth, name), getattr(events.truth, name))


def _truth_columns(B: int) -> Columns:
    widths = {"energyTruth": (), "timeTruth": (), "uvwTruth": (3,), "xyzTruth": (3,)}
    widths |= {"xyzVTX": (3,), "emiVec": (3,), "emiAng": (2,)}
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(B, *width)).astype(np.float32) for name, width in widths.items()}


def test_events_whose_truth_is_a_marker_come_without_truth(tmp_path: Path) -> None:
    columns = raw_columns(6) | _truth_columns(6)
    columns["uvwTruth"][2:4, 1] = 1e10
    path = write_raw(tmp_path / "mixed.root", columns)
    parts = list(read_events(path))
    assert [(len(part), part.truth is not None) for part in parts] == [
        (2, True),
        (2, False),
        (2, True),
    ]
    assert np.concatenate([part.event for part in parts]).tolist() == list(range(6))
    assert np.array_equal(parts[2].truth.uvw, columns["uvwTruth"][4:])


def test_data_with_truth_branches_of_markers_has_no_truth(tmp_path: Path) -> None:
    columns = raw_columns(3) | _truth_columns(3)
    for name in _truth_columns(1):
        columns[name][:] = -999
    assert whole(write_raw(tmp_path / "data.root", columns)).truth is None


def test_incomplete_truth_is_no_truth(tmp_path: Path) -> None:
    columns = raw_columns(2) | _truth_columns(2)
    del columns["emiVec"]
    path = write_raw(tmp_path / "a.root", columns)
    assert whole(path).truth is None
    with open_events(path) as file:
        assert not file.has_truth


def test_labels_of_foreign_files(tmp_path: Path) -> None:
    with open_events(write_raw(tmp_path / "data.root", raw_columns(1))) as file:
        assert (file.synthetic, file.geometry_hash, len(file)) == (False, None, 1)
    with open_events(write_raw(tmp_path / "mc.root", raw_columns(1) | _truth_columns(1))) as file:
        assert file.synthetic


def _damage_infinity(columns: Columns) -> None:
    columns["npho"][37, 4] = -np.inf


def _damage_reference(columns: Columns) -> None:
    columns["nphoTruth"] = np.ones((40, 4760), dtype=np.float32)
    columns["nphoTruth"][37, 4] = np.nan


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_damage_infinity, "npho holds -inf at entry 37"),
        (_damage_reference, "nphoTruth holds a marker at entry 37"),
    ],
)
def test_damaged_values_name_branch_and_entry(
    tmp_path: Path, damage: Callable[[Columns], None], message: str
) -> None:
    columns = raw_columns(40)
    damage(columns)
    path = write_raw(tmp_path / "a.root", columns)
    with pytest.raises(FileError, match=message):
        list(read_events(path, 16))


def _peak(read: Callable[[], object]) -> int:
    tracemalloc.start()
    read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    events = random_events(128, truth=False)
    small, large = tmp_path / "small.root", tmp_path / "large.root"

    def write(path: Path, batches: int) -> None:
        with RootEventWriter(path, geometry_hash="g", synthetic=False) as writer:
            for _ in range(batches):
                writer.write(events)

    def stream(path: Path) -> int:
        return sum(len(part) for part in read_events(path, 32))

    written = [_peak(lambda: write(small, 1)), _peak(lambda: write(large, 5))]
    assert written[1] < 1.2 * written[0]
    assert (stream(small), stream(large)) == (128, 640)
    peaks = [_peak(lambda path=path: stream(path)) for path in (small, large)]
    assert peaks[1] < 1.2 * peaks[0]
    # Control: holding all events does grow, so the measure can tell.
    held = [_peak(lambda path=path: list(read_events(path, 32))) for path in (small, large)]
    assert held[1] > 2.5 * held[0]
