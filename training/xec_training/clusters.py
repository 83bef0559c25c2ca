"""Random orders of the sensors in which neighbours come together.

Whoever masks the first k sensors of such an order masks clusters of the kinds that die together:
boards, rows and blocks on the inner face, neighbourhoods on the faces with PMTs.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
import torch
from torch import Tensor

from xec.detector.channels import FACE_IDS, INNER_GRID, N_CHANNELS, N_MPPC, Face
from xec.detector.geometry import parametric
from xec.simulation.deadmap import BOARD_CLUSTERS

BOARD_SHARE: Final = 0.5  # of the rectangles; the others are blocks
BLOCK_SIDES: Final = (3, 12)  # sensors, flat
RECTANGLES: Final = 192  # cover three quarters of the inner face
LARGEST_AREA: Final = BLOCK_SIDES[1] ** 2  # boards have 16 sensors, rows 44

NEIGHBOURHOODS: Final = 24  # per face with PMTs
NEIGHBOURS: Final = (4, 24)  # sensors in each, flat


def cluster_order(n: int, generator: torch.Generator) -> Tensor:
    """Keys (n, 4760) of random orders: equal whole parts within a cluster, random fractions.

    A sensor belongs to the first of many random clusters that covers it. Those that none covers
    come last, one by one.

    Args:
        n: number of events.
        generator: random numbers, on the device of the result.
    """
    device = generator.device
    keys = torch.rand(n, N_CHANNELS, generator=generator, device=device)
    keys[:, :N_MPPC] += _first_rectangle(n, generator)
    for face, ids in FACE_IDS.items():
        if face is not Face.INNER:
            first = _first_neighbourhood(n, face, generator)
            keys[:, torch.from_numpy(ids.copy()).to(device)] += first
    return keys


def _first_rectangle(n: int, generator: torch.Generator) -> Tensor:
    """Number (n, 4092) of the first rectangle around each inner sensor."""
    rows, columns = INNER_GRID.shape
    device = generator.device
    tall, wide = _sides(n, generator)
    corner = torch.rand(2, n, RECTANGLES, generator=generator, device=device)
    # They may lie across the edge of the face: inside it, corners would hardly ever be covered.
    top = (corner[0] * (rows + tall - 1)).long() - tall + 1
    left = (corner[1] * (columns + wide - 1)).long() - wide + 1
    left = left.masked_fill_(wide == columns, 0)  # whole rows stay whole
    # Each rectangle as a list of its cells; those beyond its area or the face all stand for one
    # more sensor.
    cell = torch.arange(LARGEST_AREA, device=device)
    row = torch.div(cell, wide.unsqueeze(-1), rounding_mode="floor")
    column = cell - row * wide.unsqueeze(-1) + left.unsqueeze(-1)
    beyond = row >= tall.unsqueeze(-1)
    row += top.unsqueeze(-1)
    beyond |= (row < 0) | (row >= rows) | (column < 0) | (column >= columns)
    sensor = (row * columns + column).masked_fill_(beyond, N_MPPC)
    number = torch.arange(RECTANGLES, dtype=torch.float32, device=device)
    number = number.repeat_interleave(LARGEST_AREA).expand(n, -1)
    first = torch.full((n, N_MPPC + 1), float(RECTANGLES), device=device)
    return first.scatter_reduce_(1, sensor.flatten(1), number, "amin")[:, :N_MPPC]


def _sides(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows and columns (n, RECTANGLES) of boards, whole rows and blocks."""
    device = generator.device
    random = torch.rand(4, n, RECTANGLES, generator=generator, device=device)
    weights = torch.tensor([board.weight for board in BOARD_CLUSTERS], device=device)
    edges = torch.cumsum(weights / weights.sum(), dim=0)[:-1]
    shape = torch.bucketize(random[0], edges, right=True)
    low, high = BLOCK_SIDES
    block = (random[1:3] * (high - low + 1)).long() + low
    is_board = random[3] < BOARD_SHARE
    tall = torch.tensor([board.rows for board in BOARD_CLUSTERS], device=device)[shape]
    wide = torch.tensor([board.columns for board in BOARD_CLUSTERS], device=device)[shape]
    return torch.where(is_board, tall, block[0]), torch.where(is_board, wide, block[1])


def _first_neighbourhood(n: int, face: Face, generator: torch.Generator) -> Tensor:
    """Number (n, F) of the first neighbourhood around each of the F sensors of a face.

    A sensor is in the neighbourhood of a centre if few others are nearer to it than the centre
    is. So each sensor is in equally many of them; of discs, those at an edge would be in few.
    """
    nearness = _nearness(face, generator.device)
    random = torch.rand(2, n, NEIGHBOURHOODS, generator=generator, device=generator.device)
    centre = (random[0] * len(nearness)).long()
    low, high = NEIGHBOURS
    size = (random[1] * (high - low + 1)).long() + low
    inside = nearness[centre] < size.unsqueeze(-1)  # (n, NEIGHBOURHOODS, F)
    number = torch.arange(NEIGHBOURHOODS, dtype=torch.float32, device=generator.device)
    number = number.view(1, -1, 1).expand_as(inside)
    return number.masked_fill(~inside, float(NEIGHBOURHOODS)).amin(dim=1)


@cache
def _nearness(face: Face, device: torch.device) -> Tensor:
    """How many sensors of a face are nearer to sensor j than i is, at [i, j]; (F, F).

    Shared, not to be written into. Of the ideal detector: surveyed positions differ by a
    centimetre, which hardly changes who is whose neighbour.
    """
    position = parametric().position[FACE_IDS[face]]
    distance = np.linalg.norm(position[:, None] - position[None], axis=-1)
    order = distance.argsort(axis=0, kind="stable")
    return torch.from_numpy(order.argsort(axis=0)).to(device)
