"""A training step written as in the papers: what `training.py` measures ours against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from xec.models.convnext import ConvNeXtBlock
from xec_training.stages import AnySettings, Plan
from xec_training.tasks import Sample

RATE: Final = 1e-4

Step = Callable[[], float]  # makes one optimiser step and returns its loss


class CanonicalBlock(nn.Module):
    """A ConvNeXt V2 block as in the paper's code, with masks where exactness needs them."""

    def __init__(self, block: ConvNeXtBlock) -> None:
        super().__init__()
        self.depthwise, self.norm, self.expand = block.depthwise, block.norm, block.expand
        self.grn, self.project, self.drop_path = block.grn, block.project, block.drop_path

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        cells = None if visible is None else visible.permute(0, 2, 3, 1)
        x = masked(x, visible)
        y = masked(self.depthwise(x), visible)
        y = y.permute(0, 2, 3, 1)
        y = masked(functional.gelu(self.expand(self.norm(y))), cells)
        size = torch.norm(y, p=2, dim=(1, 2), keepdim=True)
        relative = size / (size.mean(dim=-1, keepdim=True) + 1e-6)
        y = self.grn.gamma * (y * relative) + self.grn.beta + y
        y = masked(self.project(y), cells)
        y = y.permute(0, 3, 1, 2)
        return x + self.drop_path(y)


def masked(x: Tensor, visible: Tensor | None) -> Tensor:
    """The tensor with hidden cells set to zero."""
    return x if visible is None else x * visible


def make_canonical(module: nn.Module) -> None:
    """Put canonical blocks in the place of ours, with the same weights."""
    for name, child in module.named_children():
        if isinstance(child, ConvNeXtBlock):
            setattr(module, name, CanonicalBlock(child))
        else:
            make_canonical(child)


def canonical_step(the_plan: Plan, sample: Sample, settings: AnySettings) -> Step:
    """A plain loop's step."""
    make_canonical(the_plan.model)
    training = settings.training
    model = the_plan.model.to(sample.batch.npho.device).train()
    predictor = the_plan.predictor()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(training.ema_decay or 0.0))
    optimiser = torch.optim.AdamW(
        model.parameters(), RATE, betas=(0.9, 0.95), weight_decay=training.weight_decay
    )

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        prediction = predictor(*sample.masked.inputs)
        loss = torch.zeros((), device=sample.batch.npho.device)
        for term in the_plan.terms:
            weight = term.weight(sample)
            elements = term.elements(prediction, sample)
            loss = loss + term.scale * (weight * elements).sum() / weight.sum()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
        optimiser.step()
        average.update_parameters(model)
        return loss.item()

    return step
