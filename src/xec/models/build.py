"""The composition root: presets with every number of the network, and `build_reconstructor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

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
from xec.models.convnext import ConvNeXtBlock
from xec.models.encoder import Encoder
from xec.models.face_group import FaceGroup
from xec.models.faces import GraphSize, GridFace, GridSize, HexFace
from xec.models.frontend import FEATURES, FrontEnd
from xec.models.fusion import Fusion
from xec.models.hexconv import HexDepthwise
from xec.models.hexgat import GraphAttention, HexBlock
from xec.models.light_fit import LightFit
from xec.models.light_map import LightMap
from xec.models.mae import MaskedAutoencoder, MaskedDecoder
from xec.models.moments import MOMENT_FEATURES, FlightTime, LightMoments
from xec.models.noise import ReadingNoise
from xec.models.positions import PositionKind
from xec.models.reconstructor import HeadSizes, Reconstructor, SpreadKind
from xec.models.stage import NO_ATTENTION, GridAttention

GraphMixer = Literal["gatv2", "hexagonal"]
OUTER_PATCH: Final = (5, 3)  # one cell of the stem is one coarse PMT of the outer fine grid
HEX_UNIT: Final = 40.0  # cm, half of the length of a hexagonal face
EDGE_UNIT: Final = 7.0  # cm, typical distance of neighbouring PMTs


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Every number and option of a network.

    Args:
        inner, outer, side: the grid faces; `side` is us and ds.
        hexagonal: top and bottom.
        width: token width D.
        heads, feed_forward, layers: of the fusion Transformer.
        hidden: width of the gamma heads.
        drop_path: stochastic depth rate of each face's last block.
        attention: attention inside the grid faces.
        positions: how the fusion knows which token is which face.
        graph_mixer: mixer of the hexagonal faces.
        spread: what the spreads see.
        noise_floor: whether a sensor's spread contains the known noise of a reading.
        fit_steps, fit_hidden: steps and width of the fit of the light's sources.
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
    attention: GridAttention = NO_ATTENTION
    positions: PositionKind = "learnable"
    graph_mixer: GraphMixer = "gatv2"
    spread: SpreadKind = "detached"
    noise_floor: bool = False
    fit_steps: int = 3
    fit_hidden: int = 128


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
        fit_hidden=32,
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
        parts: dict[str, Any] = {
            name: _grid_from_dict(values[name]) for name in ("inner", "outer", "side")
        }
        parts["hexagonal"] = GraphSize(**values["hexagonal"])
        parts["attention"] = GridAttention(**values["attention"])
        return ModelConfig(**{**values, **parts})
    except (KeyError, TypeError) as error:
        raise ModelError(f"The network's configuration cannot be read: {error}.") from error


def _grid_from_dict(values: Mapping[str, Any]) -> GridSize:
    def pair(name: str) -> tuple[int, int]:
        first, second = values[name]
        return int(first), int(second)

    return GridSize(pair("patch"), pair("channels"), pair("blocks"), int(values["queries"]))


def build_encoder(config: ModelConfig, geometry: Geometry) -> Encoder:
    """A fresh encoder for a geometry, initialised from torch's global random state."""
    groups = [_inner(config), _outer(config), _sides(config), _hexagons(config, geometry)]
    fusion = Fusion(
        _centroids(groups, geometry),
        config.width,
        config.heads,
        config.feed_forward,
        config.layers,
        config.positions,
        config.drop_path,
    )
    return Encoder(FrontEnd(geometry), groups, fusion)


def build_reconstructor(config: ModelConfig, geometry: Geometry) -> Reconstructor:
    """A fresh network for a geometry, initialised from torch's global random state."""
    uv = uvw_from_xyz(geometry.position[:N_MPPC])[:, :2]
    encoder = build_encoder(config, geometry)
    separate = config.spread == "separate"
    context = len(Face) * config.width + MOMENT_FEATURES
    return Reconstructor(
        encoder=encoder,
        light_moments=LightMoments(torch.tensor(uv, dtype=torch.float32)),
        flight_time=FlightTime(geometry),
        light_fit=LightFit(LightMap(geometry), context, config.fit_hidden, config.fit_steps),
        sizes=HeadSizes(config.width, config.hidden),
        spread=config.spread,
        spread_encoder=build_encoder(config, geometry) if separate else None,
        noise=ReadingNoise() if config.noise_floor else None,
    )


def build_autoencoder(config: ModelConfig, geometry: Geometry) -> MaskedAutoencoder:
    """A fresh masked autoencoder for a geometry, from torch's global random state."""
    encoder = build_encoder(config, geometry)
    return MaskedAutoencoder(encoder, [_decoder(g, config, geometry) for g in encoder.face_groups])


def _decoder(group: FaceGroup, config: ModelConfig, geometry: Geometry) -> MaskedDecoder:
    network = group.network
    is_grid = isinstance(network, GridFace)
    block = (
        ConvNeXtBlock(network.channels)
        if is_grid
        else HexBlock(network.channels, _mixer(config, geometry))
    )
    return MaskedDecoder(block, network.channels, network.sensors, is_grid)


def _centroids(groups: Sequence[FaceGroup], geometry: Geometry) -> Tensor:
    """Mean position (T, 3) in cm of each token's sensors, in the order of the tokens."""
    faces = [face for group in groups for face in group.faces]
    centres = np.stack([geometry.position[FACE_IDS[face]].mean(0) for face in faces])
    return torch.tensor(centres, dtype=torch.float32)


def _ids(*arrays: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


def _grid_face(
    config: ModelConfig, shape: tuple[int, int], size: GridSize, select: Tensor | None = None
) -> GridFace:
    return GridFace(shape, size, FEATURES, config.width, config.drop_path, config.attention, select)


def _inner(config: ModelConfig) -> FaceGroup:
    network = _grid_face(config, INNER_GRID.shape, config.inner)
    return FaceGroup(network, (Face.INNER,), _ids(INNER_GRID), _ids(INNER_GRID.ravel()))


def _outer(config: ModelConfig) -> FaceGroup:
    fine = outer_fine_grid()
    select = torch.from_numpy(_central_cells(fine))
    network = _grid_face(config, fine.shape, config.outer, select)
    return FaceGroup(network, (Face.OUTER,), _ids(fine), _ids(FACE_IDS[Face.OUTER]))


def _central_cells(fine: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, Any]:
    """For each outer channel, the flat index of the middle one of its fine cells."""
    flat = fine.ravel()
    cells = [np.flatnonzero(flat == channel) for channel in FACE_IDS[Face.OUTER]]
    return np.array([c[len(c) // 2] for c in cells], dtype=np.int64)


def _sides(config: ModelConfig) -> FaceGroup:
    network = _grid_face(config, US_GRID.shape, config.side)
    channels = _ids(US_GRID.ravel(), DS_GRID.ravel())
    return FaceGroup(network, (Face.US, Face.DS), _ids(US_GRID, DS_GRID), channels)


def _hexagons(config: ModelConfig, geometry: Geometry) -> FaceGroup:
    network = HexFace(
        _plane_positions(geometry),
        config.hexagonal,
        FEATURES,
        config.width,
        config.drop_path,
        lambda: _mixer(config, geometry),
    )
    ids = _ids(TOP_IDS, BOTTOM_IDS)
    return FaceGroup(network, (Face.TOP, Face.BOTTOM), ids, ids)


def _mixer(config: ModelConfig, geometry: Geometry) -> nn.Module:
    """The graph mixer of one block of the hexagonal faces."""
    edges = face_edges(geometry, Face.TOP, HEXAGONAL_RADIUS)
    offsets = edge_offsets(geometry, Face.TOP, edges) / EDGE_UNIT
    features = torch.tensor(offsets, dtype=torch.float32)
    size, nodes = config.hexagonal, len(TOP_IDS)
    if config.graph_mixer == "hexagonal":
        return HexDepthwise(size.channels, torch.from_numpy(edges), features, nodes)
    return GraphAttention(size.channels, size.heads, torch.from_numpy(edges), features, nodes)


def _plane_positions(geometry: Geometry) -> Tensor:
    """Coordinates (73, 2) in the plane of the top face: z and distance from the axis."""
    position = geometry.position[TOP_IDS]
    radius = np.hypot(position[:, 0], position[:, 1])
    plane = np.stack([position[:, 2], radius - radius.mean()], axis=1)
    return torch.tensor(plane / HEX_UNIT, dtype=torch.float32)
