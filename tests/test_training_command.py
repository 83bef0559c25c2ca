"""`xec train` as a user types it: the chain of stages, interruption, every kind of bad input."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from xec.cli import build_app
from xec.detector.geometry import parametric
from xec.engines.onnx import OnnxEngine
from xec.errors import DivergedError, FileError, ModelError, OutOfMemoryError, UsageError, XecError
from xec.models.checkpoint import load_checkpoint, read_checkpoint
from xec.simulation import event_file
from xec_training import state
from xec_training.memory import explain_out_of_memory

CONFIGS = Path(__file__).parents[1] / "configs"
QUICK = [
    "--set",
    "model.preset=tiny",
    "--set",
    "training.epochs=1",
    "--set",
    "data.validation_events=16",
    "--set",
    "training.batch_size=8",
]
CALIBRATED = ["--set", "calibration_events=32"]


def words(stage: str, out: Path, *more: str) -> list[str]:
    config = ["--config", str(CONFIGS / f"{stage}.yaml"), *QUICK]
    if stage != "pretrain":
        config += CALIBRATED
    return ["train", stage, *config, "--out", str(out), *more]


def xec(arguments: list[str]) -> None:
    """Run in this process; a known error comes out as its exception."""
    done = CliRunner().invoke(build_app(), arguments)
    if isinstance(done.exception, XecError):
        raise done.exception
    assert done.exit_code == 0, done.output + repr(done.exception)


def refused(arguments: list[str], error: type[XecError], sentence: str) -> str:
    with pytest.raises(error, match=sentence) as caught:
        xec(arguments)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three stages one after the other, and the export of the last."""
    folder = tmp_path_factory.mktemp("chain")
    xec(words("pretrain", folder / "A", "--data", "sim:64"))
    xec(words("inpaint", folder / "B", "--data", "sim:64", "--init", str(folder / "A")))
    xec(words("regress", folder / "C", "--data", "sim:64", "--init", str(folder / "B")))
    xec(
        [
            "export",
            "--checkpoint",
            str(folder / "C"),
            "--repository",
            str(folder / "R"),
            "--card-events",
            "20",
        ]
    )
    return folder


def test_each_stage_hands_its_weights_to_the_next(chain: Path) -> None:
    for name, stage in (("A", "pretrain"), ("B", "inpaint"), ("C", "regress")):
        _, checkpoint = read_checkpoint(chain / name, parametric())
        assert checkpoint.stage == stage
        assert checkpoint.training["synthetic"] is True
        assert checkpoint.training["events"] == 64
    assert read_checkpoint(chain / "C", parametric())[1].training["init"] == str(chain / "B")


def test_what_comes_out_is_served(chain: Path) -> None:
    engine = OnnxEngine(chain / "R", geometry_hash=parametric().hash)
    _, checkpoint = load_checkpoint(chain / "C", parametric())
    assert set(checkpoint.interval_scale) == {"energy", "gamma_time", "uvw", "angle"}
    assert engine.model.geometry_hash == parametric().hash
    card = (chain / "R" / "reconstruct" / "README.md").read_text()
    assert "xec train regress" in card
    assert '"mask_ratio": 0.15' in card


def test_the_settings_and_the_log_are_left_beside_the_checkpoint(chain: Path) -> None:
    assert "preset: tiny" in (chain / "A" / "settings.yaml").read_text()
    with (chain / "A" / "logs" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["loss"]) > 0
    assert float(rows[-1]["validation/rmse/npho"]) > 0
    assert float(rows[0]["waiting_share"]) < 1


def test_an_early_stage_is_not_exported(chain: Path) -> None:
    for name, word in (("A", "xec train inpaint"), ("B", "xec train regress")):
        arguments = ["export", "--checkpoint", str(chain / name), "--repository", str(chain / "X")]
        refused(arguments, ModelError, word)
    assert not (chain / "X").exists()


def test_a_finished_training_is_not_written_over(chain: Path) -> None:
    before = (chain / "A" / "checkpoint.json").read_bytes()
    refused(words("pretrain", chain / "A", "--data", "sim:64"), UsageError, "--resume")
    assert (chain / "A" / "checkpoint.json").read_bytes() == before


def test_a_finished_training_can_be_made_longer(chain: Path, tmp_path: Path) -> None:
    out = tmp_path / "longer"
    xec(words("pretrain", out, "--data", "sim:32"))
    longer = ["--resume", "--set", "training.epochs=2"]
    xec(["train", "pretrain", "--out", str(out), *longer])  # its own settings, but for the length
    assert (out / "resume" / "latest").read_text() == "step-000000008"  # 2 epochs of 4 batches
    assert sorted(p.name for p in (out / "logs").iterdir()) == ["version_0", "version_1"]


def test_where_a_training_started_from_is_known_after_a_resume(chain: Path, tmp_path: Path) -> None:
    out, start = tmp_path / "resumed", str(chain / "A")
    xec(words("inpaint", out, "--data", "sim:32", "--init", start))
    xec(["train", "inpaint", "--out", str(out), "--resume", "--set", "training.epochs=2"])
    assert state.read_part(out, 0, 1)["init"] == start


def test_few_events_to_calibrate_on_are_a_warning(tmp_path: Path) -> None:
    for events, warned in ((32, True), (400, False)):
        more = ["--data", "sim:8", "--set", f"calibration_events={events}"]
        done = CliRunner().invoke(build_app(), words("inpaint", tmp_path / f"{events}", *more))
        assert done.exit_code == 0, done.output
        assert (f"calibrated on {events} held-out events only" in done.output) == warned


def test_the_faithfulness_report_is_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    arguments = ["train", "faithfulness", "--data", "sim:8", "--out", str(tmp_path / "f")]
    refused(arguments, UsageError, "without torchrun")


def test_another_network_is_not_started_from(chain: Path, tmp_path: Path) -> None:
    more = ["--set", "model.preset=small", "--init", str(chain / "A"), "--data", "sim:64"]
    refused(words("inpaint", tmp_path / "x", *more), ModelError, "same model.preset")


def test_a_resume_with_other_settings_names_the_key(chain: Path) -> None:
    more = ["--resume", "--data", "sim:64", "--set", "training.lr=0.1"]
    refused(words("pretrain", chain / "A", *more), UsageError, r"another training\.lr")


BAD = {
    "unknown key": (["--set", "training.batchsize=4"], UsageError, "batchsize"),
    "warm-up too long": (["--set", "training.warmup_epochs=1"], UsageError, "warmup_epochs"),
    "endless without steps": (["--data", "sim:"], UsageError, "steps_per_epoch"),
    "no such file": (["--data", "nothing/*.root"], FileError, r"nothing/\*\.root"),
    "no number of events": (["--data", "sim:many"], UsageError, "sim:many"),
    "nothing to start from": (["--init", "nowhere"], ModelError, "nowhere"),
    "nothing to resume": (["--resume"], ModelError, "no training to resume"),
    "no such device": (["--device", "tpu"], UsageError, "cpu or cuda, not tpu"),
    "no such file of settings": (["--config", "no.yaml"], FileError, "no.yaml does not exist"),
    "no such geometry": (["--set", "data.geometry=no.txt"], FileError, "no.txt"),
}


@pytest.mark.parametrize(("more", "error", "sentence"), BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence(
    more: list[str], error: type[XecError], sentence: str, tmp_path: Path
) -> None:
    data = [] if "--data" in more else ["--data", "sim:64"]
    refused(words("inpaint", tmp_path / "out", *data, *more), error, sentence)


def test_a_file_whose_events_are_all_invalid_is_named(tmp_path: Path) -> None:
    import numpy as np

    from io_samples import raw_columns, write_raw

    columns = raw_columns(80)
    columns["npho"] = np.full_like(columns["npho"], 1e10)
    path = write_raw(tmp_path / "dark.root", columns)
    refused(words("pretrain", tmp_path / "out", "--data", str(path)), FileError, "invalid")


def test_files_without_truth_cannot_teach_the_gamma(tmp_path: Path) -> None:
    from io_samples import raw_columns, write_raw

    columns = {n: v for n, v in raw_columns(80).items() if "Truth" not in n and n != "xyzVTX"}
    path = write_raw(tmp_path / "data.root", columns)
    refused(words("regress", tmp_path / "out", "--data", str(path)), FileError, "truth")


def test_a_training_on_files_is_possible_with_and_without_truth(tmp_path: Path) -> None:
    path = tmp_path / "run.root"
    event_file.write(event_file.Request(200, path, 3, 1, (20.0, 60.0), None, 0.0, "cpu"))
    more = ["--data", str(path), "--set", "data.validation_share=0.2"]
    for stage in ("pretrain", "regress"):
        xec(words(stage, tmp_path / stage, *more))
        _, checkpoint = read_checkpoint(tmp_path / stage, parametric())
        assert checkpoint.training["data"]["kind"] == "files"
        assert checkpoint.training["synthetic"] is True


def test_rare_energies_can_count_more_and_a_log_for_tensorboard_is_written(
    tmp_path: Path,
) -> None:
    trained = []
    for name, bins in (("even", "null"), ("weighted", "8")):
        more = ["--data", "sim:64", "--set", f"reweight.energy_bins={bins}"]
        xec(words("regress", tmp_path / name, *more, "--set", "logging.tensorboard=true"))
        trained.append(load_file(next((tmp_path / name).glob("weights-*"))))
        assert list((tmp_path / name).glob("tensorboard/version_0/events.out.tfevents*"))
    assert any(not torch.equal(trained[0][key], trained[1][key]) for key in trained[0])


def test_files_to_validate_on_are_used_whole(tmp_path: Path) -> None:
    paths = [tmp_path / "train.root", tmp_path / "held_out.root"]
    for seed, (path, events) in enumerate(zip(paths, (40, 24), strict=True)):
        event_file.write(event_file.Request(events, path, seed, 1, (20, 60), None, 0.0, "cpu"))
    more = ["--data", str(paths[0]), "--set", f"data.validation={paths[1]}"]
    xec(words("regress", tmp_path / "out", *more))
    _, checkpoint = read_checkpoint(tmp_path / "out", parametric())
    assert checkpoint.training["events"] == 40  # none held back
    assert checkpoint.training["calibration_events"] == 24


def test_a_loss_that_is_no_number_ends_in_a_sentence_and_loses_nothing(tmp_path: Path) -> None:
    """A huge rate blows the network up; what was saved before can be resumed."""
    out = tmp_path / "out"
    xec(words("pretrain", out, "--data", "sim:32"))
    saved = (out / "resume" / "latest").read_text()
    diverging = ["--set", "training.max_bad_batches=2", "--set", "training.clip_norm=1e30"]
    more = ["--data", "sim:320", "--set", "training.lr=1e30", *diverging]
    refused(words("pretrain", tmp_path / "bad", *more), DivergedError, r"lower training\.lr")
    assert (out / "resume" / "latest").read_text() == saved


def test_too_little_memory_says_what_to_change() -> None:
    with (
        pytest.raises(OutOfMemoryError, match=r"training\.batch_size=512: halve it") as caught,
        explain_out_of_memory(512),
    ):
        torch.empty(2**55, dtype=torch.uint8)
    assert caught.value.exit_code == 9
    with pytest.raises(RuntimeError, match="shapes"), explain_out_of_memory(512):
        torch.zeros(2, 3) @ torch.zeros(2, 3)  # control: another error stays what it is


def test_the_faithfulness_report_finds_the_same_means_and_others(tmp_path: Path) -> None:
    arguments = words(
        "regress", tmp_path / "f", "--data", "sim:64", "--set", "loss.live.weight=0.5"
    )
    arguments[1] = "faithfulness"
    xec([*arguments, "--kind", "faithful", "--kind", "split_nll"])
    report = json.loads((tmp_path / "f" / "faithfulness.json").read_text())
    assert report["faithful"]["mean_path_identical_to_mse"] is True
    assert report["faithful"]["rmse"] == report["mse"]["rmse"]
    assert report["split_nll"]["mean_path_identical_to_mse"] is False
    assert set(report["mse"]["rmse"]) >= {"npho", "time", "energy", "uvw/w", "angle/phi"}
    refused([*arguments, "--kind", "mean"], UsageError, "--kind is one of")
    arguments[arguments.index(str(tmp_path / "f"))] = str(tmp_path / "g")
    circle = ["--set", "loss.angle.distance=great_circle", "--kind", "nll"]
    refused([*arguments, *circle], UsageError, "--kind nll cannot be trained: .*great_circle")
    assert not (tmp_path / "g").exists()


def started(arguments: list[str], *launcher: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    program = [sys.executable, *launcher, "-m", "xec", *arguments]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def state_of(out: Path) -> dict[str, torch.Tensor]:
    folder = out / "resume" / (out / "resume" / "latest").read_text()
    return load_file(folder / "rank-0.safetensors")


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    assert path.exists(), process.communicate()[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_training_goes_on_where_it_was_saved(
    tmp_path: Path, number: signal.Signals
) -> None:
    """SIGTERM saves first, SIGKILL falls back on the last save; the end is the same to the bit."""
    often = ["--data", "sim:160", "--set", "training.save_minutes=0.0005"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    xec(words("pretrain", whole, *often, "--threads", "1"))
    process = started(words("pretrain", cut, *often, "--threads", "1"))
    wait_for(cut / "resume" / "latest", process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == (128 + number if number == signal.SIGTERM else -number), errors
    xec(words("pretrain", cut, *often, "--threads", "1", "--resume"))
    expected, found = state_of(whole), state_of(cut)
    assert expected.keys() == found.keys()
    assert [n for n in expected if not torch.equal(expected[n], found[n])] == []
    a, b = (load_file(next(out.glob("weights-*"))) for out in (whole, cut))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_two_processes_train_one_network(tmp_path: Path) -> None:
    """torchrun with gloo: both end with the same weights, one checkpoint is written."""
    out = tmp_path / "two"
    more = ["--data", "sim:64", "--threads", "1", "--set", "training.grad_accum_steps=2"]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    process = started(
        words("inpaint", out, *more),
        *launcher,
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:0",
    )
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    folder = out / "resume" / (out / "resume" / "latest").read_text()
    first, second = (load_file(folder / f"rank-{rank}.safetensors") for rank in range(2))
    own = ("/training/source", "/training/masks", "/training/flip", "/training/random")
    for name, value in first.items():
        if name.startswith(own):
            continue
        assert torch.equal(value, second[name]), name
    assert not torch.equal(first["/training/masks"], second["/training/masks"])
    _, checkpoint = read_checkpoint(out, parametric())
    assert checkpoint.training["processes"] == 2
    assert checkpoint.training["events"] == 64
    refused(words("inpaint", out, *more, "--resume"), ModelError, "2 processes")
