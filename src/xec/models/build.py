"""The composition root: presets with every number of the network, and `build_reconstructor`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from xec.detector.adjacency import HEXAGONAL_RADIUS, edge_offsets, face_edges
from xec.detector.channels import (
    BOTTOM_IDS,
    DS_GRID,
    FACE_IDS,
    INNER_GRID,
    N_MPPC,
    TOP_IDS,
    US_GRID,
    Face,
    outer_fine_grid,
)
from xec.detector.coordinates import uvw_from_xyz
from xec.detector.geometry import Geometry
from xec.errors import ModelError, UsageError
from xec.models.face_group import FaceGroup
from xec.models.faces import GraphSize, GridFace, GridSize, HexFace
from xec.models.frontend import FEATURES, FrontEnd
from xec.models.fusion import Fusion
from xec.models.moments import FlightTime, LightMoments
from xec.models.point_source import PointSource
from xec.models.reconstructor import Reconstructor

OUTER_PATCH: Final = (5, 3)  # one cell of the stem is one coarse PMT of the outer fine grid
HEX_UNIT: Final = 40.0  # cm, half of the length of a hexagonal face
EDGE_UNIT: Final = 7.0  # cm, typical distance of neighbouring PMTs


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Every number of a network.

    Args:
        inner, outer, side: the grid faces; `side` is us and ds.
        hexagonal: top and bottom.
        width: token width D.
        heads, feed_forward, layers: of the fusion Transformer.
        hidden: width of the gamma heads.
        drop_path: stochastic depth rate of each face's last block.
    """

    inner: GridSize
    outer: GridSize
    side: GridSize
    hexagonal: GraphSize
    width: int
    heads: int
    feed_forward: int
    layers: int
    hidden: int
    drop_path: float = 0.0


def _grid(patch: tuple[int, int], channels: int, blocks: tuple[int, int], queries: int) -> GridSize:
    return GridSize(patch, (channels, 2 * channels), blocks, queries)


PRESETS: Final[Mapping[str, ModelConfig]] = {
    # The specification's network: six 1024-wide tokens, 32 -> 64 channels in 2 + 3 blocks.
    "base": ModelConfig(
        inner=_grid((1, 1), 32, (2, 3), 16),
        outer=_grid(OUTER_PATCH, 32, (2, 3), 8),
        side=_grid((1, 1), 32, (2, 3), 8),
        hexagonal=GraphSize(channels=96, blocks=4, heads=4, queries=4),
        width=1024,
        heads=8,
        feed_forward=4096,
        layers=2,
        hidden=512,
        drop_path=0.1,
    ),
    # The shipped network: the inner face in cells of 2x2 sensors.
    "small": ModelConfig(
        inner=_grid((2, 2), 32, (3, 3), 16),
        outer=_grid(OUTER_PATCH, 32, (2, 2), 8),
        side=_grid((1, 1), 32, (2, 2), 8),
        hexagonal=GraphSize(channels=32, blocks=2, heads=4, queries=4),
        width=128,
        heads=4,
        feed_forward=384,
        layers=2,
        hidden=192,
    ),
    # For tests.
    "tiny": ModelConfig(
        inner=_grid((4, 4), 8, (1, 1), 4),
        outer=_grid(OUTER_PATCH, 8, (1, 1), 2),
        side=_grid((2, 2), 8, (1, 1), 2),
        hexagonal=GraphSize(channels=8, blocks=1, heads=2, queries=2),
        width=16,
        heads=2,
        feed_forward=32,
        layers=1,
        hidden=32,
    ),
}


def preset(name: str) -> ModelConfig:
    """The configuration of a preset; `UsageError` names the known ones."""
    if name not in PRESETS:
        raise UsageError(f"There is no preset {name!r}; choose one of {', '.join(PRESETS)}.")
    return PRESETS[name]


def config_as_dict(config: ModelConfig) -> dict[str, Any]:
    """The configuration as JSON-serialisable values."""
    return asdict(config)


def config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """Inverse of `config_as_dict`, from parsed JSON.

    Raises:
        ModelError: when the values are not those of a `ModelConfig`.
    """
    try:
        grids = {name: _grid_from_dict(values[name]) for name in ("inner", "outer", "side")}
        return ModelConfig(**{**values, **grids, "hexagonal": GraphSize(**values["hexagonal"])})
    except (KeyError, TypeError) as error:
        raise ModelError(f"The network's configuration cannot be read: {error}.") from error


def _grid_from_dict(values: Mapping[str, Any]) -> GridSize:
    def pair(name: str) -> tuple[int, int]:
        first, second = values[name]
        return int(first), int(second)

    return GridSize(pair("patch"), pair("channels"), pair("blocks"), int(values["queries"]))


def build_reconstructor(config: ModelConfig, geometry: Geometry) -> Reconstructor:
    """A fresh network for a geometry, initialised from torch's global random state."""
    uv = uvw_from_xyz(geometry.position[:N_MPPC])[:, :2]
    return Reconstructor(
        front_end=FrontEnd(geometry),
        groups=[_inner(config), _outer(config), _sides(config), _hexagons(config, geometry)],
        fusion=Fusion(len(Face), config.width, config.heads, config.feed_forward, config.layers),
        light_moments=LightMoments(torch.tensor(uv, dtype=torch.float32)),
        flight_time=FlightTime(geometry),
        point_source=PointSource(geometry),
        width=config.width,
        hidden=config.hidden,
    )


def _ids(*arrays: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


def _inner(config: ModelConfig) -> FaceGroup:
    network = GridFace(INNER_GRID.shape, config.inner, FEATURES, config.width, config.drop_path)
    return FaceGroup(network, (Face.INNER,), _ids(INNER_GRID), _ids(INNER_GRID.ravel()))


def _outer(config: ModelConfig) -> FaceGroup:
    fine = outer_fine_grid()
    select = torch.from_numpy(_central_cells(fine))
    network = GridFace(fine.shape, config.outer, FEATURES, config.width, config.drop_path, select)
    return FaceGroup(network, (Face.OUTER,), _ids(fine), _ids(FACE_IDS[Face.OUTER]))


def _central_cells(fine: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, Any]:
    """For each outer channel, the flat index of the middle one of its fine cells."""
    flat = fine.ravel()
    cells = [np.flatnonzero(flat == channel) for channel in FACE_IDS[Face.OUTER]]
    return np.array([c[len(c) // 2] for c in cells], dtype=np.int64)


def _sides(config: ModelConfig) -> FaceGroup:
    network = GridFace(US_GRID.shape, config.side, FEATURES, config.width, config.drop_path)
    channels = _ids(US_GRID.ravel(), DS_GRID.ravel())
    return FaceGroup(network, (Face.US, Face.DS), _ids(US_GRID, DS_GRID), channels)


def _hexagons(config: ModelConfig, geometry: Geometry) -> FaceGroup:
    edges = face_edges(geometry, Face.TOP, HEXAGONAL_RADIUS)
    features = edge_offsets(geometry, Face.TOP, edges) / EDGE_UNIT
    network = HexFace(
        _plane_positions(geometry),
        torch.from_numpy(edges),
        torch.tensor(features, dtype=torch.float32),
        config.hexagonal,
        FEATURES,
        config.width,
    )
    ids = _ids(TOP_IDS, BOTTOM_IDS)
    return FaceGroup(network, (Face.TOP, Face.BOTTOM), ids, ids)


def _plane_positions(geometry: Geometry) -> Tensor:
    """Coordinates (73, 2) in the plane of the top face: z and distance from the axis."""
    position = geometry.position[TOP_IDS]
    radius = np.hypot(position[:, 0], position[:, 1])
    plane = np.stack([position[:, 2], radius - radius.mean()], axis=1)
    return torch.tensor(plane / HEX_UNIT, dtype=torch.float32)
