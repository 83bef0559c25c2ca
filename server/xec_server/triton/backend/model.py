"""Triton's entry: a Python-based backend named `onnxruntime`.

A repository that says `backend: "onnxruntime"` runs on this file here, and unchanged on the
backend of the same name that the full Triton container carries.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent))

from xec_server.triton.shim.calls import Arrays, answers_of, events_of, in_pieces
from xec_server.triton.shim.model_file import new_session
from xec_server.triton.shim.settings import settings_of


class TritonPythonModel:
    """One instance of a model; Triton gives each a process of its own."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Nothing is guessed: the configuration is generated with the model."""
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model; what is raised here reaches the user as the reason."""
        settings = settings_of(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        on_gpu = args["model_instance_kind"] == "GPU"
        device = int(args["model_instance_device_id"]) if on_gpu else None
        session = new_session(folder, settings, device)
        outputs = list(settings.outputs)

        def run(inputs: Arrays) -> dict[str, NDArray[np.generic]]:
            return dict(zip(outputs, session.run(outputs, dict(inputs)), strict=True))

        self._inputs = list(settings.inputs)
        self._run = in_pieces(run, settings.largest_batch, settings.calls_at_once)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer every request; errors are answers too, for what is raised would end all."""
        responses: list[Any] = [None] * len(requests)
        fit: dict[int, Arrays] = {}
        for place, request in enumerate(requests):
            try:
                inputs = self._arrays(request)
                events_of(inputs)
                fit[place] = inputs
            except Exception as error:
                responses[place] = _error(error)
        answers = answers_of(list(fit.values()), self._run) if fit else []
        for place, answer in zip(fit, answers, strict=True):
            if isinstance(answer, Exception):
                responses[place] = _error(answer)
            else:
                responses[place] = _response(requests[place], answer)
        return responses

    def _arrays(self, request: Any) -> Arrays:
        tensors = {name: pb.get_input_tensor_by_name(request, name) for name in self._inputs}
        missing = ", ".join(name for name, tensor in tensors.items() if tensor is None)
        if missing:
            raise ValueError(f"The request lacks {missing}.")
        return {name: tensor.as_numpy() for name, tensor in tensors.items()}


def _error(error: Exception) -> Any:
    text = " ".join(str(error).split())
    return pb.InferenceResponse(output_tensors=[], error=pb.TritonError(text))


def _response(request: Any, answer: dict[str, NDArray[np.generic]]) -> Any:
    wanted = request.requested_output_names()
    try:
        return pb.InferenceResponse([pb.Tensor(name, answer[name]) for name in wanted])
    except Exception as error:  # such as no room left in shared memory
        return _error(error)
