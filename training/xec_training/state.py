"""The whole state of a running training on disk: tensors by safetensors, the rest by JSON.

Each process writes its own part; a pointer that is replaced last names the newest complete state,
so that a process killed at any moment leaves one to go on from. No pickle.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from xec.errors import ModelError
from xec.lineage import sha256_of_bytes

FOLDER: Final = "resume"
POINTER: Final = "latest"
TENSOR: Final = "__tensor__"
INTEGER_KEYS: Final = "__integer_keys__"

Tree = Any  # nested dicts and lists of tensors, numbers, strings, booleans and None


def flatten(tree: Tree) -> tuple[Any, dict[str, Tensor]]:
    """A tree as JSON-serialisable values, with its tensors taken out by name.

    Raises:
        TypeError: for a value of another kind, which could not come back.
    """
    tensors: dict[str, Tensor] = {}

    def walk(node: Tree, path: str) -> Any:
        if isinstance(node, Tensor):
            tensors[path] = node.detach().cpu().contiguous()
            return {TENSOR: path}
        if isinstance(node, Mapping):
            whole = {str(key): walk(value, f"{path}/{key}") for key, value in node.items()}
            integers = all(isinstance(key, int) for key in node) and bool(node)
            return {INTEGER_KEYS: whole} if integers else whole
        if isinstance(node, list | tuple):
            return [walk(value, f"{path}/{index}") for index, value in enumerate(node)]
        if node is None or isinstance(node, bool | int | float | str):
            return node
        raise TypeError(f"{path} is a {type(node).__name__}, which has no place in a state")

    return walk(tree, ""), tensors


def unflatten(values: Any, tensors: Mapping[str, Tensor]) -> Tree:
    """Inverse of `flatten`; tuples come back as lists."""
    if isinstance(values, list):
        return [unflatten(value, tensors) for value in values]
    if not isinstance(values, dict):
        return values
    if TENSOR in values:
        return tensors[values[TENSOR]].clone()
    if INTEGER_KEYS in values:
        return {int(k): unflatten(v, tensors) for k, v in values[INTEGER_KEYS].items()}
    return {key: unflatten(value, tensors) for key, value in values.items()}


def write_part(out: Path, step: int, rank: int, tree: Tree) -> None:
    """Write one process's state of a step; it counts once `publish` points to it."""
    folder = _folder(out, step)
    folder.mkdir(parents=True, exist_ok=True)
    values, tensors = flatten(tree)
    content = save(tensors) if tensors else b""
    text = json.dumps({"tensors_sha256": sha256_of_bytes(content), "state": values})
    _write(folder / f"rank-{rank}.safetensors", content)
    _write(folder / f"rank-{rank}.json", text.encode())


def publish(out: Path, step: int) -> None:
    """Make the state of `step` the one to resume from, and remove older ones."""
    pointer = out / FOLDER / POINTER
    partial = pointer.with_suffix(".part")
    _write(partial, _folder(out, step).name.encode())
    partial.replace(pointer)
    for old in (out / FOLDER).glob("step-*"):
        if old.name != _folder(out, step).name:
            shutil.rmtree(old, ignore_errors=True)


def has_state(out: Path) -> bool:
    """Whether there is a training to resume."""
    return (out / FOLDER / POINTER).is_file()


def read_part(out: Path, rank: int, processes: int) -> Tree:
    """This process's part of the newest state.

    Raises:
        ModelError: when there is none, it is damaged, or of another number of processes.
    """
    if not has_state(out):
        raise ModelError(f"{out} holds no training to resume; start one without --resume.")
    folder = out / FOLDER / (out / FOLDER / POINTER).read_text()
    parts = len(list(folder.glob("rank-*.json")))
    if parts != processes:
        raise ModelError(
            f"{out} was trained by {parts} processes and can be resumed by as many, "
            f"not by {processes}."
        )
    try:
        description = json.loads((folder / f"rank-{rank}.json").read_text())
        content = (folder / f"rank-{rank}.safetensors").read_bytes()
        if sha256_of_bytes(content) != description["tensors_sha256"]:
            raise ModelError(f"{folder} was altered; the state in it cannot be resumed.")
        return unflatten(description["state"], load(content) if content else {})
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder} is damaged and cannot be resumed: {error}.") from error


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of torch's global random numbers."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Go on from `random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _folder(out: Path, step: int) -> Path:
    return out / FOLDER / f"step-{step:09d}"


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
