"""Checkpoint to ONNX: one file, dense convolutions, dynamic batch, provenance inside."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import onnx
import torch

from xec import __version__
from xec.contract import CONTRACT_VERSION, INPUTS, MODEL_NAME, OUTPUTS
from xec.errors import ModelError
from xec.models.checkpoint import Checkpoint
from xec.models.reconstructor import Reconstructor
from xec.reliability.record import METADATA_KEY
from xec_export.view import ExportView, example_inputs

OPSET: Final = 20  # the first with Gelu, which older sets spell in five passes over memory


def to_onnx(
    model: Reconstructor,
    checkpoint: Checkpoint,
    version: str,
    opset: int = OPSET,
) -> onnx.ModelProto:
    """The network as an ONNX graph with the contract's names and a symbolic batch dimension.

    Args:
        model: trained network, best in its fused form (`xec_export.fuse`).
        checkpoint: its description; goes into the graph's metadata.
        version: number under which it will be served.
        opset: version of ONNX's operators.
    """
    batch = torch.export.Dim("batch", min=1, max=4096)
    with _quiet_exporter():
        program = torch.onnx.export(
            ExportView(model),
            example_inputs(2),
            dynamo=True,
            opset_version=opset,
            input_names=[t.name for t in INPUTS],
            output_names=[t.name for t in OUTPUTS],
            dynamic_shapes=tuple({0: batch} for _ in INPUTS),
            optimize=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _strip_traces(proto)
    onnx.helper.set_model_props(proto, metadata(checkpoint, version))
    onnx.checker.check_model(proto, full_check=True)
    return proto


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence notes on the exporter's own libraries, on which a user could not act."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def metadata(checkpoint: Checkpoint, version: str) -> dict[str, str]:
    """Provenance and calibration, as strings."""
    return {
        "contract_version": CONTRACT_VERSION,
        "model_name": MODEL_NAME,
        "model_version": version,
        "preset": checkpoint.preset,
        "geometry_hash": checkpoint.geometry_hash,
        "interval_scale": json.dumps(dict(checkpoint.interval_scale)),
        METADATA_KEY: json.dumps(dict(checkpoint.reliability)),
        "training": json.dumps(dict(checkpoint.training)),
        "software_version": __version__,
    }


def _strip_traces(proto: onnx.ModelProto) -> None:
    """Remove the exporter's notes: they hold source paths of the exporting machine."""
    proto.doc_string = ""
    proto.graph.doc_string = ""
    del proto.graph.metadata_props[:]
    for node in proto.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    values = (proto.graph.value_info, proto.graph.input, proto.graph.output)
    for value in (value for group in values for value in group):
        value.doc_string = ""
        del value.metadata_props[:]
    if proto.functions:
        raise ModelError("The exported graph holds local functions; it should be flat.")
