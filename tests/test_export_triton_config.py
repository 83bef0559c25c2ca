"""Every flavour of a model's configuration, read back by Triton's own schema."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from xec.contract import CONTRACT_VERSION, INPUTS, MODELS, outputs_of
from xec.engines.triton_config import fields_of
from xec_export.triton_config import FLAVOURS, PYTORCH, Identity, config_pbtxt

TYPES = {"float32": pb.DataType.TYPE_FP32, "uint8": pb.DataType.TYPE_UINT8}
BOTH = [(model, flavour) for model in MODELS for flavour in FLAVOURS]
# What the README of Triton's onnxruntime backend documents, and what it passes over unread.
NATIVE = {"intra_op_thread_count", "inter_op_thread_count", "execution_mode"}
OURS = {"sha256", "contract_version", "geometry_hash", "largest_batch", "reproducible"}


def parsed(model: str, flavour: str) -> pb.ModelConfig:
    text = config_pbtxt(flavour, Identity(model, "5" * 64, "9" * 64))
    return text_format.Parse(text, pb.ModelConfig())


@pytest.mark.parametrize(("model", "flavour"), BOTH)
def test_tensors_are_those_of_the_contract(model: str, flavour: str) -> None:
    config = parsed(model, flavour)
    assert config.name == model
    assert [(e.name, e.data_type, list(e.dims)) for e in config.input] == [
        (t.name, TYPES[t.dtype], [t.width]) for t in INPUTS
    ]
    names = [e.name for e in config.output]
    if flavour == PYTORCH:
        names, places = zip(*(name.split("__") for name in names), strict=True)
        assert [int(place) for place in places] == list(range(len(names)))
    assert list(names) == [t.name for t in outputs_of(model)]
    assert [list(e.dims) for e in config.output] == [[t.width] for t in outputs_of(model)]


@pytest.mark.parametrize(("model", "flavour"), BOTH)
def test_what_waits_is_bounded_in_number_and_time(model: str, flavour: str) -> None:
    batching = parsed(model, flavour).dynamic_batching
    assert (batching.priority_levels, batching.default_priority_level) == (2, 2)
    policies = [batching.default_queue_policy, *batching.priority_queue_policy.values()]
    assert len(policies) == 3
    for policy in policies:
        assert policy.timeout_action == pb.ModelQueuePolicy.TimeoutAction.REJECT
        assert policy.default_timeout_microseconds > 0
        assert policy.max_queue_size > 0
    online, offline = (batching.priority_queue_policy[level] for level in (1, 2))
    assert online.default_timeout_microseconds < offline.default_timeout_microseconds


@pytest.mark.parametrize(("model", "flavour"), BOTH)
def test_batches_are_possible_and_warmed(model: str, flavour: str) -> None:
    config = parsed(model, flavour)
    preferred = list(config.dynamic_batching.preferred_batch_size)
    assert max([1, *preferred]) <= config.max_batch_size
    assert [w.batch_size for w in config.model_warmup] == sorted({1, *preferred})
    assert len({w.name for w in config.model_warmup}) == len(config.model_warmup)
    for sample in config.model_warmup:
        found = {name: (i.data_type, list(i.dims)) for name, i in sample.inputs.items()}
        assert found == {t.name: (TYPES[t.dtype], [t.width]) for t in INPUTS}
        assert all(i.zero_data for i in sample.inputs.values())


@pytest.mark.parametrize(("model", "flavour"), BOTH)
def test_the_configuration_names_what_it_belongs_to(model: str, flavour: str) -> None:
    parameters = {k: v.string_value for k, v in parsed(model, flavour).parameters.items()}
    assert parameters["sha256"] == "5" * 64
    assert parameters["geometry_hash"] == "9" * 64
    assert parameters["contract_version"] == CONTRACT_VERSION


@pytest.mark.parametrize("flavour", [f for f in FLAVOURS if f != PYTORCH])
def test_parameters_are_known_to_both_backends(flavour: str) -> None:
    config = parsed("reconstruct", flavour)
    assert config.backend == "onnxruntime"
    assert set(config.parameters) <= NATIVE | OURS


def test_each_flavour_runs_where_it_says() -> None:
    kinds = {f: parsed("reconstruct", f).instance_group[0] for f in FLAVOURS}
    assert {f for f, g in kinds.items() if g.kind == g.KIND_GPU} == {
        "cuda",
        "cuda_fp16",
        "tensorrt",
    }
    assert all(group.count >= 1 for group in kinds.values())
    for flavour in ("cuda", "cuda_fp16", "tensorrt"):
        optimization = parsed("reconstruct", flavour).optimization
        (accelerator,) = optimization.execution_accelerators.gpu_execution_accelerator
        assert accelerator.name == flavour.removesuffix("_fp16")
    assert parsed("reconstruct", PYTORCH).backend == "pytorch"


def test_each_flavour_names_the_file_that_it_runs() -> None:
    files = {f: parsed("reconstruct", f).default_model_filename for f in FLAVOURS}
    assert files.pop(PYTORCH) == "model.pt"
    assert files.pop("cuda_fp16") == "model.fp16.onnx"
    assert set(files.values()) == {"model.onnx"}


def test_answers_are_reproducible_on_any_backend() -> None:
    """One event for each call: a batch could change the last bits (docs/log.md, 2026-11-23)."""
    config = parsed("reconstruct", "reproducible")
    assert config.max_batch_size == 1
    assert config.parameters["reproducible"].string_value == "true"


def test_profiles_of_tensorrt_are_shapes_of_all_inputs() -> None:
    optimization = parsed("reconstruct", "tensorrt").optimization
    (accelerator,) = optimization.execution_accelerators.gpu_execution_accelerator
    sizes = []
    for bound in ("min", "opt", "max"):
        shapes = accelerator.parameters[f"trt_profile_{bound}_shapes"].split(",")
        assert [s.split(":")[0] for s in shapes] == [t.name for t in INPUTS]
        sizes.append({int(s.split(":")[1].split("x")[0]) for s in shapes})
    assert np.array(sizes).shape == (3,)
    assert max(sizes[2]) == parsed("reconstruct", "tensorrt").max_batch_size


@pytest.mark.parametrize(("model", "flavour"), BOTH)
def test_our_own_reader_agrees_with_protocol_buffers(model: str, flavour: str) -> None:
    """The embedded engine reads configurations without Triton's schema."""
    fields = fields_of(config_pbtxt(flavour, Identity(model, "5" * 64, "9" * 64)))
    config = parsed(model, flavour)
    assert fields["name"] == [config.name]
    assert [t["name"] for t in fields["output"]] == [[t.name] for t in config.output]
    assert [int(d) for t in fields["output"] for d in t["dims"]] == [
        d for t in config.output for d in t.dims
    ]
    assert {p["key"][0]: p["value"][0]["string_value"][0] for p in fields["parameters"]} == {
        k: v.string_value for k, v in config.parameters.items()
    }
    queue = fields["dynamic_batching"][0]["default_queue_policy"][0]["max_queue_size"]
    assert queue == [str(config.dynamic_batching.default_queue_policy.max_queue_size)]
