"""Settings: the specification's keys, and every mistake as one sentence that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from xec.errors import FileError, UsageError
from xec_training.settings import InpaintSettings, PretrainSettings, RegressSettings, Settings
from xec_training.settings_file import as_dict, as_yaml, differences, load_settings

CONFIGS = Path(__file__).parents[1] / "configs"
SHIPPED = {
    "pretrain": PretrainSettings,
    "inpaint": InpaintSettings,
    "regress": RegressSettings,
}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_are_valid_and_say_what_the_defaults_are(name: str) -> None:
    settings = load_settings(SHIPPED[name], CONFIGS / f"{name}.yaml", [])
    assert settings.data.source == "sim:100000"
    assert settings.training.scheduler == "cosine"


@pytest.mark.parametrize("name", SHIPPED)
def test_settings_survive_their_own_yaml(name: str, tmp_path: Path) -> None:
    settings = load_settings(SHIPPED[name], CONFIGS / f"{name}.yaml", ["training.lr=0.01"])
    path = tmp_path / "s.yaml"
    path.write_text(as_yaml(settings))
    assert load_settings(SHIPPED[name], path, []) == settings


SPECIFICATION = """
data: {source: "sim:1000"}
training:
  batch_size: 512
  grad_accum_steps: 4
  scheduler: "onecycle"
  lr: 1.0e-4
  max_lr: 3.0e-4
  pct_start: 0.3
  lr_patience: 5
  lr_factor: 0.5
  lr_min: 1.0e-7
  ema_decay: 0.999
  amp: true
model: {mask_ratio: 0.6}
"""


def test_the_keys_of_the_specification_are_known(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SPECIFICATION)
    training = load_settings(PretrainSettings, path, []).training
    assert (training.batch_size, training.grad_accum_steps) == (512, 4)
    assert (training.lr, training.max_lr, training.lr_min) == (1e-4, 3e-4, 1e-7)
    assert training.amp == "fp16"


def test_overrides_win_and_the_last_of_them_most() -> None:
    given = ["training.lr=0.1", "data.source=[a.root, b.root]", "training.lr=1e-2"]
    settings = load_settings(RegressSettings, CONFIGS / "regress.yaml", given)
    assert settings.training.lr == 0.01
    assert settings.data.source == ["a.root", "b.root"]
    assert load_settings(RegressSettings, None, ["data.source=sim:5"]).training.lr == 1.5e-3


MISTAKES = {
    "unknown key": (["training.batchsize=3"], "training.batchsize .* the nearest is batch_size"),
    "unknown section": (
        ["trainning.lr=3"],
        "trainning is not a known key; the nearest is training",
    ),
    "far from all": (["model.zzz=3"], "known are attention"),
    "key of another stage": (["model.mask_kind=random"], "model.mask_kind is not a known key"),
    "wrong type": (["training.batch_size=many"], "training.batch_size: .* not 'many'"),
    "out of range": (["training.lr=-1"], "training.lr: .* greater than 0, not -1"),
    "not finite": (["training.lr=.inf"], "training.lr: .* finite"),
    "unknown choice": (["model.attention=cbma"], "model.attention: .*'cbam'.* not 'cbma'"),
    "warm-up too long": (
        ["training.warmup_epochs=10"],
        r"training.warmup_epochs \(10\) must be below training.epochs \(10\)",
    ),
    "onecycle with warm-up": (
        ["training.scheduler=onecycle"],
        "training.warmup_epochs contradicts",
    ),
    "max_lr without onecycle": (["training.max_lr=1"], "training.max_lr belongs to .* onecycle"),
    "max_lr below lr": (
        ["training.scheduler=onecycle", "training.warmup_epochs=0", "training.max_lr=1e-6"],
        "training.max_lr .* below training.lr",
    ),
    "onecycle of endless data": (
        ["training.scheduler=onecycle", "training.warmup_epochs=0", "data.source='sim:'"],
        "onecycle needs a total number of steps",
    ),
    "onecycle by the clock": (
        ["training.scheduler=onecycle", "training.warmup_epochs=0", "training.minutes=3"],
        "onecycle needs a total number of steps",
    ),
    "epochs of endless data": (["data.source='sim:'"], "training.steps_per_epoch"),
    "schedule-free with a schedule": (["training.optimizer=schedule_free"], "scheduler=none"),
    "schedule-free with an average": (
        ["training.optimizer=schedule_free", "training.scheduler=none"],
        "ema_decay=null",
    ),
    "lr_min above lr": (["training.lr_min=1"], "training.lr_min"),
    "noise without a model of it": (["loss.npho.kind=noise_aware"], "model.noise_floor=true"),
    "noise of times": (
        ["model.noise_floor=true", "loss.time.kind=noise_aware"],
        "loss.time.kind",
    ),
    "noise of the gamma": (["loss.energy.kind=noise_aware"], "loss.energy.kind"),
    "great circle of a likelihood": (
        ["loss.angle.distance=great_circle", "loss.angle.kind=nll"],
        "great_circle goes with",
    ),
    "likelihood of no sigma": (
        ["training.monitor=nll"]
        + [f"loss.{t}.kind=mse" for t in ("npho", "time", "energy", "gamma_time", "uvw", "angle")],
        "training.monitor=rmse",
    ),
    "faithful with a shared spread": (["model.spread=shared"], "model.spread=detached"),
    "faithful with one step size": (
        ["training.optimizer=dadapt_adam", "training.lr=1"],
        "dadapt_adam finds one step size",
    ),
    "no factor of D-Adaptation": (["training.optimizer=dadapt_adam"], "training.lr=1"),
    "energies that fall": (["data.energy=[60, 10]"], "data.energy must rise"),
    "not key=value": (["training.lr"], "--set takes key=value"),
    "no key": (["=3"], "--set takes key=value"),
    "broken value": (["training.lr=[1"], "not valid YAML"),
    "section as a value": (["training=3"], "training: .* dictionary"),
}


@pytest.mark.parametrize(("overrides", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence_that_names_the_key(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        load_settings(RegressSettings, CONFIGS / "regress.yaml", overrides)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert "pydantic" not in text


PRETRAIN_MISTAKES = {
    "noise": (["loss.npho.kind=noise_aware"], "loss.npho.kind noise_aware is for filling"),
    "spread": (["model.spread=separate"], "belong to the later stages"),
    "likelihood": (["training.monitor=nll"], "training.monitor=rmse"),
}


@pytest.mark.parametrize(
    ("overrides", "sentence"), PRETRAIN_MISTAKES.values(), ids=PRETRAIN_MISTAKES
)
def test_what_pretraining_cannot_do_is_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        load_settings(PretrainSettings, CONFIGS / "pretrain.yaml", overrides)


def test_several_mistakes_are_counted_and_an_unknown_key_comes_first() -> None:
    with pytest.raises(UsageError, match=r"training\.leraning_rate .* \(1 more\)"):
        load_settings(RegressSettings, None, ["training.lr=-1", "training.leraning_rate=1"])


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none\.yaml does not exist.*configs/"):
        load_settings(RegressSettings, tmp_path / "none.yaml", [])
    broken = tmp_path / "broken.yaml"
    broken.write_text("training:\n  lr: [1,\n")
    with pytest.raises(FileError, match=r"broken\.yaml, line \d"):
        load_settings(RegressSettings, broken, [])
    broken.write_text("- 1\n")
    with pytest.raises(FileError, match="not a YAML mapping"):
        load_settings(RegressSettings, broken, [])
    broken.write_text("")
    with pytest.raises(UsageError, match="endless"):
        load_settings(RegressSettings, broken, [])


def test_every_default_is_valid_where_data_has_a_length() -> None:
    for kind in SHIPPED.values():
        assert isinstance(load_settings(kind, None, ["data.source=sim:10"]), Settings)


def test_differences_are_dotted_keys() -> None:
    first = as_dict(load_settings(RegressSettings, None, ["data.source=sim:10"]))
    second = as_dict(
        load_settings(RegressSettings, None, ["data.source=sim:10", "loss.uvw.unit=2"])
    )
    assert differences(first, second) == ["loss.uvw.unit"]
    assert differences(first, first) == []


def test_values_are_yaml() -> None:
    settings = load_settings(
        RegressSettings, None, ["data.source=sim:10", "training.ema_decay=null"]
    )
    assert settings.training.ema_decay is None
    assert yaml.safe_load(as_yaml(settings))["training"]["ema_decay"] is None
