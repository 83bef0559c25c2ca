"""Checkpoint to TorchScript: the same view of the network as ONNX gets, traced."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch.jit._trace import TracerWarning

from xec.contract import INPUTS, MODEL_NAME, OUTPUTS
from xec.models.reconstructor import Reconstructor
from xec_export.parity import Arrays, Difference, relative_difference
from xec_export.view import ExportView, example_inputs

# The sizes of the detector's grids do not change with the batch, and tracing is the way out of
# PyTorch that libtorch and Triton's pytorch backend still take: nothing a user could act on.
_EXPECTED: Final = (
    (TracerWarning, "Converting a tensor to a Python boolean"),
    (TracerWarning, "Using len to get tensor shape"),
    (DeprecationWarning, "`torch.jit."),
)


@contextmanager
def _without_expected() -> Iterator[None]:
    with warnings.catch_warnings():
        for category, message in _EXPECTED:
            warnings.filterwarnings("ignore", message=message, category=category)
        yield


def to_torchscript(model: Reconstructor, name: str = MODEL_NAME) -> torch.jit.ScriptModule:
    """The network as a traced module from the contract's inputs to a tuple of its outputs.

    Args:
        model: trained network; the plain one, since libtorch gains nothing from the fused.
        name: of the exported model, which decides on its outputs.
    """
    with _without_expected():
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            ExportView(model, name), example_inputs(2), check_trace=False
        )
    assert isinstance(traced, torch.jit.ScriptModule)
    return traced


def torchscript_bytes(module: torch.jit.ScriptModule) -> bytes:
    """The content of the module's file."""
    buffer = io.BytesIO()
    with _without_expected():
        torch.jit.save(module, buffer)
    return buffer.getvalue()


def torchscript_of(content: bytes) -> torch.jit.ScriptModule:
    """The module from the content of its file."""
    with _without_expected():
        module = torch.jit.load(io.BytesIO(content))  # type: ignore[no-untyped-call]
    assert isinstance(module, torch.jit.ScriptModule)
    return module


@torch.no_grad()
def compare_torchscript(
    model: Reconstructor, traced: torch.jit.ScriptModule, inputs: Arrays, batches: tuple[int, ...]
) -> list[Difference]:
    """Differences between PyTorch and TorchScript for each output and batch size."""
    found = []
    for batch in batches:
        part = [torch.from_numpy(inputs[t.name][:batch]) for t in INPUTS]
        expected = model(*part)
        for tensor, value in zip(OUTPUTS, traced(*part), strict=True):
            difference = relative_difference(value.numpy(), expected[tensor.name].numpy())
            found.append(Difference(tensor.name, batch, difference))
    return found
