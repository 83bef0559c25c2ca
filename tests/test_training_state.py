"""The state of a training on disk: what goes in comes out, and a cut write loses nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from xec.errors import ModelError
from xec_training import state


def tree() -> dict[str, Any]:
    return {
        "optimiser": {
            "state": {0: {"step": torch.tensor(3.0), "m": torch.randn(2, 3)}, 12: {}},
            "param_groups": [{"lr": 0.1 + 0.2, "betas": (0.9, 0.95), "params": [0, 12]}],
        },
        "best": float("inf"),
        "random": torch.arange(5, dtype=torch.uint8),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "none": None,
        "flag": True,
        "empty": torch.zeros(0, 4),
        "text": "µ/σ",
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bool(torch.equal(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b and type(a) is type(b))


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    before = tree()
    state.write_part(tmp_path, 7, 0, before)
    state.publish(tmp_path, 7)
    after = state.read_part(tmp_path, 0, 1)
    assert same(before, after)
    assert not same(before, {**after, "best": 0.0})  # control of `same`
    assert not same(before, {**after, "half": torch.ones(2)})


def test_nothing_is_pickled(tmp_path: Path) -> None:
    state.write_part(tmp_path, 7, 0, tree())
    state.publish(tmp_path, 7)
    names = sorted(p.name for p in (tmp_path / "resume").rglob("*") if p.is_file())
    assert names == ["latest", "rank-0.json", "rank-0.safetensors"]
    json.loads((tmp_path / "resume" / "step-000000007" / "rank-0.json").read_text())


def test_a_value_that_could_not_come_back_is_refused() -> None:
    with pytest.raises(TypeError, match="/a/1 is a set"):
        state.flatten({"a": [1, {2}]})


def test_a_state_that_was_not_published_does_not_count(tmp_path: Path) -> None:
    state.write_part(tmp_path, 7, 0, {"x": 1})
    assert not state.has_state(tmp_path)
    state.publish(tmp_path, 7)
    state.write_part(tmp_path, 9, 0, {"x": 2})  # killed before it was published
    assert state.read_part(tmp_path, 0, 1) == {"x": 1}
    state.publish(tmp_path, 9)
    assert state.read_part(tmp_path, 0, 1) == {"x": 2}
    assert [p.name for p in (tmp_path / "resume").glob("step-*")] == ["step-000000009"]


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    for rank in range(2):
        state.write_part(tmp_path, 1, rank, {"rank": rank})
    state.publish(tmp_path, 1)
    assert state.read_part(tmp_path, 1, 2) == {"rank": 1}
    with pytest.raises(ModelError, match=r"2 processes .* not by 1"):
        state.read_part(tmp_path, 0, 1)


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no training to resume"):
        state.read_part(tmp_path, 0, 1)


@pytest.mark.parametrize("name", ["rank-0.json", "rank-0.safetensors"])
def test_damage_is_noticed(tmp_path: Path, name: str) -> None:
    state.write_part(tmp_path, 1, 0, tree())
    state.publish(tmp_path, 1)
    path = tmp_path / "resume" / "step-000000001" / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ModelError, match=r"damaged|altered"):
        state.read_part(tmp_path, 0, 1)
