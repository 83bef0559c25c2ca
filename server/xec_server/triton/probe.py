"""Whether Triton answers rightly: the golden events of a model, over gRPC.

tritonserver 2.51 says that it is ready while the process that computes is dead or answers
nonsense, so only an answer counts.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray

from xec.contract import INPUTS, OUTPUTS, Tensor
from xec.engines.golden import GOLDEN_FILE, golden_of
from xec.engines.repository import read_manifest
from xec.errors import EngineError, ModelError
from xec.lineage import sha256_of_bytes
from xec_server.triton.requirements import PINS

CALL_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.05
_TYPES: Final = {"float32": "FP32", "uint8": "UINT8"}
_UNIFORM: Final = {"npho": 100, "time": 0, "npho_valid": 1, "time_valid": 1}

Arrays = dict[str, NDArray[np.generic]]


def wait_until_listening(address: str, seconds: float, check_alive: Callable[[], None]) -> None:
    """Wait until something listens: Triton does once its models are loaded.

    A plain socket asks, for a channel of gRPC waits longer after every attempt.

    Args:
        address: HOST:PORT.
        seconds: to wait at most.
        check_alive: raises when there is nothing left to wait for.

    Raises:
        EngineError: nothing listens in this time.
    """
    host, _, port = address.rpartition(":")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        check_alive()
        with suppress(OSError), socket.create_connection((host, int(port)), _POLL_SECONDS):
            return
        time.sleep(_POLL_SECONDS)
    raise EngineError(f"Triton did not listen on {address} within {seconds:.0f} s of its start.")


def infer(
    client: triton.InferenceServerClient,
    model: str,
    inputs: Mapping[str, NDArray[np.generic]],
    outputs: tuple[Tensor, ...] = OUTPUTS,
    seconds: float = CALL_SECONDS,
) -> Arrays:
    """One request of B events.

    Raises:
        EngineError: Triton refused it, or did not answer in time.
    """
    tensors = []
    for tensor in INPUTS:
        values = np.ascontiguousarray(inputs[tensor.name])
        entry = triton.InferInput(tensor.name, list(values.shape), _TYPES[tensor.dtype])
        entry.set_data_from_numpy(values)
        tensors.append(entry)
    wanted = [triton.InferRequestedOutput(tensor.name) for tensor in outputs]
    try:
        answer = client.infer(model, tensors, outputs=wanted, client_timeout=seconds)
    except triton.InferenceServerException as error:
        raise EngineError(f"Triton fails to run {model}: {_sentence(error)}") from error
    return {tensor.name: _values(answer, tensor) for tensor in outputs}


def _values(answer: Any, tensor: Tensor) -> NDArray[np.generic]:
    """Triton with a NumPy that its stub was not built against sends tensors without content."""
    try:
        values = answer.as_numpy(tensor.name)
    except ValueError:
        values = None
    if values is None:
        raise EngineError(
            f"Triton answers without the content of {tensor.name}: its Python environment is not "
            f"the one it needs ({', '.join(PINS)})."
        )
    return np.asarray(values)


def _sentence(error: triton.InferenceServerException) -> str:
    return " ".join((error.message() or str(error)).split()) or "no reason given"


def check_answers(client: triton.InferenceServerClient, repository: Path, model: str) -> None:
    """Run a model's golden events, or a uniform event where it has none, and look at the answers.

    Raises:
        ModelError: the answers are wrong, or the golden events are damaged.
        EngineError: there is no answer.
    """
    try:
        metadata = client.get_model_metadata(model, client_timeout=CALL_SECONDS)
        config = client.get_model_config(model, client_timeout=CALL_SECONDS).config
    except triton.InferenceServerException as error:
        raise EngineError(f"Triton does not serve {model}: {_sentence(error)}") from error
    names = {entry.name for entry in metadata.outputs}
    outputs = tuple(tensor for tensor in OUTPUTS if tensor.name in names)
    folder = repository / model / max(metadata.versions, key=int)
    who = f"Triton's {model}"
    if (folder / GOLDEN_FILE).exists():
        golden = golden_of(_golden_content(folder), folder / GOLDEN_FILE, outputs)
        answers = _in_requests(client, model, golden.inputs, outputs, config.max_batch_size)
        golden.check(answers, who)
        return
    uniform = {t.name: np.full((1, t.width), _UNIFORM[t.name], dtype=t.dtype) for t in INPUTS}
    answers = infer(client, model, uniform, outputs)
    for tensor in outputs:
        values = answers[tensor.name]
        if values.shape != (1, tensor.width) or not np.isfinite(values).all():
            raise ModelError(
                f"{who} answers a uniform event wrongly: {tensor.name} has shape "
                f"{list(values.shape)} or is not finite. It is not used."
            )


def _in_requests(
    client: triton.InferenceServerClient,
    model: str,
    inputs: Mapping[str, NDArray[np.generic]],
    outputs: tuple[Tensor, ...],
    largest: int,
) -> Arrays:
    """`infer`, in as many requests as the model's largest batch demands."""
    answers = [
        infer(client, model, {name: v[at : at + largest] for name, v in inputs.items()}, outputs)
        for at in range(0, len(inputs["npho"]), largest)
    ]
    return {t.name: np.concatenate([answer[t.name] for answer in answers]) for t in outputs}


def _golden_content(folder: Path) -> bytes:
    path = folder / GOLDEN_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}; export it again.") from error
    entry = read_manifest(folder).get("files", {}).get(GOLDEN_FILE, {})
    if entry.get("sha256") not in (None, sha256_of_bytes(content)):
        raise ModelError(
            f"{path} is corrupted or was changed: its sha256 is not the manifest's; copy or export "
            "the model again."
        )
    return content
