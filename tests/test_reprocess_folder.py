"""Output folders of others are refused in one sentence; manifests survive what kills leave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support_reconstruct import assert_refused
from support_reprocess import (
    Call,
    command_line,
    contents,
    parts,
    start,
    states,
    the_folder,
    write_run,
)
from xec_client.reprocess.files import DiskFiles
from xec_client.reprocess.folder import LINEAGE, MARKER, owned
from xec_client.reprocess.manifest import NAME


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return command_line(monkeypatch, capsys)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def common(tmp_path: Path, stub_repository: Path, out: Path) -> tuple[object, ...]:
    return (write_run(tmp_path, 1, 5), "--model", stub_repository, "--out", out)


def test_a_foreign_folder(call: Call, common: tuple[object, ...], out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    assert_refused(call(*common), 2, "holds other things")
    assert {path.name for path in out.iterdir()} == {"thesis.tex"}
    assert_refused(call("status", out), 2, "is not an output folder")


def test_a_file_in_place_of_the_folder(call: Call, common: tuple[object, ...], out: Path) -> None:
    out.write_text("x")
    assert_refused(call(*common), 2, "is not a folder")


def test_the_folder_of_one_lineage(call: Call, common: tuple[object, ...], out: Path) -> None:
    assert call(*common).code == 0
    inside = the_folder(out)
    outcome = call(*common[:-1], inside)
    assert_refused(outcome, 2, "is the folder of one lineage", str(out))


def test_a_lineage_under_a_wrong_name(call: Call, common: tuple[object, ...], out: Path) -> None:
    assert call(*common).code == 0
    description = the_folder(out) / LINEAGE
    told = json.loads(description.read_text())
    description.write_text(json.dumps({**told, "model_sha256": "0" * 64}))
    assert_refused(call(*common), 2, "another lineage than its name tells")


def test_a_folder_of_another_format(call: Call, common: tuple[object, ...], out: Path) -> None:
    out.mkdir()
    (out / MARKER).write_text('{"format": "xec-reprocess/9"}')
    assert_refused(call(*common), 2, "is of format xec-reprocess/9")
    (out / MARKER).write_text("{")
    assert_refused(call(*common), 3, "is damaged")


def test_a_folder_in_use(call: Call, common: tuple[object, ...], out: Path) -> None:
    with owned(out, DiskFiles()):
        process = start(*common)
        _, error = process.communicate()
    assert process.returncode == 2
    assert "is in use by another xec reprocess" in error
    assert call(*common).code == 0


def test_what_a_kill_left_is_shown_as_interrupted(
    call: Call, common: tuple[object, ...], out: Path
) -> None:
    assert call(*common).code == 0
    manifest = the_folder(out) / NAME
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join(lines[:-1]))
    assert "interrupted" in call("status", out).out
    with owned(out, DiskFiles()):
        shown = call("status", out).out
    assert "busy" in shown
    assert "interrupted" not in shown
    assert call(*common).code == 0
    assert "interrupted" not in call("status", out).out


def test_a_torn_last_line_is_cut_off(call: Call, common: tuple[object, ...], out: Path) -> None:
    assert call(*common).code == 0
    before = contents(out)
    manifest = the_folder(out) / NAME
    whole = manifest.read_bytes()
    # At every byte of the last two lines.
    start_of_part = whole.rindex(b"\n", 0, whole.rindex(b"\n", 0, -1)) + 1
    for size in range(start_of_part, len(whole), 17):
        manifest.write_bytes(whole[:size])
        assert call(*common).code == 0
        assert contents(out) == before
        assert set(states(out).values()) == {"done"}


def test_a_damaged_line_is_told(call: Call, common: tuple[object, ...], out: Path) -> None:
    assert call(*common).code == 0
    manifest = the_folder(out) / NAME
    whole = manifest.read_bytes()
    before, first = contents(out), parts(the_folder(out))[0].stat()
    manifest.write_bytes(b'{"run": 5}\n' + whole)
    for outcome in (call(*common), call("status", out)):
        assert_refused(outcome, 3, "is damaged at line 1")
    # The way out that it names: nothing is made anew.
    manifest.unlink()
    assert call(*common).code == 0
    assert contents(out) == before
    assert parts(the_folder(out))[0].stat().st_ino == first.st_ino


def test_verify_finds_what_changed(call: Call, common: tuple[object, ...], out: Path) -> None:
    assert call(*common, "--part-events", 3).code == 0
    assert call("status", out, "--verify").code == 0
    first, second = parts(the_folder(out))
    whole = first.read_bytes()
    first.write_bytes(second.read_bytes())
    assert_refused_last(call("status", out, "--verify"), "something else")
    changed = bytearray(whole)
    changed[len(whole) // 3] ^= 1
    first.write_bytes(changed)
    assert_refused_last(call("status", out, "--verify"), first.name)


def assert_refused_last(outcome: object, words: str) -> None:
    assert getattr(outcome, "code", None) == 10
    assert words in getattr(outcome, "error", "")


def test_a_damaged_part_is_told_not_replaced(
    call: Call, common: tuple[object, ...], out: Path
) -> None:
    assert call(*common).code == 0
    (part,) = parts(the_folder(out))
    part.write_bytes(part.read_bytes()[:-10])
    assert_refused(call(*common), 3, part.name, "is no whole part: move it away")
    part.unlink()
    assert call(*common).code == 0


def test_several_lineages(call: Call, common: tuple[object, ...], out: Path) -> None:
    assert call(*common).code == 0
    first = the_folder(out).name
    assert call(*common, "--batch-size", 3).code == 0
    shown = call("status", out).out
    assert shown.count("Lineage ") == 2
    assert_refused(call("status", out, "--files"), 2, "choose one", first)
    listed = call("status", out, "--files", "--lineage", first)
    assert [Path(line).parent.name for line in listed.out.split()] == [first]
    assert_refused(call("status", out, "--lineage", "none"), 2, "has no lineage none", first)
