"""From light to readings: photoelectrons, noise, gains, times and their validity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xec.contract import MIN_PHOTONS_FOR_TIME
from xec.detector.channels import IS_MPPC, N_CHANNELS
from xec.simulation.optics import Illumination


@dataclass(frozen=True, slots=True)
class ElectronicsConfig:
    """Sensors and their readout.

    Args:
        mppc_pde: range of the photon detection efficiency of the MPPC, drawn once per run.
        pmt_qe: quantum efficiency of the PMT.
        mppc_excess_noise: variance of the charge over that of Poisson photoelectrons.
        pmt_excess_noise: the same for the PMT.
        pedestal: noise of an empty sensor, photoelectrons.
        gain_spread: relative miscalibration of a sensor's gain, fixed within a run.
        time_per_photoelectron: time spread of one photoelectron, ns; falls as 1/sqrt(npe).
        time_floor: time spread that remains with much light, ns.
        reference_npe: photoelectrons that a sensor needs to set the event's time zero.
        npho_invalid: probability that a count (and so its time) is invalid in one event.
        time_invalid: probability that a time alone is.
    """

    mppc_pde: tuple[float, float] = (0.06, 0.20)
    pmt_qe: float = 0.16
    mppc_excess_noise: float = 1.3
    pmt_excess_noise: float = 1.2
    pedestal: float = 0.5
    gain_spread: float = 0.015
    time_per_photoelectron: float = 3.0
    time_floor: float = 0.08
    reference_npe: float = 50.0
    npho_invalid: float = 5e-4
    time_invalid: float = 2e-3


@dataclass(frozen=True, slots=True, eq=False)
class Readings:
    """What the electronics report; times in ns after the conversion."""

    npho: Tensor  # (B, 4760) photons
    npe: Tensor  # (B, 4760) photoelectrons, as measured
    time: Tensor  # (B, 4760) ns
    npho_valid: Tensor  # (B, 4760) bool
    time_valid: Tensor  # (B, 4760) bool


def draw_efficiency(n: int, config: ElectronicsConfig, rng: torch.Generator) -> Tensor:
    """MPPC efficiencies (n,) of `n` runs."""
    low, high = config.mppc_pde
    return torch.rand(n, generator=rng, device=rng.device) * (high - low) + low


def draw_gains(n: int, config: ElectronicsConfig, rng: torch.Generator) -> Tensor:
    """Gain factors (n, 4760) of `n` runs, around 1."""
    spread = torch.randn(n, N_CHANNELS, generator=rng, device=rng.device)
    return spread.mul_(config.gain_spread).add_(1.0)


class Electronics:
    """The readout of all sensors on one device."""

    def __init__(self, config: ElectronicsConfig, device: torch.device | str) -> None:
        self.config = config
        self._is_mppc = torch.from_numpy(IS_MPPC.copy()).to(device)
        excess = torch.where(self._is_mppc, config.mppc_excess_noise, config.pmt_excess_noise)
        self._extra_variance = excess - 1.0  # (N,)

    def read(
        self, illumination: Illumination, efficiency: Tensor, gain: Tensor, rng: torch.Generator
    ) -> Readings:
        """Draw one reading of every sensor.

        Args:
            illumination: light and arrival times, (B, 4760).
            efficiency: of the MPPC, (B,).
            gain: gain factors, (B, 4760) or (1, 4760).
            rng: on the same device.
        """
        config = self.config
        efficiency = torch.where(self._is_mppc, efficiency.unsqueeze(-1), config.pmt_qe)
        npe = torch.poisson(illumination.light * efficiency, generator=rng)
        noise = torch.randn(2, *npe.shape, generator=rng, device=npe.device)
        spread = (npe * self._extra_variance).add_(config.pedestal**2).sqrt_()
        npe = npe.addcmul_(noise[0], spread).mul_(gain)
        npho = npe / efficiency
        time = illumination.arrival + noise[1] * self._time_spread(npe)
        invalid = torch.rand(npe.shape, generator=rng, device=npe.device)
        npho_valid = invalid >= config.npho_invalid
        time_valid = (invalid >= config.npho_invalid + config.time_invalid) & (
            npho > MIN_PHOTONS_FOR_TIME
        )
        return Readings(npho, npe, time, npho_valid, time_valid)

    def _time_spread(self, npe: Tensor) -> Tensor:
        """Standard deviation of a sensor's time, ns."""
        config = self.config
        statistics = config.time_per_photoelectron**2 / npe.clamp(min=1.0)
        return statistics.add_(config.time_floor**2).sqrt_()


def time_zero(readings: Readings, live: Tensor, reference_npe: float) -> Tensor:
    """Earliest time (B, 1) over live sensors with a valid time and enough photoelectrons.

    Where no sensor has enough, the brightest live one counts.
    """
    bright = readings.npe.masked_fill(~(readings.npho_valid & live), -torch.inf)
    brightest = bright == bright.amax(dim=-1, keepdim=True)
    usable = (readings.time_valid & live & (bright > reference_npe)) | brightest
    return readings.time.masked_fill(~usable, torch.inf).amin(dim=-1, keepdim=True)
