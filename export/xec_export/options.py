"""What an export is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from xec.contract import MODELS
from xec.errors import UsageError

PRECISIONS: Final = ("float32", "fp16")


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to write.

    Args:
        models: which models of the contract, each with a graph of its own.
        torchscript: also write each as a TorchScript module, which doubles the size.
        precision: "fp16" also writes each with its encoder in half precision, for GPUs.
    """

    models: tuple[str, ...] = tuple(MODELS)
    torchscript: bool = False
    precision: str = "float32"

    def __post_init__(self) -> None:
        unknown = [name for name in self.models if name not in MODELS]
        if unknown or not self.models:
            raise UsageError(
                f"There is no model {', '.join(unknown) or 'to export'}: "
                f"choose among {', '.join(MODELS)}."
            )
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"There is no precision {self.precision}: choose {' or '.join(PRECISIONS)}."
            )
