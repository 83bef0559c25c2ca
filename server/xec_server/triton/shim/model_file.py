"""From the file of a version to a warm session that agrees with the configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from xec.engines.onnx_bytes import check_self_contained
from xec.errors import ModelError
from xec_server.triton.shim.settings import Settings, Signature

_LEVELS: Final = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_LOG_ERRORS: Final = 3
_DTYPES: Final[dict[str, str]] = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}


def new_session(folder: Path, settings: Settings, device: int | None) -> ort.InferenceSession:
    """Read, check, load and warm a model.

    Args:
        folder: of the version.
        settings: of the model.
        device: index of the GPU; None means the CPU.

    Raises:
        ModelError: the file is missing, altered, not self-contained or no model, or its tensors
            are not those of the configuration.
    """
    path = folder / settings.model_file
    content = _read(path, settings)
    try:
        check_self_contained(content)
    except ModelError as error:
        raise ModelError(f"{path} is refused: {error}.") from error
    session = _load(content, path, settings, device)
    for kind, wanted, nodes in (
        ("inputs", settings.inputs, session.get_inputs()),
        ("outputs", settings.outputs, session.get_outputs()),
    ):
        _compare(kind, wanted, nodes, path)
    _warm(session, settings, path)
    return session


def _read(path: Path, settings: Settings) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}; export it again.") from error
    found = hashlib.sha256(content).hexdigest()
    for where, promised in (
        ("the configuration", settings.sha256),
        ("the manifest", _in_manifest(path)),
    ):
        if promised not in (None, found):
            raise ModelError(
                f"{path} is corrupted or was changed: its sha256 {found[:12]}… is not that of "
                f"{where}, {promised[:12]}…; copy or export the model again."
            )
    return content


def _in_manifest(path: Path) -> Any:
    manifest = path.parent / "manifest.json"
    if not manifest.exists():
        return None
    try:
        return str(json.loads(manifest.read_bytes())["files"][path.name]["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{manifest} names no sha256 of {path.name}: export it again.") from error


def _providers(settings: Settings, device: int | None) -> list[tuple[str, dict[str, str]]]:
    if device is None:
        return [("CPUExecutionProvider", {})]
    chosen = {a.provider: {**a.options, "device_id": str(device)} for a in settings.accelerators}
    chosen.setdefault("CUDAExecutionProvider", {"device_id": str(device)})
    return [*chosen.items(), ("CPUExecutionProvider", {})]


def _load(
    content: bytes, path: Path, settings: Settings, device: int | None
) -> ort.InferenceSession:
    providers = _providers(settings, device)
    known = ort.get_available_providers()
    if missing := ", ".join(name for name, _ in providers if name not in known):
        raise ModelError(
            f"The configuration of {path.parent.parent.name} wants {missing}, and the ONNX Runtime "
            f"of this environment has {', '.join(known)} only: take the flavour cpu."
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS
    options.graph_optimization_level = _LEVELS[settings.graph_level]
    # Idle threads sleep: the cores are shared with Triton and with the other instances.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(content, options, providers=providers)
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise ModelError(f"{path} is not a model that ONNX Runtime can run: {error}") from error
    # ONNX Runtime falls back to the CPU silently where a provider does not start.
    if session.get_providers()[0] != providers[0][0]:
        raise ModelError(
            f"{providers[0][0]} did not start for {path}; ONNX Runtime fell back to "
            f"{session.get_providers()[0]}: take the flavour cpu or repair the GPU's driver."
        )
    return session


def _compare(kind: str, wanted: Signature, nodes: Sequence[Any], path: Path) -> None:
    found = {node.name: (node.type, tuple(node.shape)) for node in nodes}
    if wanted.keys() != found.keys():
        only_config = ", ".join(sorted(wanted.keys() - found.keys())) or "none"
        only_graph = ", ".join(sorted(found.keys() - wanted.keys())) or "none"
        raise ModelError(
            f"The configuration contradicts the {kind} of {path}: in it only "
            f"{only_config}; in the graph only {only_graph}. Export the model again."
        )
    for name, (element, dims) in wanted.items():
        kind_found, shape = found[name]
        fits = len(shape) == len(dims) + 1 and all(
            not isinstance(size, int) or size == dim
            for size, dim in zip(shape[1:], dims, strict=True)
        )
        if kind_found != element or not fits or isinstance(shape[0], int):
            raise ModelError(
                f"The configuration contradicts {path}: {name} is a {element} of {list(dims)} per "
                f"event there, and a {kind_found} of {list(shape)} in the graph. "
                "Export the model again."
            )


def uniform(settings: Settings, count: int) -> dict[str, NDArray[np.generic]]:
    """So many events of ones: all sensors valid."""
    return {
        name: np.ones((count, *dims), dtype=_DTYPES[element])
        for name, (element, dims) in settings.inputs.items()
    }


def _warm(session: ort.InferenceSession, settings: Settings, path: Path) -> None:
    """Run every batch size once; where a width is open in the graph, this shows it."""
    names = list(settings.outputs)
    for count in settings.warm:
        try:
            answers = session.run(names, uniform(settings, count))
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ModelError(f"{path} fails on {count} uniform events: {error}") from error
        for name, answer in zip(names, answers, strict=True):
            if answer.shape != (count, *settings.outputs[name][1]):
                raise ModelError(
                    f"The configuration contradicts {path}: {name} has shape "
                    f"{list(answer.shape)} for {count} events. Export the model again."
                )
