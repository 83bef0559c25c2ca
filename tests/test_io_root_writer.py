"""Event files that we write: the experiment's format, read back bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import uproot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from io_samples import random_events
from xec.contract import MIN_PHOTONS_FOR_TIME
from xec.errors import FileError
from xec.event import EventBatch
from xec.io.root import event_count, open_events, read_events
from xec.io.root_writer import RootEventWriter

# Branch, leaf list as C++ macros see it, and shape: FACTS 3, written out by hand.
FORMAT = {
    "run": ("run/I", ">i4", ()),
    "event": ("event/I", ">i4", ()),
    "npho": ("npho[4760]/F", ">f4", (4760,)),
    "relative_time": ("relative_time[4760]/F", ">f4", (4760,)),
    "energyTruth": ("energyTruth/F", ">f4", ()),
    "timeTruth": ("timeTruth/F", ">f4", ()),
    "uvwTruth": ("uvwTruth[3]/F", ">f4", (3,)),
    "xyzTruth": ("xyzTruth[3]/F", ">f4", (3,)),
    "xyzVTX": ("xyzVTX[3]/F", ">f4", (3,)),
    "emiVec": ("emiVec[3]/F", ">f4", (3,)),
    "emiAng": ("emiAng[2]/F", ">f4", (2,)),
    "dead": ("dead[4760]/O", "?", (4760,)),
    "nDead": ("nDead/I", ">i4", ()),
    "nphoTruth": ("nphoTruth[4760]/F", ">f4", (4760,)),
}
DEAD = np.isin(np.arange(4760), [0, 17, 4092, 4759])


def write_full(path: Path, events: EventBatch) -> None:
    with RootEventWriter(path, geometry_hash="abc", synthetic=True) as writer:
        writer.write(events, DEAD, np.abs(events.npho))


def test_branches_are_exactly_those_of_the_format(tmp_path: Path) -> None:
    path = tmp_path / "a.root"
    write_full(path, random_events(70))
    with uproot.open(path) as file:
        assert file.classnames(cycle=False) == {"xec_meta": "TObjString", "tree": "TTree"}
        tree = file["tree"]
        assert tree.num_entries == 70
        found = {
            branch.name: (
                branch.title,
                branch.interpretation.from_dtype.base.str.replace("|b1", "?"),
                branch.interpretation.from_dtype.shape,
            )
            for branch in tree.branches
        }
    assert found == FORMAT


def test_values_in_the_units_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.root"
    events = random_events(3)
    write_full(path, events)
    with uproot.open(path) as file:
        raw = file["tree"].arrays(library="np")
    live = events.npho_valid & ~DEAD
    assert np.array_equal(raw["npho"][live], events.npho[live])
    assert (raw["npho"][~live] == np.float32(1e10)).all()
    timed = events.time_valid & ~DEAD
    np.testing.assert_allclose(raw["relative_time"][timed], events.time[timed] / 1e9, rtol=2e-7)
    assert (raw["relative_time"][~timed] == np.float32(1e10)).all()
    assert events.truth is not None
    np.testing.assert_allclose(raw["energyTruth"], events.truth.energy / 1e3, rtol=2e-7)
    assert raw["nDead"].tolist() == [4, 4, 4]
    assert np.array_equal(raw["dead"], np.broadcast_to(DEAD, (3, 4760)))


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.root"
    events = random_events(100)
    write_full(path, events)
    with open_events(path) as file:
        assert (len(file), file.geometry_hash, file.synthetic, file.has_truth) == (
            100,
            "abc",
            True,
            True,
        )
        (chunk,) = file.chunks()
    expected = events.with_dead(DEAD)
    for name in ("run", "event", "npho", "npho_valid", "time_valid"):
        assert np.array_equal(getattr(chunk.events, name), getattr(expected, name)), name
    np.testing.assert_allclose(chunk.events.time, expected.time, rtol=2e-7)
    assert np.array_equal(chunk.dead, np.broadcast_to(DEAD, (100, 4760)))
    assert np.array_equal(chunk.npho_reference, np.abs(events.npho))


finite = st.floats(-100, 8e9, width=32).filter(lambda x: x != -999.0)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    npho=st.lists(finite, min_size=4, max_size=4),
    time=st.lists(st.floats(-1e4, 1e4, width=32), min_size=4, max_size=4),
    npho_valid=st.lists(st.booleans(), min_size=4, max_size=4),
    run=st.integers(-(2**31), 2**31 - 1),
)
def test_any_event_returns(
    npho: list[float], time: list[float], npho_valid: list[bool], run: int, tmp_path: Path
) -> None:
    valid = np.zeros((1, 4760), dtype=bool)
    valid[0, :4] = npho_valid
    counts, times = np.zeros((2, 1, 4760), dtype=np.float32)
    counts[0, :4] = np.where(npho_valid, npho, 0)
    timed = valid & (counts > MIN_PHOTONS_FOR_TIME)
    times[0, :4] = np.where(timed[0, :4], time, 0)
    event = EventBatch(np.array([run]), np.array([1]), counts, times, valid, timed)
    path = tmp_path / "a.root"
    with RootEventWriter(path, geometry_hash="g", synthetic=True) as writer:
        writer.write(event)
    (back,) = read_events(path)
    assert back.run.tolist() == [run]
    assert np.array_equal(back.npho, counts)
    assert np.array_equal(back.npho_valid, valid)
    assert np.array_equal(back.time_valid, timed)
    np.testing.assert_allclose(back.time, times, rtol=2e-7, atol=1e-30)


def test_the_file_does_not_depend_on_the_size_of_the_writes(tmp_path: Path) -> None:
    events = random_events(150)
    for name, step in {"ones.root": 1, "odd.root": 67, "all.root": 150}.items():
        with RootEventWriter(tmp_path / name, geometry_hash="g", synthetic=True) as writer:
            for row in range(0, 150, step):
                writer.write(events[row : row + step])
        with uproot.open(tmp_path / name) as file:
            assert file["tree"]["npho"].entry_offsets == [0, 64, 128, 150]
        (back,) = read_events(tmp_path / name)
        assert np.array_equal(back.npho, events.npho)
        assert np.array_equal(back.event, events.event)


def test_no_events_make_a_valid_file(tmp_path: Path) -> None:
    path = tmp_path / "a.root"
    with RootEventWriter(path, geometry_hash="g", synthetic=True):
        pass
    with open_events(path) as file:
        assert (len(file), file.synthetic, file.geometry_hash) == (0, True, "g")
        assert list(file.chunks()) == []


@pytest.mark.parametrize("synthetic", [True, False])
def test_the_note_is_readable_json(tmp_path: Path, synthetic: bool) -> None:
    path = tmp_path / "a.root"
    with RootEventWriter(path, geometry_hash="abc", synthetic=synthetic) as writer:
        writer.write(random_events(2, truth=False))
    with uproot.open(path) as file:
        note = json.loads(file["xec_meta"])
    assert note["synthetic"] is synthetic
    assert (note["geometry_hash"], note["entries"]) == ("abc", 2)
    with open_events(path) as events:
        assert events.synthetic is synthetic


def test_numbers_too_large_for_the_branch_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.root"
    with (
        pytest.raises(FileError, match="run does not fit 32 bits"),
        RootEventWriter(path, geometry_hash="g", synthetic=True) as writer,
    ):
        writer.write(random_events(1, run=2**31))
    assert list(tmp_path.iterdir()) == []


def test_batches_of_another_kind_are_a_defect(tmp_path: Path) -> None:
    def write() -> None:
        with RootEventWriter(tmp_path / "a.root", geometry_hash="g", synthetic=True) as writer:
            writer.write(random_events(1))
            writer.write(random_events(1, truth=False))

    with pytest.raises(ValueError, match="same optional branches"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_file_from_the_writer_counts(tmp_path: Path) -> None:
    path = tmp_path / "file:tree.root"  # a colon is part of the name, not a path inside the file
    with RootEventWriter(path, geometry_hash="g", synthetic=True) as writer:
        writer.write(random_events(2))
    assert event_count(path) == 2
