"""`xec display`: which event, which reconstruction, and what goes wrong in one sentence."""

from __future__ import annotations

import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support_display import DEAD, event, reconstruction, reference
from xec import cli
from xec.display import command, load
from xec.errors import FileError, InvalidEvent, ModelError, UsageError
from xec.event import EventBatch
from xec.io.results import open_result_writer
from xec.io.root_writer import RootEventWriter

NUMBERS = (12, 40, 41)
GEOMETRY = "9" * 64  # of the stub model


def batch() -> EventBatch:
    """Events 12, 40 and 41 of run 77; each has one bright sensor of its own."""
    events = []
    for k, number in enumerate(NUMBERS):
        npho = event().npho.copy()
        npho[1000 + k] = 2.0e4
        events.append(replace(event(), event=number, npho=npho))
    return EventBatch.stack(events)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "events.root"
    with RootEventWriter(path, geometry_hash=GEOMETRY, synthetic=True) as writer:
        writer.write(batch(), ~event().npho_valid, np.tile(reference(), (3, 1)))
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Of the first two events."""
    path = tmp_path / "events.parquet"
    answers = [replace(reconstruction(), event=number) for number in NUMBERS[:2]]
    with open_result_writer(path, source="events.root", synthetic=True) as writer:
        writer.write(batch()[:2], answers)
    return path


def size_of_png(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    return width, height


@pytest.mark.parametrize(
    ("which", "row"),
    [(load.Entry(0), 0), (load.Entry(2), 2), (load.EventNumber(12), 0), (load.EventNumber(41), 2)],
)
def test_the_chosen_event_is_loaded(
    source: Path, which: load.Entry | load.EventNumber, row: int
) -> None:
    picture = load.load_event(source, which)
    assert (picture.event.run, picture.event.event) == (77, NUMBERS[row])
    assert picture.event.npho.argmax() == 1000 + row
    assert picture.synthetic
    assert picture.reference is not None
    np.testing.assert_array_equal(picture.reference, reference())
    np.testing.assert_array_equal(np.flatnonzero(~picture.measured), DEAD)


def test_a_raw_event_makes_one_panel(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "event.png"
    command.display(source, out=out)
    width, height = size_of_png(out)
    assert width < 1.1 * height


def test_results_make_three_panels(source: Path, results: Path, tmp_path: Path) -> None:
    out = tmp_path / "event.png"
    command.display(source, out=out, event=40, results=results)
    width, height = size_of_png(out)
    assert width > 2 * height


def test_the_reconstruction_is_that_of_the_event(source: Path, results: Path) -> None:
    picture = load.load_event(source, load.EventNumber(40))
    assert load.stored_reconstruction(results, picture.event).event == 40


def test_a_model_reconstructs_here(source: Path, stub_repository: Path, answers: Any) -> None:
    picture = load.load_event(source, load.Entry(1))
    computed = load.computed_reconstruction(stub_repository, picture)
    expected = answers(picture.event)
    np.testing.assert_array_equal(computed.recovered.channel, DEAD)
    np.testing.assert_allclose(computed.recovered.npho, expected["npho_mean"][0, DEAD], rtol=1e-4)
    np.testing.assert_allclose(computed.energy.mean, expected["energy"][0], rtol=1e-4)
    assert computed.provenance.model_version == "stub-1"


@pytest.mark.parametrize(("suffix", "magic"), [(".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_other_kinds_of_pictures(source: Path, tmp_path: Path, suffix: str, magic: bytes) -> None:
    out = tmp_path / f"event{suffix}"
    command.display(source, out=out)
    assert out.read_bytes().startswith(magic)


def test_unknown_events_are_refused(source: Path, results: Path) -> None:
    with pytest.raises(UsageError, match=r"events\.root has no event 99\.$"):
        load.load_event(source, load.EventNumber(99))
    with pytest.raises(UsageError, match=r"has no entry 3: it holds 3 events\.$"):
        load.load_event(source, load.Entry(3))
    last = load.load_event(source, load.EventNumber(41)).event
    with pytest.raises(FileError, match=r"has no reconstruction of run 77, event 41\.$"):
        load.stored_reconstruction(results, last)


def test_an_event_of_another_run_is_another_event(source: Path, results: Path) -> None:
    other = replace(load.load_event(source, load.EventNumber(40)).event, run=78)
    with pytest.raises(FileError, match="no reconstruction of run 78, event 40"):
        load.stored_reconstruction(results, other)


def test_results_of_another_file_with_the_same_numbers_are_refused(
    source: Path, results: Path
) -> None:
    event = load.load_event(source, load.EventNumber(40)).event
    dead = event.npho_valid.copy()
    dead[2000] = False
    with pytest.raises(FileError, match="reconstructed with other dead sensors"):
        load.stored_reconstruction(results, replace(event, npho_valid=dead))


def test_a_model_for_another_geometry_is_refused(source: Path, stub_repository: Path) -> None:
    picture = replace(load.load_event(source, load.Entry(0)), geometry_hash="0" * 64)
    with pytest.raises(ModelError, match="made for geometry 999999999999…, not for 0000"):
        load.computed_reconstruction(stub_repository, picture)


def test_a_model_is_not_asked_about_a_blind_event(source: Path, stub_repository: Path) -> None:
    picture = load.load_event(source, load.Entry(0))
    blind = replace(picture.event, npho_valid=np.zeros_like(picture.event.npho_valid))
    with pytest.raises(InvalidEvent, match="no sensor with a valid count"):
        load.computed_reconstruction(stub_repository, replace(picture, event=blind))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"event": 12, "entry": 0}, "--event and --entry"),
        ({"results": Path("a.parquet"), "model": Path("m")}, "--results and --model"),
        ({"out": Path("event.jpeg")}, r"a picture is a \.png, \.pdf or \.svg file"),
    ],
)
def test_contradictions_are_refused(
    source: Path, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        command.display(source, **{"out": tmp_path / "event.png", **options})


def test_a_missing_model_leaves_no_picture(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "event.png"
    with pytest.raises(ModelError):
        command.display(source, out=out, model=tmp_path / "nowhere")
    assert not out.exists()


def test_the_user_sees_one_sentence(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = str(tmp_path / "event.png")
    monkeypatch.setattr(sys, "argv", ["xec", "display", str(source), "--event", "99", "--out", out])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"xec: {source} has no event 99.\n"
