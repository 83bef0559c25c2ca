"""Which parameters no loss reaches: those of the gamma while sensors are filled, for example.

Processes that exchange gradients wait for every parameter that asks for one.
"""

from __future__ import annotations

import torch

from xec_training.data.batch import TrainingBatch
from xec_training.stages import Plan
from xec_training.tasks import Sample
from xec_training.terms import sums


def freeze_unreached(plan: Plan, batch: TrainingBatch) -> list[str]:
    """Ask for no gradient where none would come; returns the names, and leaves no other trace.

    Args:
        plan: of the training, on the batch's device.
        batch: any events.
    """
    device = batch.npho.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        rng = torch.Generator(device).manual_seed(0)
        sample = Sample(batch, plan.mask(batch, rng))
        prediction = plan.predictor()(*sample.masked.inputs)
        loss = sums(plan.terms, prediction, sample).sum()
        named = list(plan.model.named_parameters())
        grads = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
    unreached = [(name, p) for (name, p), grad in zip(named, grads, strict=True) if grad is None]
    for _, parameter in unreached:
        parameter.requires_grad_(False)
    return [name for name, _ in unreached]
