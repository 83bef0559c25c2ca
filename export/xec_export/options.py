"""What an export is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from xec.contract import MODELS
from xec.errors import UsageError


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to write.

    Args:
        models: which models of the contract, each with a graph of its own.
        torchscript: also write each as a TorchScript module, which doubles the size.
    """

    models: tuple[str, ...] = tuple(MODELS)
    torchscript: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.models if name not in MODELS]
        if unknown or not self.models:
            raise UsageError(
                f"There is no model {', '.join(unknown) or 'to export'}: "
                f"choose among {', '.join(MODELS)}."
            )
