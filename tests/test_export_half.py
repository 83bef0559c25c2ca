"""Half precision: only the encoder has it, and the gate in physical units notices what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from xec.detector.geometry import parametric
from xec.errors import ModelError
from xec.models.build import build_reconstructor, preset
from xec_export.accuracy import COVERAGE_LIMIT, LOSS_LIMIT, losses, require_accuracy
from xec_export.fuse import fused
from xec_export.half import half_encoder
from xec_export.performance import Filling, Performance, Resolution

Change = Callable[[Performance, float], Performance]


def performance() -> Performance:
    filling = tuple(
        Filling(name, 1.2, 20.0, 0.1, 0.2, 2.5, 0.05, 40.0, 0)
        for name in ("this network", "neighbour average")
    )
    resolution = tuple(
        Resolution(name, unit, size, 0.02, 1.0, 0.68)
        for name, unit, size in (
            ("energy", "MeV", 0.8),
            ("u", "cm", 0.4),
            ("theta", "degrees", 1.4),
        )
    )
    return Performance(2000, 170_000, 14.5, filling, 1.0, resolution)


def with_filling(p: Performance, **changes: float) -> Performance:
    return replace(p, filling=(replace(p.filling[0], **changes), *p.filling[1:]))


def with_resolution(p: Performance, **changes: float) -> Performance:
    return replace(p, resolution=(replace(p.resolution[0], **changes), *p.resolution[1:]))


CHANGES: dict[str, Change] = {
    "mean error on dead sensors": lambda p, x: with_filling(p, mae=1.2 * (1 + x * LOSS_LIMIT)),
    "RMS error on dead sensors": lambda p, x: with_filling(p, rmse=20.0 * (1 + x * LOSS_LIMIT)),
    "resolution of energy": lambda p, x: with_resolution(p, sigma68=0.8 * (1 + x * LOSS_LIMIT)),
    "size of the bias of energy": lambda p, x: with_resolution(
        p, bias=-0.02 - x * 0.8 * LOSS_LIMIT
    ),
    "coverage of energy": lambda p, x: with_resolution(p, coverage=0.68 + x * COVERAGE_LIMIT),
}


@pytest.mark.parametrize("quantity", CHANGES)
def test_what_is_beyond_the_limit_is_named_and_what_is_within_passes(quantity: str) -> None:
    full = performance()
    require_accuracy(full, CHANGES[quantity](full, 0.9))
    with pytest.raises(ModelError, match=f"not accurate enough: {quantity} goes from"):
        require_accuracy(full, CHANGES[quantity](full, 1.1))


def test_what_is_no_number_never_passes() -> None:
    full = performance()
    with pytest.raises(ModelError, match="not accurate enough"):
        require_accuracy(full, with_resolution(full, sigma68=float("nan")))


def test_better_is_allowed_and_other_methods_do_not_count() -> None:
    full = performance()
    better = with_filling(full, mae=0.6, rmse=10.0)
    other = replace(better, filling=(better.filling[0], replace(full.filling[1], mae=99.0)))
    require_accuracy(full, other)
    assert len(list(losses(full, other))) == 2 + 3 * len(full.resolution)


@pytest.mark.parametrize("spread", ["detached", "separate"])
def test_only_the_encoder_is_in_half_precision(spread: str) -> None:
    config = replace(preset("tiny"), spread=spread)
    model = build_reconstructor(config, parametric())
    view = half_encoder(fused(model))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    half = {n for n, v in view.named_parameters() if v.dtype == torch.float16}
    inside = [f"{e}encoder.{part}." for e in ("", "spread_") for part in ("groups", "fusion")]
    assert half
    assert all(n.startswith(tuple(inside)) for n in half)
    assert {n for n, _ in view.named_parameters() if n.startswith(tuple(inside))} == half
    assert view.encoder.front_end.neighbours.kernel.dtype == torch.float32
    if view.spread_encoder is not None:
        assert any(n.startswith("spread_encoder") for n in half)


def test_a_visibility_is_refused() -> None:
    view = half_encoder(build_reconstructor(preset("tiny"), parametric()))
    seen = torch.ones(1, 4760)
    with pytest.raises(ValueError, match="no visibility"):
        view.encoder(seen, seen, seen, seen, visible=seen)
