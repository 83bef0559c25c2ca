"""Inference engines: one protocol, tensors of the contract in, tensors of the contract out."""

import os

# ONNX Runtime 1.32 would report its use to its maker; an experiment's machines report nothing.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
