"""The model repository as the engine reads it: versions, manifest, and damage to either."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support_engine import TWO, refused
from xec.engines.onnx import OnnxEngine


def test_missing_things_are_named(tmp_path: Path, stub_repository: Path) -> None:
    refused(tmp_path / "nowhere", "no model repository")
    refused(tmp_path, "no model named reconstruct")
    refused(stub_repository, "no version 7; there is 1", version=7)
    (tmp_path / "reconstruct" / "latest").mkdir(parents=True)
    refused(tmp_path, "no version")


@pytest.mark.parametrize("position", [0, 1000, -1])
def test_one_flipped_bit_is_corruption(
    position: int, tmp_path: Path, save_model: Any, stub_model: Any
) -> None:
    path = save_model(stub_model(), tmp_path)
    OnnxEngine(tmp_path, TWO)  # the same folder is fine before
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    refused(tmp_path, "corrupted or was changed")


@pytest.mark.parametrize(
    ("manifest", "match"),
    [
        (None, "cannot be read"),
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "names no sha256"),
        ('{"files": {"model.onnx": "x"}}', "names no sha256"),
    ],
)
def test_a_bad_manifest(
    manifest: str | None, match: str, tmp_path: Path, save_model: Any, stub_model: Any
) -> None:
    path = save_model(stub_model(), tmp_path).with_name("manifest.json")
    path.unlink()
    if manifest is not None:
        path.write_text(manifest)
    refused(tmp_path, match)


def test_the_highest_version_is_served(tmp_path: Path, save_model: Any, stub_model: Any) -> None:
    for version in (2, 10, 9):
        save_model(stub_model({"model_version": f"v{version}"}), tmp_path, version)
    assert OnnxEngine(tmp_path, TWO).model.version == "v10"
    assert OnnxEngine(tmp_path, TWO, version=9).model.version == "v9"


def test_the_manifest_may_say_more(tmp_path: Path, save_model: Any, stub_model: Any) -> None:
    path = save_model(stub_model(), tmp_path).with_name("manifest.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "card": "x"}))
    assert OnnxEngine(tmp_path, TWO).model.version == "stub-1"
