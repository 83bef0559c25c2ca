"""What the times say: the mean arrival of the light at each sensor, and its derivatives.

The arrival of `xec.simulation.optics` is a quotient of moments: each deposit's light comes after
its delay and the light's flight, scattered light by a longer way from the centroid.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from xec.optimum.lightmap import LightMap, centre_of
from xec.simulation.electronics import ElectronicsConfig
from xec.simulation.shower import Deposits
from xec.units import SPEED_OF_LIGHT_CM_PER_NS


class Arrival(NamedTuple):
    """Of B events; derivatives in D deposits' places, energies and delays."""

    time: Tensor  # (B, N) ns after the conversion
    place: Tensor  # (B, D, 3, N) ns/cm
    energy: Tensor  # (B, D, N) ns/MeV
    delay: Tensor  # (B, D, N)


def arrival_slopes(light_map: LightMap, deposits: Deposits) -> Arrival:
    """Arrival of the light and its derivatives."""
    xyz, energy, delay = deposits.xyz, deposits.energy, deposits.delay
    B, D = energy.shape
    points = xyz.reshape(B * D, 3)
    kernel = light_map.kernel(points)
    slowness = light_map.config.refractive_index / SPEED_OF_LIGHT_CM_PER_NS
    value, distance = kernel.value.view(B, D, -1), kernel.distance.view(B, D, -1)
    when = delay.unsqueeze(-1) + slowness * distance  # (B, D, N)
    slope = light_map.dense(kernel, points).view(B, D, 3, -1)
    ray = (points.unsqueeze(-1) - light_map.position.T).view(B, D, 3, -1)
    unit = ray / distance.unsqueeze(2)
    weight = energy[..., None, None]

    centre, total = centre_of(xyz, energy)
    diffuse, toward = light_map.diffuse_slope(centre, total)
    share = energy / total
    mean_delay = (share * delay).sum(1, keepdim=True)
    ray_out = centre.unsqueeze(-1) - light_map.position.T  # (B, 3, N)
    far = ray_out.norm(dim=1)
    stretch = light_map.config.diffuse_stretch * slowness
    late = mean_delay + stretch * far  # (B, N)
    light = (energy.unsqueeze(1) @ value).squeeze(1) + diffuse
    moment = (energy.unsqueeze(1) @ (value * when)).squeeze(1) + diffuse * late
    time = moment / light

    # d time = (d moment - time d light) / light, so that delays count from `time`.
    early, behind = when - time.unsqueeze(1), late - time
    of_centre = toward * behind.unsqueeze(1) + (diffuse * stretch / far).unsqueeze(1) * ray_out
    of_place = weight * (slope * early.unsqueeze(2) + slowness * value.unsqueeze(2) * unit)
    of_place = of_place + share[..., None, None] * of_centre.unsqueeze(1)
    away = (xyz - centre.unsqueeze(1)) / total.unsqueeze(-1)
    later = ((delay - mean_delay) / total).unsqueeze(-1) * diffuse.unsqueeze(1)
    of_energy = value * early + (diffuse * behind / total).unsqueeze(1) + away @ of_centre + later
    of_delay = energy.unsqueeze(-1) * value + share.unsqueeze(-1) * diffuse.unsqueeze(1)
    per = light.unsqueeze(1)
    return Arrival(time, of_place / per.unsqueeze(1), of_energy / per, of_delay / per)


def time_weight(npe: Tensor, usable: Tensor, config: ElectronicsConfig) -> Tensor:
    """1 / variance of the times (B, N), 1/ns^2, 0 where not usable, from photoelectrons."""
    statistics = config.time_per_photoelectron**2 / npe.clamp(min=1.0)
    return usable / (statistics + config.time_floor**2)


def time_information(of_time: Tensor, weight: Tensor) -> Tensor:
    """Information (B, S, S) of times with derivatives (B, N, S), their common zero unknown."""
    weighted = of_time * weight.unsqueeze(-1)
    common = weighted.sum(1)  # (B, S)
    total = weight.sum(1).clamp(min=1e-12)[:, None, None]
    return of_time.mT @ weighted - common.unsqueeze(-1) * common.unsqueeze(1) / total
