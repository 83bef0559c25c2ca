"""The network as a function in each of its forms: PyTorch, TorchScript; ONNX is in `parity`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from xec.contract import INPUTS, MODEL_NAME, outputs_of
from xec.models.reconstructor import Reconstructor
from xec_export.torchscript import torchscript_of

Arrays = Mapping[str, NDArray[np.generic]]
Outputs = dict[str, NDArray[np.float32]]


def eager(model: Reconstructor) -> Callable[[Arrays], Outputs]:
    """The network in PyTorch, as it was trained."""

    @torch.no_grad()
    def infer(inputs: Arrays) -> Outputs:
        outputs = model(*(torch.from_numpy(inputs[t.name]) for t in INPUTS))
        return {name: value.numpy() for name, value in outputs.items()}

    return infer


def scripted(content: bytes, name: str = MODEL_NAME) -> Callable[[Arrays], Outputs]:
    """A TorchScript module from the bytes of its file."""
    module = torchscript_of(content)
    names = [tensor.name for tensor in outputs_of(name)]

    @torch.no_grad()
    def infer(inputs: Arrays) -> Outputs:
        values = module(*(torch.from_numpy(inputs[t.name]) for t in INPUTS))
        return dict(zip(names, (value.numpy() for value in values), strict=True))

    return infer
