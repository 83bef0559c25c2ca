"""Execution providers: what is not there, or not at work, is refused; buffers change no answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from xec.contract import INPUTS, OUTPUTS
from xec.engines.base import tensors_of
from xec.engines.bound import BoundSession
from xec.engines.device import Device, buckets_up_to
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.engines.onnx_model import ORT_ERRORS, new_session
from xec.engines.providers import providers_of, require_active
from xec.engines.repository import read_model
from xec.errors import EngineError, ModelError
from xec.event import EventBatch

Events = Callable[..., EventBatch]
GPUS = [device for device in Device if device.is_gpu]
NAMES = {Device.CUDA: "CUDAExecutionProvider", Device.TENSORRT: "TensorrtExecutionProvider"}


@pytest.fixture
def session(stub_repository: Path) -> ort.InferenceSession:
    return new_session(read_model(stub_repository), 1)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="this build has CUDA"
)
@pytest.mark.parametrize("device", GPUS)
def test_a_build_without_the_provider_is_refused(device: Device, stub_repository: Path) -> None:
    with pytest.raises(EngineError, match=rf"has no {NAMES[device]}: install .*\[gpu\]") as caught:
        OnnxEngine(stub_repository, OnnxSettings(device=device))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", GPUS)
def test_a_provider_that_silently_fell_back_is_refused(
    device: Device, session: ort.InferenceSession
) -> None:
    """A real session on the CPU is what ONNX Runtime hands out when a GPU's library is missing."""
    with pytest.raises(EngineError, match=r"would compute by CPUExecutionProvider instead"):
        require_active(session, device)
    require_active(session, Device.CPU)


@pytest.mark.parametrize("device", GPUS)
def test_the_configuration_of_a_gpu_is_complete(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = [*NAMES.values(), "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: every)
    providers = providers_of(device, 16)
    assert providers[0][0] == NAMES[device]
    assert providers[-1][0] == "CPUExecutionProvider"
    graphs = {key: v for _, options in providers for key, v in options.items() if "graph" in key}
    assert list(graphs.values()).count("1") == 1  # one of them records
    if device is Device.TENSORRT:
        shapes = providers[0][1]["trt_profile_max_shapes"].split(",")
        assert shapes == [f"{tensor.name}:16x{tensor.width}" for tensor in INPUTS]


def test_a_model_that_cannot_be_recorded_runs_without(
    stub_repository: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """ONNX Runtime's refusal, said in its place: the machine of the tests has no GPU."""
    tried = []

    def refuse_graphs(content: bytes, options: object, providers: list[tuple[str, dict]]) -> None:
        tried.append(providers[0][1]["enable_cuda_graph"])
        if tried[-1] == "1":
            raise ORT_ERRORS[1]("[ONNXRuntimeError] : 1 : FAIL : no graph capture for this model")
        raise ORT_ERRORS[1]("[ONNXRuntimeError] : 1 : FAIL : something else")

    every = [*NAMES.values(), "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: every)
    monkeypatch.setattr(ort, "InferenceSession", refuse_graphs)
    with pytest.raises(ModelError, match="something else"):
        new_session(read_model(stub_repository), 1, Device.CUDA, 4)
    assert tried == ["1", "0"]
    assert "without recorded graphs" in caplog.text


def test_a_gpu_gets_one_session_unless_told_otherwise() -> None:
    assert OnnxSettings(device=Device.CUDA).calls_at_once == 1
    assert OnnxSettings(device=Device.CUDA, sessions=2).calls_at_once == 2


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_fixed_buffers_give_the_same_answers(
    count: int, session: ort.InferenceSession, events: Events
) -> None:
    """The binding of the GPU path, on the CPU: every size goes into the next bucket."""
    bound = BoundSession(session, buckets_up_to(8), OUTPUTS, "cpu", graphs=False)
    names = [tensor.name for tensor in OUTPUTS]
    for seed in (1, 2):  # the second run finds the first one's values in the buffers
        inputs = tensors_of(events(count, seed=seed))
        plain = dict(zip(names, session.run(names, inputs), strict=True))
        answers = bound.run(inputs)
        for name, values in plain.items():
            assert answers[name].shape == values.shape
            np.testing.assert_allclose(answers[name], values, rtol=1e-6, err_msg=name)


def test_answers_survive_the_next_run(session: ort.InferenceSession, events: Events) -> None:
    bound = BoundSession(session, (4,), OUTPUTS, "cpu", graphs=False)
    first = bound.run(tensors_of(events(4, seed=1)))
    kept = {name: values.copy() for name, values in first.items()}
    second = bound.run(tensors_of(events(4, seed=2)))
    for name, values in first.items():
        np.testing.assert_array_equal(values, kept[name])
    assert not np.array_equal(first["energy"], second["energy"])
