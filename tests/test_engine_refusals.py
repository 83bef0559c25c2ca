"""What makes a whole version unusable: a file missing or altered, golden events, configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import stub_answers
from support_engine import TWO, Events, refused
from xec.contract import CONTRACT_VERSION, OUTPUTS
from xec.engines.base import tensors_of
from xec.engines.golden import GOLDEN_FILE, Golden, golden_bytes
from xec.engines.onnx import OnnxEngine
from xec.engines.triton_config import fields_of
from xec.lineage import sha256_of_bytes, sha256_of_file
from xec_export.triton_config import Identity, config_pbtxt

GEOMETRY = "9" * 64


def golden(events: Events) -> Golden:
    inputs = tensors_of(events(3))
    answers = stub_answers(dict(inputs))
    return Golden(inputs, {t.name: answers[t.name].astype(np.float32) for t in OUTPUTS})


def add(folder: Path, name: str, content: bytes) -> None:
    """A file of the version, and its entry in the manifest."""
    (folder / name).write_bytes(content)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"sha256": sha256_of_bytes(content), "bytes": len(content)}
    path.write_text(json.dumps(manifest))


@pytest.fixture
def folder(tmp_path: Path, save_model: Any, stub_model: Any, events: Events) -> Path:
    """A version with golden events and a further file."""
    folder: Path = save_model(stub_model(), tmp_path).parent
    add(folder, GOLDEN_FILE, golden_bytes(golden(events)))
    add(folder, "model.pt", b"another form of it")
    return folder


def test_a_whole_version_loads(folder: Path) -> None:
    OnnxEngine(folder.parents[1], TWO).close()


@pytest.mark.parametrize("name", ["model.onnx", GOLDEN_FILE, "model.pt"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused(folder.parents[1], rf"{name} cannot be read")


@pytest.mark.parametrize("name", ["model.onnx", GOLDEN_FILE, "model.pt"])
def test_an_altered_file_is_named(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    refused(folder.parents[1], rf"{name} is corrupted or was changed")


def test_a_manifest_cannot_lead_out_of_its_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"x")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../../elsewhere"] = {"sha256": sha256_of_bytes(b"x")}
    path.write_text(json.dumps(manifest))
    refused(tmp_path, "not beside it")


def test_golden_events_that_nothing_vouches_for(folder: Path, events: Events) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["files"][GOLDEN_FILE]
    path.write_text(json.dumps(manifest))
    refused(folder.parents[1], f"does not vouch for {GOLDEN_FILE}")


def test_wrong_answers_to_the_golden_events(folder: Path, events: Events) -> None:
    """As a library of the wrong version gives them, without any error."""
    right = golden(events)
    wrong = {name: values.copy() for name, values in right.outputs.items()}
    wrong["uvw"][1, 2] += 1.0
    add(folder, GOLDEN_FILE, golden_bytes(Golden(right.inputs, wrong)))
    refused(folder.parents[1], "golden events wrongly: uvw differs")


def test_golden_events_that_cannot_be_read(folder: Path) -> None:
    add(folder, GOLDEN_FILE, b"nothing of the kind")
    refused(folder.parents[1], "does not hold golden events")


def text_of(folder: Path) -> str:
    sha256 = sha256_of_file(folder / "model.onnx")
    return config_pbtxt("cpu", Identity("reconstruct", sha256, GEOMETRY))


def test_a_configuration_that_fits(folder: Path) -> None:
    (folder.parent / "config.pbtxt").write_text(text_of(folder))
    OnnxEngine(folder.parents[1], TWO).close()


CHANGES: dict[str, tuple[Callable[[str], str], str]] = {
    "another width": (lambda t: t.replace("dims: [ 2 ]", "dims: [ 3 ]"), r"angle is TYPE_FP32 \[3"),
    "another type": (lambda t: t.replace("TYPE_UINT8", "TYPE_BOOL", 1), "npho_valid is TYPE_BOOL"),
    "another name": (lambda t: t.replace('"uvw"', '"xyz"'), "output uvw is missing|xyz is unknown"),
    "another model": (lambda t: t.replace('"reconstruct"', '"regress"'), "that of regress"),
    "another graph": (
        lambda t: t.replace(str(fields_of(t)["parameters"][0]["value"][0]["string_value"][0]), "0"),
        "its sha256 is 0, not",
    ),
    "another geometry": (lambda t: t.replace(GEOMETRY, "8" * 64), "its geometry_hash is 888"),
    "another contract": (
        lambda t: t.replace(f'string_value: "{CONTRACT_VERSION}"', 'string_value: "77"', 1),
        "its contract_version is 77",
    ),
    "cut short": (lambda t: t[: len(t) // 2], "cannot be read"),
    "not a configuration": (lambda _: "{{{", "cannot be read"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_configuration_that_contradicts_the_graph(folder: Path, change: str) -> None:
    damage, match = CHANGES[change]
    (folder.parent / "config.pbtxt").write_text(damage(text_of(folder)))
    refused(folder.parents[1], match)


def test_the_configuration_is_that_of_the_newest_version(
    folder: Path, save_model: Any, stub_model: Any
) -> None:
    newer = save_model(stub_model({"model_version": "stub-2"}), folder.parents[1], 2).parent
    (folder.parent / "config.pbtxt").write_text(text_of(newer))
    assert OnnxEngine(folder.parents[1], TWO).model.version == "stub-2"
    assert OnnxEngine(folder.parents[1], TWO, version=1).model.version == "stub-1"
    (folder.parent / "config.pbtxt").write_text(text_of(folder))
    refused(folder.parents[1], "its sha256 is")


@pytest.mark.parametrize(
    "text",
    ["a: 1 b", "a {", "a: [1, 2", "a }", 'a: "unclosed', "a: {b: 1", "€: 1", "a" + "{a" * 40],
)
def test_text_that_is_no_configuration(text: str) -> None:
    with pytest.raises(ValueError, match=r"text format|character"):
        fields_of(text)


def test_the_forms_that_the_format_allows() -> None:
    text = """a: 1 b { c: 'x' } b < c: "y" > d: [1, 2]; d: 3, # a comment
    e [ { f: NAME } { f: -2.5 } ]"""
    assert fields_of(text) == {
        "a": ["1"],
        "b": [{"c": ["x"]}, {"c": ["y"]}],
        "d": ["1", "2", "3"],
        "e": [{"f": ["NAME"]}, {"f": ["-2.5"]}],
    }
