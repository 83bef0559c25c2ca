"""The light of a point on MPPCs and how it changes with the point: exact, for fits.

The solid angle of a chip is a signed sum over its corners of F = atan(a b / (h r)), with a, b
the corner's distances along the chip's edges, h the height and r^2 = a^2 + b^2 + h^2
(`xec.detector.solid_angle`). Its derivatives are closed, too:

    dF/da = h b / ((a^2 + h^2) r),    dF/dh = -a b (r^2 + h^2) / ((a^2 + h^2) (b^2 + h^2) r).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xec.detector.channels import N_MPPC
from xec.detector.coordinates import REFF
from xec.detector.geometry import Geometry
from xec.detector.solid_angle import CHIP, CHIP_GAP

Floats = NDArray[np.float64]

_EDGES: Final = np.array([-CHIP_GAP / 2 - CHIP, -CHIP_GAP / 2, CHIP_GAP / 2, CHIP_GAP / 2 + CHIP])[
    :, None
]
_SIGNS: Final = np.outer([-1.0, 1.0, -1.0, 1.0], [-1.0, 1.0, -1.0, 1.0]).ravel()


@dataclass(frozen=True, slots=True, eq=False)
class MppcFrames:
    """Sensors as planes: their axes (along z, across, normal), and their centres in those axes."""

    axes: Floats  # (3, n, 3) unit vectors
    origin: Floats  # (3, n) cm

    @classmethod
    def of(cls, geometry: Geometry) -> MppcFrames:
        """The frames of all 4092 MPPCs."""
        normal = geometry.normal[:N_MPPC]
        along = np.array([0.0, 0.0, 1.0]) - normal[:, 2:] * normal
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        axes = np.stack([along, np.cross(normal, along), normal])
        return cls(axes, (axes * geometry.position[:N_MPPC]).sum(axis=-1))

    def take(self, ids: NDArray[np.integer]) -> MppcFrames:
        """The frames of some of them."""
        return MppcFrames(self.axes[:, ids], self.origin[:, ids])

    def fractions(self, uvw: Floats) -> tuple[Floats, Floats]:
        """Solid angle / 4 pi (n,) from a point u, v, w (3,) in cm, and its gradient (3, n) in it.

        A sensor that the point is behind of sees nothing, and its gradient is 0.
        """
        place, tangents = _place(uvw)
        x, y, height = (self.axes * place).sum(axis=-1) - self.origin
        omega, slopes = _solid_angle(x, y, height)
        # The change of the local coordinates with u, v, w: (3 axes, n, 3 tangents).
        turned = self.axes @ tangents
        gradient = (slopes[:, :, None] * turned).sum(axis=0).T
        return omega / (4 * np.pi), gradient / (4 * np.pi)


def _place(uvw: Floats) -> tuple[Floats, Floats]:
    """x, y, z (3,) of a point u, v, w and its derivatives (3, 3), one column for each of them."""
    u, v, w = uvw
    cosine, sine = np.cos(v / REFF), np.sin(v / REFF)
    stretch = 1 + w / REFF
    place = np.array([-(w + REFF) * cosine, (w + REFF) * sine, u])
    tangents = np.array(
        [[0.0, stretch * sine, -cosine], [0.0, stretch * cosine, sine], [1.0, 0.0, 0.0]]
    )
    return place, tangents


def _solid_angle(x: Floats, y: Floats, height: Floats) -> tuple[Floats, Floats]:
    """Solid angle (n,), sr, of MPPCs and its derivatives (3, n) in x, y and height."""
    front = height > 0
    h = np.where(front, height, 1.0)
    a, b = (x + _EDGES)[:, None], (y + _EDGES)[None, :]
    square = h * h
    across, along = a * a + square, b * b + square
    radius = np.sqrt(across + b * b)
    product = a * b
    signs = _SIGNS * 1.0

    def total(corners: Floats) -> Floats:
        return np.asarray(signs @ corners.reshape(16, -1))

    omega = total(np.arctan(product / (h * radius)))
    by_a, by_b = b / (across * radius), a / (along * radius)
    by_height = product * (radius * radius + square) / (across * along * radius)
    slopes = np.stack([h * total(by_a), h * total(by_b), -total(by_height)])
    return np.where(front, omega, 0.0), np.where(front, slopes, 0.0)
