"""Where half precision is not enough: norms, exponentials and heads run in float32 or better."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor itself, or as float32 when it is of a shorter type."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
