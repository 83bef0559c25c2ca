"""Run by torchrun in two processes: each leaves the gradients that it ends up with.

The first process has the first two of four micro-batches, the second one the others, and one of
those has a loss that is no number, which both must leave out.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file

from support_accumulate import TERMS, network, rows
from xec_training.accumulate import accumulate
from xec_training.processes import FabricProcesses, launched


def main(folder: Path) -> None:
    with launched("cpu", []) as fabric:
        leave_gradients(fabric, folder)


def leave_gradients(fabric: Fabric, folder: Path) -> None:
    assert fabric.world_size == 2
    model = fabric.setup_module(network())
    rank = fabric.global_rank
    parts = [rows(size, seed) for seed, size in enumerate([3, 11, 8, 2])][2 * rank : 2 * rank + 2]
    bad = rows(4, 9)
    parts.insert(1, bad if rank == 0 else bad._replace(y=torch.full_like(bad.y, torch.nan)))
    done = accumulate(
        lambda sample: model(cast(Any, sample).x),
        TERMS,
        cast(Any, parts),
        FabricProcesses(fabric, model),
        lambda: model.zero_grad(set_to_none=True),
    )
    assert (done.used, done.skipped) == (2, 1)
    grads = {f"{i}": p.grad for i, p in enumerate(model.parameters()) if p.grad is not None}
    save_file(grads, folder / f"rank-{rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
