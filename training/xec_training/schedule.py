"""Learning rate against progress: linear warm-up, then a cosine (Loshchilov & Hutter, 2017)."""

from __future__ import annotations

import math


def cosine_with_warmup(progress: float, lr: float, lr_min: float, warmup: float) -> float:
    """Learning rate at `progress` in [0, 1].

    Rises linearly from lr / 100 to `lr` over the first `warmup`, then follows
    lr_min + (lr - lr_min) (1 + cos(pi (progress - warmup) / (1 - warmup))) / 2.
    """
    if progress < warmup:
        return lr * max(progress / warmup, 0.01)
    phase = min(1.0, (progress - warmup) / (1.0 - warmup))
    return lr_min + 0.5 * (lr - lr_min) * (1.0 + math.cos(math.pi * phase))
