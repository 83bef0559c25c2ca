"""How likely a reading is, given the light: the noise of sensor and readout.

A reading x of light m has mean m and variance V(m) = a + b m + c m^2 (pedestal, photoelectrons
with excess noise, gain). Its quasi-likelihood (Wedderburn, Biometrika 61 (1974) 439) is

    Q(m) = integral of (x - m) / V(m) dm,

the Poisson likelihood for a = c = 0, b = 1. Its score has mean zero and its information is
exactly 1 / V at any light. A Gaussian of variance V(m) would claim more, 1 / V + V'^2 / (2 V^2),
twice as much at one photoelectron, where the true compound-Poisson information is 1.02 / V.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from xec.detector.channels import IS_MPPC
from xec.simulation.electronics import ElectronicsConfig


@dataclass(frozen=True, slots=True)
class ReadingModel:
    """The spread of counts around the light, with the sensors' gains averaged over.

    Args:
        config: of sensors and readout.
    """

    config: ElectronicsConfig = field(default_factory=ElectronicsConfig)

    def efficiencies(self, efficiency: Tensor) -> Tensor:
        """Of all sensors (B, 4760), from that of the MPPC in each run (B,)."""
        is_mppc = torch.from_numpy(IS_MPPC.copy())
        return torch.where(is_mppc, efficiency.double().unsqueeze(-1), self.config.pmt_qe)

    def variance(self, light: Tensor, efficiency: Tensor) -> Tensor:
        """Variance of readings, photons squared (B, 4760).

        F light / efficiency + (pedestal / efficiency)^2 + (gain light)^2.

        Args:
            light: expected photons, (B, 4760).
            efficiency: of the MPPC in each run, (B,).
        """
        a, b, c = self._coefficients(efficiency)
        return a + (b + c * light) * light

    def log_likelihood(
        self, npho: Tensor, live: Tensor, light: Tensor, efficiency: Tensor
    ) -> Tensor:
        """Quasi-likelihood of the live readings, summed: (B,), up to a constant of the readings.

        Args:
            npho: (B, 4760) readings in photons.
            live: (B, 4760) which of them count.
            light: (B, 4760) expected photons, differentiable.
            efficiency: of the MPPC in each run, (B,).
        """
        a, b, c = self._coefficients(efficiency)
        if c == 0.0:
            terms = ((npho + a / b) * (a + b * light).log() - light) / b
        else:
            root = (b * b - 4.0 * a * c).sqrt()
            ratio = (2.0 * a + (b + root) * light) / (2.0 * c * light + b + root)
            terms = (npho + b / (2.0 * c)) / root * ratio.log()
            terms = terms - (a + (b + c * light) * light).log() / (2.0 * c)
        return torch.where(live, terms, 0.0).sum(-1)

    def _coefficients(self, efficiency: Tensor) -> tuple[Tensor, Tensor, float]:
        """a, b (B, 4760) and c of the variance a + b light + c light^2."""
        config = self.config
        is_mppc = torch.from_numpy(IS_MPPC.copy())
        excess = torch.where(is_mppc, config.mppc_excess_noise, config.pmt_excess_noise)
        each = self.efficiencies(efficiency)
        return (config.pedestal / each).square(), excess / each, config.gain_spread**2
