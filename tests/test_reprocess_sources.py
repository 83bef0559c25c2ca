"""What `xec reprocess` takes for inputs, and when it takes two for the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from support_reprocess import write_run
from xec.errors import FileError, UsageError
from xec_client.reprocess.lineage import Recipe, lineage_of, part_name
from xec_client.reprocess.sources import (
    Identity,
    look_at,
    paths_of,
    refuse_ambiguous,
    refuse_changed,
)

RECIPE = Recipe("a" * 64, "onnx", "", ".parquet", 2048, 64, "stat")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("run2.root", "run1.root", "run10.root", "notes.txt", "sub/run3.root"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return tmp_path


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_files_and_patterns(folder: Path) -> None:
    assert names(paths_of([f"{folder}/run*.root"])) == ["run1.root", "run10.root", "run2.root"]
    assert names(paths_of([f"{folder}/**/run[23].root"])) == ["run2.root", "run3.root"]
    both = paths_of([f"{folder}/run2.root", f"{folder}/run*.root"])
    assert names(both) == ["run2.root", "run1.root", "run10.root"]


def test_a_file_whose_name_looks_like_a_pattern(folder: Path) -> None:
    strange = folder / "run[1].root"
    strange.write_text("x")
    assert paths_of([str(strange)]) == [strange]


def test_run_lists_are_relative_to_themselves(folder: Path) -> None:
    text = "# good runs\nrun2.root\n\nsub/*.root  # all of them\n"
    (folder / "good.list").write_text(text)
    found = paths_of([str(folder / "good.list")])
    assert found == [folder / "run2.root", folder / "sub/run3.root"]


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b"none*.root\n", UsageError, "matches no file"),
        (b"\xff\xfe\x00", FileError, "is not text"),
        (b"other.list\n", FileError, "names another list"),
        (b"# nothing\n", UsageError, "No file of events"),
    ],
)
def test_bad_lists(folder: Path, content: bytes, error: type[Exception], words: str) -> None:
    (folder / "bad.list").write_bytes(content)
    with pytest.raises(error, match=words):
        paths_of([str(folder / "bad.list")])


def test_a_list_that_is_missing(folder: Path) -> None:
    with pytest.raises(FileError, match=r"none\.list cannot be read"):
        paths_of([str(folder / "none.list")])


def test_by_stat_name_size_and_time_count(folder: Path) -> None:
    path = folder / "run1.root"
    first = look_at(path, Identity.STAT).identity
    assert look_at(path, Identity.STAT).identity == first
    moved = Path(shutil.copy2(path, folder / "sub"))
    assert look_at(moved, Identity.STAT).identity == first
    os.utime(path, ns=(1, 1))
    assert look_at(path, Identity.STAT).identity != first


def test_by_content_only_name_and_content_count(folder: Path) -> None:
    path = folder / "run1.root"
    first = look_at(path, Identity.CONTENT).identity
    os.utime(path, ns=(1, 1))
    assert look_at(path, Identity.CONTENT).identity == first
    path.write_text("run1.roox")  # as long as before
    os.utime(path, ns=(1, 1))
    assert look_at(path, Identity.CONTENT).identity != first


def test_all_subruns_count(tmp_path: Path) -> None:
    for number in range(2):
        written = write_run(tmp_path, 1, 2, ".mid")
        written.rename(tmp_path / f"run00001sub{number:04d}.mid")
    run = tmp_path / "run00001.mid"
    for by in Identity:
        before = look_at(run, by)
        assert before.name == "run00001"
        with (tmp_path / "run00001sub0001.mid").open("ab") as file:
            file.write(b"x")
        assert look_at(run, by).identity != before.identity


def test_inputs_that_cannot_be_told_apart_are_refused(folder: Path) -> None:
    path = folder / "run1.root"
    copy = Path(shutil.copy2(path, folder / "sub"))
    same = [look_at(path, Identity.STAT), look_at(copy, Identity.STAT)]
    with pytest.raises(UsageError, match="cannot be told apart"):
        refuse_ambiguous(same)
    refuse_ambiguous([same[0], look_at(folder / "run2.root", Identity.STAT)])


def test_a_file_that_changed_meanwhile_is_refused(folder: Path) -> None:
    source = look_at(folder / "run1.root", Identity.CONTENT)
    refuse_changed(source)
    with source.path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(FileError, match="changed while it was read"):
        refuse_changed(source)
    source.path.unlink()
    with pytest.raises(FileError, match="changed while it was read"):
        refuse_changed(source)


def test_what_cannot_be_looked_at_says_why(folder: Path) -> None:
    assert "does not exist" in look_at(folder / "none.root", Identity.STAT).problem
    assert "neither do subruns" in look_at(folder / "none.mid", Identity.STAT).problem


@pytest.mark.parametrize("field", ["model_sha256", "dead_list_id", "engine", "software_version"])
def test_the_lineage_depends_on_all_that_decides(folder: Path, field: str) -> None:
    from dataclasses import replace

    source = look_at(folder / "run1.root", Identity.STAT)
    other = replace(RECIPE, **{field: "other"})  # type: ignore[arg-type]
    assert other.key != RECIPE.key
    assert lineage_of(other, source) != lineage_of(RECIPE, source)
    assert part_name(RECIPE, source, 4096) == (
        f"run1.000000004096.{lineage_of(RECIPE, source)}.parquet"
    )
