"""The gate in front of half precision: its cost in physical units, on the same fresh events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from xec.errors import ModelError
from xec_export.performance import Performance

LOSS_LIMIT: Final = 0.01
"""Of a resolution or of the mean error on dead sensors, relative: both see the same events, so that
rounding alone is compared and not the draw of the events."""
COVERAGE_LIMIT: Final = 0.005
"""Of the share of truths within one sigma."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One figure in full and in half precision."""

    quantity: str
    unit: str
    full: float
    half: float
    limit: float  # of half - full, in the unit

    @property
    def share(self) -> float:
        """How much of what is allowed it takes."""
        return (self.half - self.full) / self.limit

    @property
    def allowed(self) -> bool:
        """Whether half precision is good enough; not where it is no number."""
        return self.share <= 1.0


def losses(full: Performance, half: Performance) -> Iterator[Loss]:
    """Every figure that half precision could spoil.

    Args:
        full: metrics in float32.
        half: metrics of the same events in half precision.
    """
    for a, b in zip(full.filling, half.filling, strict=True):
        if a.method == "this network":
            yield Loss("mean error on dead sensors", "photons", a.mae, b.mae, LOSS_LIMIT * a.mae)
            yield Loss("RMS error on dead sensors", "photons", a.rmse, b.rmse, LOSS_LIMIT * a.rmse)
    for c, d in zip(full.resolution, half.resolution, strict=True):
        limit = LOSS_LIMIT * c.sigma68
        yield Loss(f"resolution of {c.name}", c.unit, c.sigma68, d.sigma68, limit)
        yield Loss(f"size of the bias of {c.name}", c.unit, abs(c.bias), abs(d.bias), limit)
        shift = abs(d.coverage - c.coverage)
        yield Loss(f"coverage of {c.name}", "", 0.0, shift, COVERAGE_LIMIT)


def require_accuracy(full: Performance, half: Performance) -> list[Loss]:
    """All figures; `ModelError` names the worst that is beyond its limit."""
    found = list(losses(full, half))
    refused = [loss for loss in found if not loss.allowed]
    if refused:
        worst = max(refused, key=lambda loss: loss.share)
        raise ModelError(
            f"Half precision is not accurate enough: {worst.quantity} goes from {worst.full:.4g} "
            f"to {worst.half:.4g} {worst.unit}, where {worst.limit:.2g} more is allowed. Export in "
            "float32. Nothing was written."
        )
    return found
