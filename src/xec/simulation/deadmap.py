"""Which sensors are dead: single ones, readout boards and whole rows of the inner face."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xec.detector.channels import INNER_GRID, N_CHANNELS, N_MPPC


@dataclass(frozen=True, slots=True)
class Cluster:
    """A rectangle of inner sensors that dies together, and how often it is the one drawn."""

    rows: int
    columns: int
    weight: float


BOARD_CLUSTERS = (
    Cluster(rows=1, columns=16, weight=0.44),
    Cluster(rows=4, columns=4, weight=0.44),
    Cluster(rows=2, columns=8, weight=0.1),
    Cluster(rows=1, columns=44, weight=0.02),
)


@dataclass(frozen=True, slots=True)
class DeadMapConfig:
    """How dead maps are drawn; the defaults give 88 dead sensors of 4760 on average.

    Args:
        single_fraction: range of the share of sensors that die alone, flat, drawn per map.
        cluster_slots: most clusters in one map.
        cluster_presence: range of the probability that a slot is filled, flat, drawn per map.
        clusters: the shapes.
    """

    single_fraction: tuple[float, float] = (0.0, 0.0164)
    cluster_slots: int = 6
    cluster_presence: tuple[float, float] = (0.0, 1.0)
    clusters: tuple[Cluster, ...] = BOARD_CLUSTERS


TYPICAL_RUN = DeadMapConfig(single_fraction=(0.0082, 0.0082), cluster_presence=(0.5, 0.5))
"""As many dead sensors on average as the default, but a similar number in each map."""


def draw_dead_maps(n: int, config: DeadMapConfig, rng: torch.Generator) -> Tensor:
    """Dead maps (n, 4760), bool: single sensors anywhere and clusters on the inner face."""
    fraction = _flat(n, config.single_fraction, rng)
    single = torch.rand(n, N_CHANNELS, generator=rng, device=rng.device)
    dead = single < fraction
    dead[:, :N_MPPC] |= _draw_clusters(n, config, rng)
    return dead


def _flat(n: int, limits: tuple[float, float], rng: torch.Generator) -> Tensor:
    low, high = limits
    return torch.rand(n, 1, generator=rng, device=rng.device) * (high - low) + low


def _draw_clusters(n: int, config: DeadMapConfig, rng: torch.Generator) -> Tensor:
    """Sensors (n, 4092) inside at least one rectangle."""
    rows, columns = INNER_GRID.shape
    slots = config.cluster_slots
    device = rng.device
    present = torch.rand(n, slots, generator=rng, device=device)
    present = present < _flat(n, config.cluster_presence, rng)
    weights = torch.tensor([c.weight for c in config.clusters], device=device)
    edges = torch.cumsum(weights / weights.sum(), dim=0)[:-1]
    shape = torch.bucketize(torch.rand(n, slots, generator=rng, device=device), edges, right=True)
    tall = torch.tensor([c.rows for c in config.clusters], device=device)[shape]
    wide = torch.tensor([c.columns for c in config.clusters], device=device)[shape]
    corner = torch.rand(2, n, slots, generator=rng, device=device)
    in_rows = _span(corner[0], tall, rows) * present.unsqueeze(-1)  # (n, slots, rows)
    in_columns = _span(corner[1], wide, columns)  # (n, slots, columns)
    return (torch.bmm(in_rows.transpose(1, 2), in_columns) > 0).view(n, N_MPPC)


def _span(start: Tensor, length: Tensor, count: int) -> Tensor:
    """1 where a grid index lies in a span that starts at share `start` of the free places."""
    first = (start * (count - length + 1)).long().unsqueeze(-1)
    index = torch.arange(count, device=start.device)
    return ((index >= first) & (index < first + length.unsqueeze(-1))).float()
