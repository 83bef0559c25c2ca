"""The information that dead sensors take away: how much wider the bounds become."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from xec.optimum.events import KnownEvents
from xec.optimum.laplace import Laplace
from xec.optimum.point_source import point_bound, point_information
from xec.simulation.deadmap import BOARD_CLUSTERS, DeadMapConfig

_NEVER: Final = (0.0, 0.0)
_ALWAYS: Final = (1.0, 1.0)
_BOARDS: Final = tuple(c for c in BOARD_CLUSTERS if c.rows * c.columns == 16)
_EVENTS_AT_ONCE: Final = 4

DEAD_MAPS: Final = {
    "88, single and clustered": DeadMapConfig(),
    "2 %, single": DeadMapConfig((0.02, 0.02), cluster_presence=_NEVER),
    "6 boards of 16": DeadMapConfig(_NEVER, cluster_presence=_ALWAYS, clusters=_BOARDS),
    "5 %, single": DeadMapConfig((0.05, 0.05), cluster_presence=_NEVER),
}


def shower_widening(laplace: Laplace, events: KnownEvents, dead: Tensor) -> Tensor:
    """Geometric mean (6,) over events of Laplace's deviations with `dead` over those without.

    Args:
        laplace: of the events' prior.
        events: their own dead sensors count as live.
        dead: (B, 4760).
    """
    logs = []
    for first in range(0, len(events), _EVENTS_AT_ONCE):
        rows = slice(first, first + _EVENTS_AT_ONCE)
        some = events[rows]
        valid = some.batch.npho_valid
        jacobian = laplace.jacobians(some.z)
        whole = laplace.optimum(jacobian, some, valid).gamma
        part = laplace.optimum(jacobian, some, valid & ~dead[rows]).gamma
        logs.append((part / whole).log())
    return torch.cat(logs).mean(0).exp()


def point_widening(
    laplace: Laplace, uvw: Tensor, energy: float, efficiency: float, dead: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Bound (4,) of one point deposit, and the factors (4,) by which dead sensors widen it.

    Args:
        laplace: its light map and readings are used.
        uvw: (3,) cm.
        energy: MeV.
        efficiency: of the MPPC.
        dead: (M, 4760) maps.

    Returns:
        The bound with all sensors; its geometric mean widening over the maps; its widening
        without the one sensor that says most about the place.
    """
    each = point_information(
        laplace.light_map,
        laplace.readings,
        uvw.unsqueeze(0),
        torch.tensor([energy], dtype=torch.float64),
        torch.tensor([efficiency], dtype=torch.float64),
    )
    every = torch.ones(1, each.shape[1], dtype=torch.bool)
    whole = point_bound(each, every)
    without = every.clone()
    without[0, each.diagonal(dim1=-2, dim2=-1)[0, :, 1:].sum(-1).argmax()] = False
    of_maps = (point_bound(each, ~dead) / whole).log().mean(0).exp()
    return whole[0], of_maps, (point_bound(each, without) / whole)[0]
