"""How the Transformer knows which token is which face: five ways, one of them per network.

Added to the tokens: `LearnablePositions` (the default), `SinusoidalPositions` (by the token's
number) and `GeometricPositions` (by the face's place in the detector). Inside attention:
`RotaryPositions` (queries and keys turned by the place) and `DistanceBias` (near faces score
higher). Places are the centroids of the faces' sensors: with every face on the beam axis, as in
the specification's sketch, the inner and the outer one would share a code.
"""

from __future__ import annotations

import math
from typing import Final, Literal

import torch
from torch import Tensor, nn

PositionKind = Literal["learnable", "sinusoidal", "rotary", "alibi", "geometric"]

AXES: Final = 3  # x, y, z
LENGTH_MIN: Final = 10.0  # cm per radian of the fastest code; centroids are 35 to 154 cm apart
LENGTH_MAX: Final = 400.0  # cm per radian of the slowest
DISTANCE_UNIT: Final = 40.0  # cm; about the smallest distance between two faces' centroids
WAVELENGTH_RATIO: Final = 10_000.0  # Vaswani et al., section 3.5


class LearnablePositions(nn.Module):
    """One learned vector per face, truncated normal with standard deviation 0.02."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.code = nn.Parameter(torch.zeros(1, tokens, width))
        nn.init.trunc_normal_(self.code, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Add the codes to tokens (B, T, D)."""
        return tokens + self.code


class SinusoidalPositions(nn.Module):
    """Fixed code of the token's number, sines and cosines interleaved (Vaswani, section 3.5)."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        even = torch.arange(0, width, 2, dtype=torch.float64)
        number = torch.arange(tokens, dtype=torch.float64).unsqueeze(1)
        angle = number * WAVELENGTH_RATIO ** (-even / width)  # (T, ceil(D/2))
        code = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]
        self.register_buffer("code", code.to(torch.get_default_dtype()), persistent=False)
        self.code: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        """Add the codes to tokens (B, T, D)."""
        return tokens + self.code


class GeometricPositions(nn.Module):
    """Fixed sinusoidal code of the three coordinates of each face's centroid.

    A third of the channels for each axis; what six does not divide stays zero. The code is of
    the size of a freshly initialised token, so it needs no scale.

    Args:
        centroids: (T, 3) cm; the code has their dtype.
        width: width D of a token, at least 6.
    """

    def __init__(self, centroids: Tensor, width: int) -> None:
        super().__init__()
        angle = _angles(centroids, width // (2 * AXES), width)
        code = centroids.new_zeros(len(centroids), width)
        code[:, : 2 * angle.shape[1]] = torch.cat([angle.sin(), angle.cos()], dim=1).to(code)
        self.register_buffer("code", code, persistent=False)  # (T, D)
        self.code: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        """Add the codes to tokens (B, T, D)."""
        return tokens + self.code


class RotaryPositions(nn.Module):
    """Rotation of pairs of channels by the token's place (Su et al., arXiv:2104.09864).

    A third of the pairs turns with each coordinate, so that the product of a turned query and a
    turned key depends on the tokens' places only through their difference. The pairs are (i,
    n + i), as in GPT-NeoX, which is the paper's rotation after renaming channels; channels left
    over after three equal shares of pairs are not turned.

    Args:
        centroids: (T, 3) cm; the angles have their dtype.
        head_width: channels d per head, at least 6.
    """

    def __init__(self, centroids: Tensor, head_width: int) -> None:
        super().__init__()
        angle = _angles(centroids, head_width // (2 * AXES), head_width)
        self.pairs = angle.shape[1]
        self.register_buffer("cos", angle.cos().to(centroids), persistent=False)  # (T, pairs)
        self.register_buffer("sin", angle.sin().to(centroids), persistent=False)
        self.cos: Tensor
        self.sin: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Turn queries or keys (B, heads, T, d)."""
        first, second = x[..., : self.pairs], x[..., self.pairs : 2 * self.pairs]
        rest = x[..., 2 * self.pairs :]
        return torch.cat(
            [first * self.cos - second * self.sin, first * self.sin + second * self.cos, rest],
            dim=-1,
        )


class DistanceBias(nn.Module):
    """Attention with linear biases, in space (after Press et al., arXiv:2108.12409).

    The score of two tokens is lowered by slope x distance, with the paper's fixed slopes
    2^(-8 h / heads) for h = 1 ... heads; symmetric, since faces have no order. Mirror images at
    equal distances (us and ds) look alike to it.

    Args:
        centroids: (T, 3) cm; the bias has their dtype. Distances are in units of 40 cm.
        heads: number of heads.
    """

    def __init__(self, centroids: Tensor, heads: int) -> None:
        super().__init__()
        place = centroids.double() / DISTANCE_UNIT
        distance = torch.linalg.vector_norm(place[:, None] - place[None], dim=-1)  # (T, T)
        slope = 2.0 ** (-8.0 * torch.arange(1, heads + 1, dtype=torch.float64) / heads)
        bias = -slope[:, None, None] * distance
        self.register_buffer("bias", bias.to(centroids), persistent=False)  # (heads, T, T)
        self.bias: Tensor

    def forward(self) -> Tensor:
        """The bias (heads, T, T)."""
        return self.bias


def _angles(centroids: Tensor, count: int, width: int) -> Tensor:
    """Phases (T, 3 * count) of the centroids in radians, float64, axis after axis.

    The lengths per radian rise geometrically between LENGTH_MIN and LENGTH_MAX; a single one is
    their geometric mean.

    Raises:
        ValueError: when `width` leaves no pair of channels for an axis.
    """
    if count < 1:
        raise ValueError(f"{width} channels are too few: each of three axes needs two")
    step = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    length = LENGTH_MIN * torch.exp(step * math.log(LENGTH_MAX / LENGTH_MIN))
    return (centroids.double().unsqueeze(-1) / length).flatten(1)
