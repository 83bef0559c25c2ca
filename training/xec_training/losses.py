"""Losses of a mean and its log sigma, element by element; whoever calls weights and divides.

    mse          z²/2
    smooth_l1    Huber's form of it: linear beyond `transition`
    nll          the Gaussian likelihood of both together
    beta_nll     the same, weighted by the stopped variance^beta (Seitzer et al., ICLR 2022)
    faithful     mse, and the likelihood of the spread around the stopped mean (Stirn et al.,
                 AISTATS 2023): the mean is that of a plain squared error (METHODS L1)
    split_nll    the specification's `faithful_nll_loss` under its true name: the squared error
                 over the stopped variance, and the likelihood of the spread. Its gradients are
                 those of `nll`, so it is not faithful
    noise_aware  the squared error over the reading's own known noise, and the likelihood of the
                 spread

z = (target - mean) / unit and s = log(sigma / unit) are pure numbers. Elements are not averaged,
because sums and weights are divided once per optimiser step, however many micro-batches it has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional

from xec.errors import UsageError
from xec.models.precision import at_least_float32

LossName = Literal["mse", "smooth_l1", "nll", "beta_nll", "faithful", "split_nll", "noise_aware"]

LOSS_NAMES: Final[tuple[LossName, ...]] = get_args(LossName)
WITHOUT_SPREAD: Final = frozenset({"mse", "smooth_l1"})
HALF_LOG_TWO_PI: Final = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True, slots=True)
class LossKind:
    """Which loss, with its numbers.

    Args:
        name: one of `LOSS_NAMES`.
        beta: power of the variance in `beta_nll`, 0 (`nll`) to 1 (the mean learns as with `mse`).
        transition: error in units at which `smooth_l1` turns from square to linear.

    Raises:
        UsageError: an unknown name, or a number out of its range.
    """

    name: LossName
    beta: float = 0.5
    transition: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in LOSS_NAMES:
            raise UsageError(f"loss must be one of {', '.join(LOSS_NAMES)}, not {self.name}.")
        if not 0.0 <= self.beta <= 1.0:
            raise UsageError(f"beta of a loss must lie between 0 and 1, not {self.beta}.")
        if not 0.0 < self.transition < math.inf:
            raise UsageError(f"transition of a loss must be positive, not {self.transition}.")

    @property
    def trains_spread(self) -> bool:
        """Whether a sigma learns anything from it."""
        return self.name not in WITHOUT_SPREAD


class Elements(NamedTuple):
    """Loss of each element, float32 or float64.

    `spread` is what trains the sigma alone. It is None where there is no such part: `mse` and
    `smooth_l1` train no sigma, `nll` and `beta_nll` train it through `centre`.
    """

    centre: Tensor
    spread: Tensor | None


def elements(
    kind: LossKind,
    mean: Tensor,
    log_sigma: Tensor,
    target: Tensor,
    unit: float = 1.0,
    noise_variance: Tensor | None = None,
) -> Elements:
    """The loss of each element.

    Gradients of `nll`, `split_nll` and every `spread` do not depend on `unit`; those of the other
    centres are in proportion to unit^-2, of `beta_nll` to unit^(-2 beta), and of `noise_aware` to
    1 / noise_variance.

    Args:
        kind: which loss.
        mean: predicted mean, any shape.
        log_sigma: log of the predicted standard deviation in the mean's unit, same shape.
        target: truth in the mean's unit, same shape.
        unit: error that counts as one, in the mean's unit.
        noise_variance: positive variance of each target's known noise, in the mean's unit
            squared, same shape; for `noise_aware` alone.

    Raises:
        UsageError: `noise_aware` without `noise_variance`.
    """
    mean, log_sigma, target = map(at_least_float32, (mean, log_sigma, target))
    z = (target - mean) / unit
    s = log_sigma - math.log(unit)
    match kind.name:
        case "mse":
            return Elements(0.5 * z.square(), None)
        case "smooth_l1":
            return Elements(_huber(z, kind.transition), None)
        case "nll":
            return Elements(_likelihood(z, s), None)
        case "beta_nll":
            return Elements(torch.exp(2.0 * kind.beta * s).detach() * _likelihood(z, s), None)
        case "faithful":
            centre = 0.5 * z.square()
        case "split_nll":
            centre = 0.5 * z.square() * torch.exp(-2.0 * s).detach()
        case "noise_aware":
            centre = 0.5 * (target - mean).square() / _known(noise_variance)
    return Elements(centre, _likelihood(z.detach(), s))


def _huber(z: Tensor, transition: float) -> Tensor:
    """z²/2 up to `transition`, then linear: `transition` times torch's smooth_l1_loss."""
    return functional.huber_loss(z, torch.zeros_like(z), reduction="none", delta=transition)


def _likelihood(z: Tensor, s: Tensor) -> Tensor:
    """Gaussian negative log likelihood without its constant."""
    return s + 0.5 * z.square() * torch.exp(-2.0 * s)


def _known(noise_variance: Tensor | None) -> Tensor:
    if noise_variance is None:
        raise UsageError("The loss noise_aware needs targets whose noise is known.")
    return at_least_float32(noise_variance).detach()


def gaussian_nll(mean: Tensor, log_sigma: Tensor, target: Tensor) -> Tensor:
    """Gaussian negative log likelihood of each element, constant included: a metric.

    Unlike the value of `beta_nll` it is a proper score, so checkpoints may be chosen by it
    (METHODS L5). It depends on the unit of its arguments, as the log of a density does.
    """
    mean, log_sigma, target = map(at_least_float32, (mean, log_sigma, target))
    return _likelihood(target - mean, log_sigma) + HALF_LOG_TWO_PI
