"""The picture of a training: what is drawn is what was logged."""

from __future__ import annotations

from pathlib import Path

import pytest

from xec_training.curves import draw, read_metrics, save_curves


def log(folder: Path, version: int, text: str) -> None:
    path = folder / "logs" / f"version_{version}" / "metrics.csv"
    path.parent.mkdir(parents=True)
    path.write_text(text)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two sessions; the second one repeats step 20, and the tenth comes after the second."""
    log(tmp_path, 0, "loss,lr,step,validation/rmse/energy\n9,0.1,10,\n7,0.1,20,\n,,20,4\n")
    log(tmp_path, 2, "loss,lr,step,validation/rmse/energy\n6,0.1,20,\nnan,0.1,30,\n,,40,2\n")
    log(tmp_path, 10, "loss,lr,step\n5,0.05,50\n")
    return tmp_path


def test_sessions_follow_each_other_and_the_last_one_counts(out: Path) -> None:
    metrics = read_metrics(out / "logs")
    assert metrics["loss"] == [(10.0, 9.0), (20.0, 6.0), (50.0, 5.0)]
    assert metrics["validation/rmse/energy"] == [(20.0, 4.0), (40.0, 2.0)]


def test_errors_are_drawn_relative_to_the_first(out: Path) -> None:
    left, right, _ = draw(read_metrics(out / "logs"), "a title").axes
    (line,) = right.lines
    assert line.get_label() == "energy"
    assert line.get_ydata().tolist() == [1.0, 0.5]
    assert left.lines[0].get_ydata().tolist() == [9.0, 6.0, 5.0]


def test_a_picture_is_left_beside_the_checkpoint(out: Path) -> None:
    path = save_curves(out, "regress")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert not list(out.glob("*.part"))


def test_a_training_without_a_single_validation_is_drawn_too(tmp_path: Path) -> None:
    log(tmp_path, 0, "loss,lr,step\n9,0.1,1\n")
    assert save_curves(tmp_path, "pretrain").is_file()
