"""Matrix products in full float32, whatever the training around them has chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Switch TF32, bfloat16 products and autocast off inside.

    Distances come from differences of squares of a metre: the ten bits of TF32 would leave
    errors of centimetres.
    """
    # The stubs of PyTorch do not know the second one.
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
