"""Pulls, coverage and normalised residuals of the filled sensors, from a sample of them."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from xec.engines.base import ModelInfo
from xec.metrics.bins import LEAST
from xec.metrics.noise import CountingNoise
from xec.metrics.sums import BRIGHT
from xec_evaluation.content import Calibration, PullRow, SensorSample
from xec_evaluation.filling import FACES, GROUPINGS, LIGHT_EDGES, Filling
from xec_evaluation.gamma import calibration, histogram_bins, pull_row
from xec_evaluation.served import sensor_scales

FloatArray = NDArray[np.float64]

QUANTILES: Final = (0.025, 0.16, 0.5, 0.84, 0.975)
PULL: Final = "sensor light"

_LABELS: Final = {"light": "{} photons predicted", "dead neighbours": "{} dead neighbours"}

_REACH: Final = 6.0  # noise sigmas, of the histograms


def _network(filling: Filling) -> tuple[FloatArray, FloatArray]:
    """Error and sigma of the network at the sampled sensors."""
    sample = filling.sample
    return sample.column(filling.methods[0]) - sample.column("truth"), sample.column("sigma")


def pull_rows(filling: Filling, model: ModelInfo) -> list[PullRow]:
    """One row for all masked sensors, each face and each range of light that holds enough.

    Args:
        filling: all methods' answers.
        model: whose intervals are served.
    """
    error, sigma = _network(filling)
    inner = filling.sample.column("face") == FACES.index("inner")
    first, second = sensor_scales(model, filling.sample.column(filling.methods[0]), inner)
    rows = []
    for name, groups in GROUPINGS.items():
        place = _predicted_light(filling) if name == "light" else filling.sample.column(name)
        for number, group in enumerate(groups):
            chosen = place == number
            if chosen.sum() >= LEAST:
                label = _LABELS.get(name, "{}").format(group)
                rows.append(
                    pull_row(
                        PULL,
                        label,
                        "photons",
                        error=error[chosen],
                        sigma=sigma[chosen],
                        served=(first[chosen], second[chosen]),
                    )
                )
    return rows


def _predicted_light(filling: Filling) -> NDArray[np.int64]:
    """Place of each sampled sensor among the ranges of light, by the network's prediction.

    Not by the reading: its noise would sort upward fluctuations to the bright side, and pulls
    that are right on the whole would look biased in every range.
    """
    light = filling.sample.column(filling.methods[0])
    return np.searchsorted(LIGHT_EDGES, light, side="right")


def calibrations(filling: Filling) -> list[Calibration]:
    """Expected and observed coverage of the sensors' sigmas; nothing for too few sensors."""
    error, sigma = _network(filling)
    return [calibration(PULL, error / sigma)] if len(error) >= LEAST else []


def normalised(filling: Filling, noise: CountingNoise) -> SensorSample | None:
    """Residuals in units of the readings' own noise, per method and face.

    Of sensors with at least 100 photons: in a dim one the reading does not tell the light, nor so
    the noise.

    Returns:
        None where the noise of a kind of sensor is unknown, or the sensors are too few.
    """
    sample = filling.sample
    bright = sample.column("truth") >= BRIGHT
    if bright.sum() < LEAST:
        return None
    face, truth = sample.column("face")[bright], sample.column("truth")[bright]
    inner = face == FACES.index("inner")
    per_photon = np.where(inner, noise.per_photon(True), noise.per_photon(False))
    spread = np.sqrt(per_photon * truth)
    if not np.isfinite(spread).all():
        return None
    edges = np.linspace(-_REACH, _REACH, histogram_bins(len(truth)) + 1)
    shares, faces = {}, {}
    for method in filling.methods:
        residual = (sample.column(method)[bright] - truth) / spread
        known = np.isfinite(residual)
        counts, _ = np.histogram(residual[known], edges)
        shares[method] = tuple((counts / max(int(known.sum()), 1)).tolist())
        faces[method] = {
            name: tuple(np.quantile(chosen, QUANTILES).tolist())
            for number, name in enumerate(FACES)
            if len(chosen := residual[known & (face == number)]) >= LEAST
        }
    return SensorSample(tuple(edges.tolist()), shares, faces)
