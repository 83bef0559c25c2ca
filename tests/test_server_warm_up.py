"""The request that nobody sent: it goes the whole way, and its detours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xec.answer
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.engines.onnx_bytes import metadata_of
from xec.engines.repository import read_model
from xec.reliability.dead_light import DeadLight
from xec.wire.v1 import reconstruction_pb2 as pb
from xec_server.events import warm_up as module
from xec_server.events.warm_up import warm_up

HALF_HIDDEN = DeadLight(0.5, np.array([10.0, 1000.0]), np.array([5.0, 50.0]), 1.0)
SHIPPED = Path(__file__).parents[1] / "model_repository"


def test_it_takes_every_way_that_a_request_can_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the one by the solid-angle method, whose tables are the largest."""
    taken: list[str] = []

    def seen(name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            taken.append(name)
            return function(*arguments)

        return call

    for name in ("features_of", "with_baseline"):
        monkeypatch.setattr(xec.answer, name, seen(name, getattr(xec.answer, name)))
    answered = []
    original = module.answer_to
    monkeypatch.setattr(
        module, "answer_to", lambda *given: answered.append(original(*given)) or answered[-1]
    )
    known = OnnxEngine(SHIPPED, OnnxSettings(sessions=1, largest_batch=1)).model
    limits = replace(known.reliability, dead_light=HALF_HIDDEN)
    warm_up(replace(known, reliability=limits))
    assert {"features_of", "with_baseline"} == set(taken)
    assert all(isinstance(answer, pb.ReconstructResponse) for answer in answered)
    assert answered[0].flags.too_much_dead_light


def test_a_model_without_limits_is_warmed_too(stub_repository: Path) -> None:
    assert metadata_of(read_model(stub_repository).content)["preset"] == "stub"
    warm_up(OnnxEngine(stub_repository).model)
