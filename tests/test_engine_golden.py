"""The golden events: written, read, and what they notice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xec.contract import INPUTS, OUTPUTS
from xec.engines.golden import TOLERANCE, Golden, golden_bytes, golden_of
from xec.errors import ModelError

PATH = Path("golden.npz")


def golden() -> Golden:
    random = np.random.default_rng(1)
    inputs = {t.name: random.integers(0, 2, (2, t.width)).astype(t.dtype) for t in INPUTS}
    return Golden(inputs, {t.name: random.normal(size=(2, t.width)).astype("f4") for t in OUTPUTS})


def test_they_survive_their_file_bit_for_bit() -> None:
    written = golden()
    read = golden_of(golden_bytes(written), PATH)
    for name, value in {**written.inputs, **written.outputs}.items():
        np.testing.assert_array_equal({**read.inputs, **read.outputs}[name], value)
    read.check(written.outputs, "The engine", 0.0)


@pytest.mark.parametrize("output", [t.name for t in OUTPUTS])
def test_one_wrong_number_is_noticed(output: str) -> None:
    right = golden()
    wrong = {name: value.copy() for name, value in right.outputs.items()}
    scale = float(np.sqrt(np.mean(np.square(wrong[output]))))
    wrong[output][1, -1] += np.float32(0.5 * TOLERANCE * scale)
    right.check(wrong, "The engine")
    wrong[output][1, -1] += np.float32(20 * TOLERANCE * scale)
    with pytest.raises(ModelError, match=rf"The engine answers .* wrongly: {output} differs"):
        right.check(wrong, "The engine")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_wrong(bad: float) -> None:
    right = golden()
    wrong = {name: value.copy() for name, value in right.outputs.items()}
    wrong["uvw"][0, 0] = bad
    assert right.difference(wrong) == ("uvw", float("inf"))


def test_missing_or_misshapen_answers_are_wrong() -> None:
    right = golden()
    assert right.difference({**right.outputs, "energy": np.zeros((1, 1), "f4")})[0] == "energy"
    some = {name: value for name, value in right.outputs.items() if name != "angle"}
    assert right.difference(some) == ("angle", float("inf"))


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"nonsense", golden_bytes(golden())[:-200]]
)
def test_damage_is_one_sentence(content: bytes) -> None:
    with pytest.raises(ModelError, match=r"golden\.npz does not hold golden events"):
        golden_of(content, PATH)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    np.savez(path, npho=np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ModelError, match="does not hold golden events"):
        golden_of(path.read_bytes(), path)
