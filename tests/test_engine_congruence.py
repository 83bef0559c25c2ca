"""Three engines, one network, simulated events: the same answers to rounding.

The network is small and untrained, with every weight away from zero; its ONNX graph, its
TorchScript and its checkpoint are three ways of writing down the same thing.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import write_model
from support_gateway import QUICK, complete, real_triton, vouched
from xec.contract import MODEL_NAME, OUTPUTS
from xec.detector.geometry import parametric
from xec.engines.base import Engine
from xec.engines.device import Device
from xec.engines.kind import EngineKind
from xec.engines.onnx import OnnxEngine, OnnxSettings
from xec.engines.torch_engine import SCRIPT_FILE, from_checkpoint, from_repository
from xec.engines.triton import TritonEngine
from xec.errors import EngineError, ModelError
from xec.models.build import build_reconstructor, preset
from xec.models.checkpoint import Checkpoint, save_checkpoint
from xec.models.reconstructor import Reconstructor
from xec.simulation.generator import Generator, SimulationConfig
from xec_export.events import contract_inputs, with_dark_events
from xec_export.onnx import to_onnx
from xec_export.torchscript import to_torchscript
from xec_server.model.engines import EngineChoice

Arrays = dict[str, np.ndarray]
TOLERANCE = 1e-4  # of |a - b| / (|b| + rms of b); float32 sums in another order carry 1e-5
BATCHES = (1, 7, 64)


@dataclasses.dataclass
class Made:
    """One network in every form."""

    network: Reconstructor
    checkpoint: Path
    repository: Path


@pytest.fixture(scope="module")
def inputs() -> Arrays:
    batch = Generator(SimulationConfig(), parametric(), "cpu", 77).sample(max(BATCHES))
    return with_dark_events(contract_inputs(batch))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, inputs: Arrays) -> Made:
    folder = tmp_path_factory.mktemp("network")
    torch.manual_seed(6)
    network = build_reconstructor(preset("tiny"), parametric()).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim and not parameter.any():
                parameter.normal_(std=0.02)
    description = Checkpoint(preset("tiny"), "tiny", parametric().hash, {}, {"energy": 1.25})
    save_checkpoint(folder / "checkpoint", network, description)
    repository = folder / "repository"
    path = write_model(to_onnx(network, description, "1"), repository)
    add_script(path.parent, network)
    complete(repository, {name: values[:4] for name, values in inputs.items()})
    return Made(network, folder / "checkpoint", repository)


def add_script(version: Path, network: Reconstructor) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.save`", DeprecationWarning)
        to_torchscript(network).save(str(version / SCRIPT_FILE))
    vouched(version, SCRIPT_FILE, (version / SCRIPT_FILE).read_bytes())


@pytest.fixture(scope="module")
def engines(made: Made) -> Iterator[dict[str, Engine]]:
    with real_triton(made.repository) as triton:
        engines: dict[str, Engine] = {
            "onnx": OnnxEngine(made.repository),
            "onnx, one by one": OnnxEngine(made.repository, OnnxSettings(largest_batch=1)),
            "triton": TritonEngine(triton.address, made.repository, QUICK),
            "torch, script": from_repository(made.repository),
            "torch, checkpoint": from_checkpoint(made.checkpoint, largest_batch=5),
        }
        yield engines
        for engine in engines.values():
            engine.close()


def difference(a: Arrays, b: Arrays) -> float:
    """The largest of all outputs; infinite where a value is not finite."""
    worst = 0.0
    for tensor in OUTPUTS:
        x, y = a[tensor.name].astype(np.float64), b[tensor.name].astype(np.float64)
        assert x.shape == y.shape
        size = np.abs(x - y) / (np.abs(y) + np.sqrt(np.mean(y * y)) + 1e-12)
        worst = max(worst, float(np.nan_to_num(size, nan=np.inf).max()))
    return worst


@torch.no_grad()
def eager(network: Reconstructor, inputs: Arrays) -> Arrays:
    outputs = network(*(torch.from_numpy(inputs[name]) for name in list(inputs)))
    return {tensor.name: outputs[tensor.name].numpy() for tensor in OUTPUTS}


@pytest.mark.parametrize("count", BATCHES)
def test_all_engines_say_what_pytorch_says(
    count: int, engines: dict[str, Engine], made: Made, inputs: Arrays
) -> None:
    part = {name: values[-count:] for name, values in inputs.items()}
    expected = eager(made.network, part)
    found = {name: difference(engine.infer(part), expected) for name, engine in engines.items()}
    assert {name: size for name, size in found.items() if not size <= TOLERANCE} == {}


def test_another_network_would_be_seen(
    engines: dict[str, Engine], made: Made, inputs: Arrays
) -> None:
    """The control: every weight a hundredth larger, and the comparison fails."""
    other = build_reconstructor(preset("tiny"), parametric()).eval()
    other.load_state_dict(made.network.state_dict())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.01)
    expected = eager(other, inputs)
    for engine in engines.values():
        assert difference(engine.infer(inputs), expected) > TOLERANCE


def test_events_that_change_places_would_be_seen(
    engines: dict[str, Engine], made: Made, inputs: Arrays
) -> None:
    swapped = {name: values[::-1].copy() for name, values in inputs.items()}
    expected = eager(made.network, inputs)
    for engine in engines.values():
        assert difference(engine.infer(swapped), expected) > TOLERANCE


def test_who_they_are(engines: dict[str, Engine]) -> None:
    known = {name: engine.model for name, engine in engines.items()}
    assert {name: model.engine for name, model in known.items()} == {
        "onnx": "onnx",
        "onnx, one by one": "onnx",
        "triton": "triton",
        "torch, script": "torch",
        "torch, checkpoint": "torch",
    }
    assert {model.geometry_hash for model in known.values()} == {parametric().hash}
    assert {model.interval_scale["energy"] for model in known.values()} == {1.25}


# --- PyTorch as an engine ------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_is_refused_where_there_is_none(made: Made) -> None:
    for load, place in ((from_repository, made.repository), (from_checkpoint, made.checkpoint)):
        with pytest.raises(EngineError, match="or say --device cpu") as caught:
            load(place, Device.CUDA)
        assert "\n" not in str(caught.value)


def test_tensorrt_is_not_pytorchs(made: Made) -> None:
    with pytest.raises(EngineError, match="does not run on TensorRT"):
        from_repository(made.repository, Device.TENSORRT)


def test_a_repository_without_the_script(stub_repository: Path) -> None:
    with pytest.raises(ModelError, match=r"has no model\.pt: export the model with TorchScript"):
        from_repository(stub_repository)


def test_a_script_that_was_altered_or_is_none(made: Made, tmp_path: Path) -> None:
    version = tmp_path / MODEL_NAME / "1"
    version.mkdir(parents=True)
    for path in (made.repository / MODEL_NAME / "1").iterdir():
        (version / path.name).write_bytes(path.read_bytes())
    content = (version / SCRIPT_FILE).read_bytes()
    (version / SCRIPT_FILE).write_bytes(content[:-1])
    with pytest.raises(ModelError, match=r"model\.pt is corrupted or was changed"):
        from_repository(tmp_path)
    vouched(version, SCRIPT_FILE, content[:-1])
    with pytest.raises(ModelError, match="is not TorchScript that this PyTorch can run"):
        from_repository(tmp_path)


def test_a_script_of_another_network_fails_at_the_golden_events(made: Made, tmp_path: Path) -> None:
    version = tmp_path / MODEL_NAME / "1"
    version.mkdir(parents=True)
    for path in (made.repository / MODEL_NAME / "1").iterdir():
        (version / path.name).write_bytes(path.read_bytes())
    torch.manual_seed(7)
    add_script(version, build_reconstructor(preset("tiny"), parametric()).eval())
    with pytest.raises(ModelError, match=r"model\.pt answers the model's golden events wrongly"):
        from_repository(tmp_path)


def test_a_server_can_run_it(made: Made, inputs: Arrays) -> None:
    engine = EngineChoice(made.repository, kind=EngineKind.TORCH).open()
    assert difference(engine.infer(inputs), eager(made.network, inputs)) <= TOLERANCE
    engine.close()


def test_a_closed_engine_says_so(made: Made, inputs: Arrays) -> None:
    engine = from_checkpoint(made.checkpoint)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(inputs)


def test_what_pytorch_cannot_run_is_an_engine_error(made: Made, inputs: Arrays) -> None:
    engine = from_checkpoint(made.checkpoint)
    with pytest.raises(EngineError, match="PyTorch failed"):
        engine.infer({name: values[:, :-1] for name, values in inputs.items()})
