"""timm's layers as oracles, also beside the CPU build of torch, where torchvision does not load."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from types import ModuleType

import pytest
import torch

# Operators that torchvision's Python parts expect from its compiled library as they are imported.
OPERATORS = ("nms", "qnms")
_libraries: list[torch.library.Library] = []  # an operator lives as long as its library


def import_timm() -> ModuleType:
    """The package `timm` with `timm.layers` and `timm.models.convnext`; skips where it is absent.

    timm imports torchvision, whose compiled library does not fit every build of torch. Then, and
    only then, the missing operators are declared without a body; the layers used here call none.
    """
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm, whose layers are the reference here, is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that timm imports
        try:
            import timm.models.convnext
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
            _declare_operators()
            import timm.models.convnext
    return timm


def _declare_operators() -> None:
    for name in [n for n in sys.modules if n.split(".")[0] in ("timm", "torchvision")]:
        del sys.modules[name]  # halves left by the import that failed
    library = torch.library.Library("torchvision", "DEF")
    for name in OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)
