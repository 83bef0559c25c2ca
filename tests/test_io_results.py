"""Result files: columns of the contract, provenance, and the way back."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot

from io_samples import PROVENANCE, random_answers, random_events, write_events
from xec.errors import FileError, UsageError
from xec.event import EventBatch, Reconstruction, Recovered, RecoveryStatus
from xec.io.parquet_read import describe_results, read_results
from xec.io.results import open_result_writer
from xec.io.root import open_events

GAMMA = {"energy": 1, "gamma_time": 1, "uvw": 3, "angle": 2}
RECOVERED = ("channel", "npho", "npho_sigma", "time", "time_sigma", "status")


def write(path: Path, events: EventBatch, answers: list[Reconstruction], step: int = 32) -> Path:
    with open_result_writer(path, source="input.root", synthetic=True) as writer:
        for row in range(0, len(events), step):
            writer.write(events[row : row + step], answers[row : row + step])
    return path


def assert_same(one: Reconstruction, two: Reconstruction) -> None:
    assert (one.run, one.event, one.flags, one.provenance) == (
        two.run,
        two.event,
        two.flags,
        two.provenance,
    )
    for name in GAMMA:
        for part in ("mean", "sigma", "low", "high"):
            a, b = (getattr(getattr(answer, name), part) for answer in (one, two))
            assert a.dtype == b.dtype == np.float32
            assert np.array_equal(a, b)
    for field in fields(Recovered):
        a, b = (getattr(answer.recovered, field.name) for answer in (one, two))
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)


def test_parquet_columns_are_named_as_the_contract(tmp_path: Path) -> None:
    events = random_events(3)
    path = write(tmp_path / "a.parquet", events, random_answers(events))
    schema = pq.read_schema(path)
    gamma = [f"{name}{end}" for name in GAMMA for end in ("", "_sigma", "_low", "_high")]
    expected = ["run", "event", *gamma, "flags", *(f"recovered_{name}" for name in RECOVERED)]
    assert schema.names == [*expected, "provenance"]
    assert str(schema.field("energy").type) == "float"
    assert str(schema.field("uvw_low").type).endswith("[3]")
    assert str(schema.field("angle").type).endswith("[2]")
    assert schema.field("energy_sigma").metadata[b"unit"] == b"MeV"
    assert schema.field("recovered_time").metadata[b"unit"] == b"ns"
    meta = json.loads(pq.read_metadata(path).metadata[b"xec_meta"])
    assert meta["provenance"] == [PROVENANCE.as_dict()]
    assert (meta["source"], meta["synthetic"]) == ("input.root", True)


@pytest.mark.parametrize(("B", "step"), [(1, 1), (40, 7), (2100, 300)])
def test_parquet_returns_every_bit(tmp_path: Path, B: int, step: int) -> None:
    events = random_events(40)
    rows = np.resize(np.arange(40), B)
    answers = [
        replace(answer, event=row)
        for row, answer in enumerate(np.array(random_answers(events), dtype=object)[rows])
    ]
    path = tmp_path / "a.parquet"
    with open_result_writer(path, source="input.root", synthetic=False) as writer:
        for first in range(0, B, step):
            part = answers[first : first + step]
            writer.write(_identified(part), part)
    back = list(read_results(path))
    assert len(back) == B
    for one, two in zip(answers, back, strict=True):
        assert_same(one, two)
    description = describe_results(path)
    assert (description.rows, description.label.synthetic) == (B, False)
    assert pq.ParquetFile(path).num_row_groups == -(-B // 1024)


def _identified(answers: list[Reconstruction]) -> EventBatch:
    B = len(answers)
    blank = np.zeros((B, 4760), dtype=np.float32)
    return EventBatch(
        np.array([answer.run for answer in answers]),
        np.array([answer.event for answer in answers]),
        blank,
        blank,
        blank.astype(bool),
        blank.astype(bool),
    )


def test_refused_sensors_are_null_in_parquet(tmp_path: Path) -> None:
    events = random_events(2)
    answers = random_answers(events)
    table = pq.read_table(write(tmp_path / "a.parquet", events, answers))
    for row, answer in enumerate(answers):
        refused = answer.recovered.status == RecoveryStatus.REFUSED
        assert refused.any()
        for name in ("npho", "npho_sigma", "time", "time_sigma"):
            values = table[f"recovered_{name}"][row].as_py()
            assert [value is None for value in values] == refused.tolist()
        assert None not in table["recovered_channel"][row].as_py()


def test_each_row_knows_its_own_provenance(tmp_path: Path) -> None:
    """A server may change its model or dead list while a file is being worked on."""
    events = random_events(6)
    answers = random_answers(events)
    other = replace(PROVENANCE, model_version="2", dead_list_id="sha256:other")
    answers[2:4] = [replace(answer, provenance=other) for answer in answers[2:4]]
    path = write(tmp_path / "a.parquet", events, answers, step=1)
    assert [answer.provenance for answer in read_results(path)] == [
        answer.provenance for answer in answers
    ]
    assert describe_results(path).provenances == (PROVENANCE, other)
    with uproot.open(write(tmp_path / "a.root", events, answers, step=1)) as file:
        assert file["tree"]["provenance"].array(library="np").tolist() == [0, 0, 1, 1, 0, 0]
        assert [entry["model_version"] for entry in json.loads(file["xec_meta"])["provenance"]] == [
            "1",
            "2",
        ]


def test_root_results_have_fixed_size_branches(tmp_path: Path) -> None:
    events = random_events(3)
    path = write(tmp_path / "a.root", events, random_answers(events))
    sensors = {"npho": ">f4", "relative_time": ">f4", "npho_sigma": ">f4"}
    sensors |= {"relative_time_sigma": ">f4", "recovered": "|u1"}
    expected = {name: (kind, (4760,)) for name, kind in sensors.items()}
    expected |= dict.fromkeys(("run", "event", "flags", "provenance"), (">i4", ()))
    for name, width in GAMMA.items():
        for end in ("", "_sigma", "_low", "_high"):
            expected[name + end] = (">f4", () if width == 1 else (width,))
    with uproot.open(path) as file:
        types = {b.name: b.interpretation.from_dtype for b in file["tree"].branches}
    assert {name: (kind.base.str, kind.shape) for name, kind in types.items()} == expected


def test_root_results_hold_live_and_recovered_sensors(tmp_path: Path) -> None:
    events = random_events(70)
    answers = random_answers(events)
    with uproot.open(write(tmp_path / "a.root", events, answers)) as file:
        raw = file["tree"].arrays(library="np")
    live = events.npho_valid
    assert np.array_equal(raw["npho"][live], events.npho[live])
    assert (raw["recovered"][live] == 0).all()
    assert (raw["npho_sigma"][live] == 0).all()
    for row, answer in enumerate(answers):
        sensors = answer.recovered
        filled = sensors.status != RecoveryStatus.REFUSED
        channel, refused = sensors.channel[filled], sensors.channel[~filled]
        assert np.array_equal(raw["recovered"][row, sensors.channel], sensors.status)
        assert np.array_equal(raw["npho"][row, channel], sensors.npho[filled])
        assert np.array_equal(raw["npho_sigma"][row, channel], sensors.npho_sigma[filled])
        for name, ours in (("relative_time", "time"), ("relative_time_sigma", "time_sigma")):
            np.testing.assert_allclose(
                raw[name][row, channel] * 1e9, getattr(sensors, ours)[filled], rtol=3e-7
            )
        assert (raw["npho"][row, refused] == np.float32(1e10)).all()
        for name, width in GAMMA.items():
            high = getattr(answer, name).high
            assert np.array_equal(raw[f"{name}_high"][row], high if width > 1 else high[0])
        assert raw["flags"][row] == answer.flags


def test_root_results_can_be_read_as_events(tmp_path: Path) -> None:
    events = random_events(5)
    answers = random_answers(events)
    for synthetic in (True, False):
        path = tmp_path / "a.root"
        with open_result_writer(path, source="x", synthetic=synthetic) as writer:
            writer.write(events, answers)
        with open_events(path) as file:
            assert file.synthetic is synthetic
            (chunk,) = file.chunks()
        refused = [np.count_nonzero(answer.recovered.status == 3) for answer in answers]
        assert np.count_nonzero(~chunk.events.npho_valid, axis=1).tolist() == refused


@pytest.mark.parametrize("suffix", [".parquet", ".root"])
def test_no_events_are_a_valid_file_with_no_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with open_result_writer(path, source="x", synthetic=True):
        pass
    if suffix == ".parquet":
        assert list(read_results(path)) == []
        assert describe_results(path).rows == 0
    else:
        with open_events(path) as file:
            assert len(file) == 0


def test_an_event_without_recovered_sensors(tmp_path: Path) -> None:
    events = random_events(2)
    whole = replace(events, npho_valid=np.ones_like(events.npho_valid))
    answers = random_answers(whole)
    assert len(answers[0].recovered) == 0
    back = list(read_results(write(tmp_path / "a.parquet", whole, answers)))
    for one, two in zip(answers, back, strict=True):
        assert_same(one, two)
    write(tmp_path / "a.root", whole, answers)


def test_unknown_suffix(tmp_path: Path) -> None:
    for name in ("a.csv", "a", "a.PARQUET.gz"):
        with pytest.raises(UsageError, match=r"\.parquet or \.root"):
            open_result_writer(tmp_path / name, source="x", synthetic=True)


@pytest.mark.parametrize("suffix", [".parquet", ".root"])
def test_answers_of_other_events_are_a_defect(tmp_path: Path, suffix: str) -> None:
    events = random_events(3)
    answers = random_answers(events)
    for wrong in (answers[::-1], answers[:2]):
        with (
            pytest.raises(ValueError, match="do not belong"),
            open_result_writer(tmp_path / f"a{suffix}", source="x", synthetic=True) as writer,
        ):
            writer.write(events, wrong)
    assert list(tmp_path.iterdir()) == []


def test_foreign_and_cut_result_files(tmp_path: Path) -> None:
    events = random_events(4)
    whole = write(tmp_path / "a.parquet", events, random_answers(events)).read_bytes()
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(pq.read_table(tmp_path / "a.parquet").drop(["flags"]), foreign)
    cases = {
        tmp_path / "absent.parquet": "does not exist",
        tmp_path: "is a directory",
        write_events(tmp_path / "e.root", events): "not a complete Parquet file",
        foreign: "holds no reconstructed events",
    }
    for path, message in cases.items():
        with pytest.raises(FileError, match=message):
            list(read_results(path))
    cut = tmp_path / "cut.parquet"
    for size in np.random.default_rng(0).integers(0, len(whole), 40):
        cut.write_bytes(whole[:size])
        with pytest.raises(FileError):
            list(read_results(cut))


def test_altered_result_files_are_refused_or_right(tmp_path: Path) -> None:
    events = random_events(4)
    whole = write(tmp_path / "a.parquet", events, random_answers(events)).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "b.parquet"
    refused = 0
    for place in rng.integers(0, len(whole), 150):
        content = bytearray(whole)
        content[place] ^= int(rng.integers(1, 256))
        path.write_bytes(content)
        try:
            back = list(read_results(path))
        except FileError:
            refused += 1
            continue
        assert len(back) == 4
    assert refused > 0
