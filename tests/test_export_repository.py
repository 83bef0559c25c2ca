"""Writing versions of a model: no cut write stays hidden, and one configuration for all of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from xec.contract import MODEL_NAME
from xec.engines.repository import read_model
from xec.errors import ModelError
from xec_export import repository
from xec_export.repository import Artefacts, write_model

ARTEFACTS = Artefacts(MODEL_NAME, "9" * 64, b"graph", b"golden", b"{}", "card")


def config(folder: Path) -> str:
    return (folder / MODEL_NAME / "config.pbtxt").read_text()


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    write_model(tmp_path, "1", ARTEFACTS)
    stored = read_model(tmp_path)
    assert (stored.content, stored.golden) == (b"graph", b"golden")
    assert stored.config == config(tmp_path)
    assert stored.sha256 in config(tmp_path)


@pytest.mark.parametrize("failing", range(10))
def test_a_write_that_is_cut_is_noticed(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export over an earlier one that dies at its n-th file leaves no version that loads."""
    write_model(tmp_path, "1", ARTEFACTS)
    count = 0
    write = repository._write

    def dies(path: Path, content: bytes) -> None:
        nonlocal count
        count += 1
        if count > failing:
            raise OSError("no space left")
        write(path, content)

    monkeypatch.setattr(repository, "_write", dies)
    with pytest.raises(OSError, match="no space"):
        write_model(tmp_path, "1", replace(ARTEFACTS, onnx=b"another"))
    with pytest.raises(ModelError, match=r"manifest\.json cannot be read"):
        read_model(tmp_path)


def test_no_more_files_are_written_than_the_cuts_above_cover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    monkeypatch.setattr(repository, "_write", lambda path, _: written.append(path.name))
    write_model(tmp_path, "1", ARTEFACTS)
    assert len(written) == 10
    assert written[-1] == "manifest.json"


def test_an_older_version_leaves_the_configurations_alone(tmp_path: Path) -> None:
    write_model(tmp_path, "10", ARTEFACTS)
    newest = config(tmp_path)
    write_model(tmp_path, "9", replace(ARTEFACTS, onnx=b"older", card="of the older"))
    assert config(tmp_path) == newest
    assert (tmp_path / MODEL_NAME / "README.md").read_text() == "card"
    write_model(tmp_path, "11", replace(ARTEFACTS, onnx=b"newer"))
    assert config(tmp_path) != newest


def test_files_that_an_export_no_longer_has_are_gone(tmp_path: Path) -> None:
    whole = replace(ARTEFACTS, torchscript=b"script", half=b"half")
    folder = write_model(tmp_path, "1", whole)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert {"model.pt", "model.fp16.onnx"} <= set(files)
    configs = folder.parent / "configs"
    assert {"pytorch", "cuda_fp16"} <= {p.stem for p in configs.iterdir()}
    write_model(tmp_path, "1", ARTEFACTS)
    names = {p.name for p in folder.iterdir()}
    assert names == {"model.onnx", "golden.npz", "parity.json", "manifest.json"}
    assert not {"pytorch", "cuda_fp16"} & {p.stem for p in configs.iterdir()}
    read_model(tmp_path)
