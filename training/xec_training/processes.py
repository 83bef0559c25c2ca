"""The processes of a training, through Lightning Fabric: one, or those that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor

from xec.errors import UsageError

if TYPE_CHECKING:
    from lightning_fabric.loggers.logger import Logger


@contextmanager
def launched(device: str, loggers: list[Logger]) -> Iterator[Fabric]:
    """A launched Fabric on `cpu` or `cuda`; several processes only if torchrun started them.

    Raises:
        UsageError: a device that is not there.
    """
    fabric = _open(device, loggers)
    fabric.launch()
    try:
        yield fabric
        fabric.barrier()
    finally:
        # Left to the interpreter's end, gloo's threads abort the process now and then.
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _open(device: str, loggers: list[Logger]) -> Fabric:
    if device not in ("cpu", "cuda"):
        raise UsageError(f"--device is cpu or cuda, not {device}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("No CUDA device is available; use --device cpu.")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    several = world > 1 and "TORCHELASTIC_RUN_ID" in os.environ
    return Fabric(
        accelerator=device,
        devices=local if several else 1,
        num_nodes=world // local if several else 1,
        strategy=DDPStrategy() if several else "auto",
        loggers=loggers,
    )


class FabricProcesses:
    """What the processes do together; see `xec_training.accumulate.Processes`.

    Args:
        fabric: launched.
        module: the network as Fabric wrapped it.
    """

    def __init__(self, fabric: Fabric, module: _FabricModule) -> None:
        self.fabric, self.module = fabric, module

    @property
    def count(self) -> int:
        """Number of processes."""
        return int(self.fabric.world_size)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over processes."""
        if self.count == 1:
            return values
        reduced = self.fabric.all_reduce(values.clone(), reduce_op="sum")
        assert isinstance(reduced, Tensor)
        return reduced

    def any(self, value: bool) -> bool:
        """Whether it holds in any process."""
        return bool(self.sum(torch.tensor(float(value), device=self.fabric.device)) > 0)

    def first(self, value: float) -> float:
        """The first process' value."""
        if self.count == 1:
            return value
        return float(self.fabric.broadcast(value))

    def waiting(self, wait: bool) -> AbstractContextManager[object]:
        """Do not exchange gradients yet, if `wait`."""
        if self.count == 1:
            return nullcontext()
        return self.fabric.no_backward_sync(self.module, enabled=wait)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`."""
        self.fabric.backward(loss)
