"""The forms of a network that `engine.py` measures side by side, and the machine's own rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import torch
from rich.console import Console

from canonical import make_canonical
from operations import operations
from xec.contract import MODEL_NAME, MODELS
from xec.detector.geometry import parametric
from xec.engines.base import Tensors
from xec.engines.golden import golden_bytes
from xec.models.build import build_reconstructor, preset
from xec.models.checkpoint import Checkpoint, load_checkpoint
from xec.models.reconstructor import Reconstructor
from xec_export.fuse import fused
from xec_export.golden import golden_events
from xec_export.onnx import OPSET, to_onnx
from xec_export.prune import graph_of
from xec_export.repository import Artefacts, write_model

Infer = Callable[[Tensors], dict[str, Any]]

OLD_OPSET: Final = 18  # without Gelu: how the canonical form used to leave PyTorch
SIDE: Final = 1024  # of the square matrices that show the machine's rate


@dataclass(frozen=True)
class Network:
    """A network, and what it is made from."""

    model: Reconstructor
    checkpoint: Checkpoint


def trained(folder: Path) -> Network:
    """The network of a checkpoint."""
    return Network(*load_checkpoint(folder, parametric()))


def untrained(name: str) -> Network:
    """A preset's network with random weights; its speed is that of a trained one."""
    torch.manual_seed(0)
    geometry = parametric()
    model = build_reconstructor(preset(name), geometry).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim and not parameter.any():
                parameter.normal_(std=0.02)
    return Network(model, Checkpoint(preset(name), name, geometry.hash))


def graphs(network: Network) -> dict[str, bytes]:
    """ONNX graphs by form: canonical with and without Gelu, fused, and the fused halves."""
    whole = to_onnx(fused(network.model), network.checkpoint, "1")
    made = {
        name if name != MODEL_NAME else "fused": graph_of(whole, name).SerializeToString()
        for name in MODELS
    }
    canonical = untouched_copy(network)
    make_canonical(canonical)
    for form, opset in (("canonical", OPSET), ("canonical, no Gelu", OLD_OPSET)):
        proto = to_onnx(canonical, network.checkpoint, "1", opset)
        made[form] = proto.SerializeToString()
    return made


def untouched_copy(network: Network) -> Reconstructor:
    """The same network once more, for a form that changes it in place."""
    copied = build_reconstructor(network.checkpoint.config, parametric())
    copied.load_state_dict(network.model.state_dict())
    copied.sigma_scale = network.model.sigma_scale
    return copied.eval()


def operations_of(content: bytes) -> int:
    """Operations for one event of a graph."""
    return operations(onnx.load_from_string(content))


def write_repository(folder: Path, network: Network, content: bytes) -> Path:
    """A repository that holds one graph of a network."""
    artefacts = Artefacts(
        model=MODEL_NAME,
        geometry_hash=network.checkpoint.geometry_hash,
        onnx=content,
        golden=golden_bytes(golden_events(network.model, parametric(), MODEL_NAME)),
        parity=b"{}",
        card="",
    )
    write_model(folder, "1", artefacts)
    return folder


def one_thread(content: bytes, batch: int) -> Infer:
    """A graph in ONNX Runtime with one thread, `batch` events for each call."""
    session = _session(content)

    def infer(events: Tensors) -> dict[str, Any]:
        for start in range(0, len(events["npho"]), batch):
            session.run(None, {k: v[start : start + batch] for k, v in events.items()})
        return {}

    return infer


def _session(content: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def eager(network: Network, batch: int, threads: int) -> Infer:
    """The network in PyTorch, as it was trained."""

    @torch.inference_mode()
    def infer(events: Tensors) -> dict[str, Any]:
        torch.set_num_threads(threads)
        tensors = [torch.from_numpy(values) for values in events.values()]
        for start in range(0, len(tensors[0]), batch):
            network.model(*(tensor[start : start + batch] for tensor in tensors))
        return {}

    return infer


def sgemm(cores: int) -> Mapping[str, Infer]:
    """Products of square float32 matrices on every core: 2 * SIDE^3 operations for each "event".

    By ONNX Runtime, a product on each core as the engine does it, and by PyTorch's library.
    """
    random = np.random.default_rng(0)
    a, b = (random.random((SIDE, SIDE), dtype=np.float32) for _ in range(2))
    session = _session(_product(b))
    pool = ThreadPoolExecutor(cores)

    def by_runtime(events: Tensors) -> dict[str, Any]:
        list(pool.map(lambda _: session.run(None, {"a": a}), events["npho"]))
        return {}

    first, second = torch.from_numpy(a), torch.from_numpy(b)

    def by_torch(events: Tensors) -> dict[str, Any]:
        torch.set_num_threads(cores)
        for _ in events["npho"]:
            torch.mm(first, second)
        return {}

    return {"sgemm, ONNX Runtime": by_runtime, "sgemm, PyTorch": by_torch}


def _product(b: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    kind = onnx.TensorProto.FLOAT
    values = [onnx.helper.make_tensor_value_info(n, kind, [SIDE, SIDE]) for n in ("a", "c")]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["a", "b"], ["c"])],
        "product",
        values[:1],
        values[1:],
        [onnx.numpy_helper.from_array(b, "b")],
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    return bytes(
        onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()
    )


def forms_of(
    network: Network, batches: list[int], cores: int, folder: Path
) -> tuple[dict[str, Infer], int]:
    """Subjects by form and batch, and operations for one event; a repository of the fused graph."""
    made = graphs(network)
    write_repository(folder, network, made["fused"])
    subjects = {
        f"{form} {batch}": one_thread(content, batch)
        for form, content in made.items()
        for batch in batches
    }
    subjects |= {f"PyTorch {b}": eager(network, b, cores) for b in batches}
    return subjects | sgemm(cores), operations_of(made["canonical"])


def compared(rate: Mapping[str, float], best: float, counted: int, cores: int) -> dict[str, Any]:
    """Ratios and shares from events/s of each form and batch; `best` is that of the engine."""
    machine_rate = max(2.0 * SIDE**3 * r for name, r in rate.items() if name.startswith("sgemm"))
    batches = sorted({int(name.rsplit(" ", 1)[1]) for name in rate if name.startswith("fused")})
    in_pytorch = max(r for name, r in rate.items() if name.startswith("PyTorch"))
    return {
        "fused_over_canonical": {
            f"{kind}, batch {b}": rate[f"fused {b}"] / rate[f"{kind} {b}"]
            for kind in ("canonical", "canonical, no Gelu")
            for b in batches
        },
        "halves_over_whole": {
            f"{half}, batch {b}": rate[f"{half} {b}"] / rate[f"fused {b}"]
            for half in ("inpaint", "regress")
            for b in batches
        },
        "engine_over_pytorch": best / in_pytorch,
        "operations_per_event": counted,
        "sgemm_gflops": machine_rate / 1e9,
        "engine_gflops": best * counted / 1e9,
        "engine_share_of_sgemm": best * counted / machine_rate,
        "cores": cores,
    }


def print_forms(console: Console, report: dict[str, Any]) -> None:
    """The forms' ratios for people."""
    for group in ("fused_over_canonical", "halves_over_whole"):
        for name, ratio in report[group].items():
            console.print(f"{group.replace('_', ' ')}, {name}: {ratio:.2f}")
    console.print(f"the best engine over the best of PyTorch: {report['engine_over_pytorch']:.2f}")
    console.print(
        f"{report['operations_per_event'] / 1e6:.0f} million operations per event, canonically: "
        f"{report['engine_gflops']:.0f} of the {report['sgemm_gflops']:.0f} GFLOP/s of large "
        f"products on {report['cores']} cores, {100 * report['engine_share_of_sgemm']:.0f} %"
    )
