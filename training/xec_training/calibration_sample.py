"""What a network says of held-out events, beside the truth: the raw material of a calibration."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xec.contract import ESTIMATES, GAMMA_ESTIMATES, SENSOR_ESTIMATES, Estimate
from xec.detector.channels import N_MPPC
from xec.detector.geometry import Geometry
from xec.event import EventBatch
from xec.models.reconstructor import Reconstructor
from xec.reliability.domain import FEATURES, features_of
from xec_training.data.batch import TrainingBatch
from xec_training.masking import Masked, hide

FloatArray = NDArray[np.float64]
Progress = Callable[[int], None]
"""Told how many events more are done."""


def nobody(count: int) -> None:
    """Nobody watches."""
    del count


COMPONENTS: Final = ("energy", "gamma_time", "u", "v", "w", "theta", "phi")
"""Columns of the gamma's arrays: the components of the gamma estimates in order."""

COLUMNS: Final = {"energy": slice(0, 1), "gamma_time": slice(1, 2), "uvw": slice(2, 5)} | {
    "angle": slice(5, 7)
}

NAMES: Final = tuple(e.name for e in ESTIMATES)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Errors and sigmas of n gammas with truth and of m hidden sensors; n may be none.

    Errors are truth (or reading) minus prediction; NaN where the reading is not known.
    """

    error: FloatArray  # (n, 7), see COMPONENTS
    sigma: FloatArray  # (n, 7)
    uvw: FloatArray  # (n, 3) cm, predicted
    event: NDArray[np.int64]  # (m,) the event of each hidden sensor
    is_mppc: NDArray[np.bool_]  # (m,)
    light: FloatArray  # (m,) photons, predicted
    sensor_error: FloatArray  # (m, 2) npho and time
    sensor_sigma: FloatArray  # (m, 2)
    features: FloatArray  # (events, features) of all events

    @property
    def pull(self) -> FloatArray:
        """Errors of the gamma over their sigmas (n, 7)."""
        return self.error / self.sigma

    @property
    def sensor_pull(self) -> FloatArray:
        """Errors of the sensors over their sigmas (m, 2); NaN where the reading is not known."""
        return self.sensor_error / self.sensor_sigma


@torch.no_grad()
def collect(
    model: Reconstructor,
    batches: Iterable[TrainingBatch],
    names: Collection[str],
    seed: int,
    geometry: Geometry,
    progress: Progress = nobody,
) -> Sample:
    """Run the network over held-out events.

    Args:
        model: in any mode; it is put into evaluation mode.
        batches: held-out events.
        names: the estimates that it has learned, such as `npho` or `energy`.
        seed: of the masks.
        geometry: of the training.
        progress: told of the events that are done.
    """
    model.eval()
    parts: list[Sample] = []
    first = 0
    rng: torch.Generator | None = None
    for batch in batches:
        rng = rng or torch.Generator(batch.npho.device).manual_seed(seed)
        masked = hide(batch, 0.0, 0.0, rng)
        outputs = model(*masked.inputs)
        parts.append(_sample(outputs, batch, masked, names, first, geometry))
        first += len(batch)
        progress(len(batch))
    return _joined(parts)


def _sample(
    outputs: dict[str, Tensor],
    batch: TrainingBatch,
    masked: Masked,
    names: Collection[str],
    first: int,
    geometry: Geometry,
) -> Sample:
    has_gamma = set(names) >= set(COLUMNS)
    known = batch.has_truth if has_gamma else torch.zeros_like(batch.has_truth)
    hidden = masked.hidden
    event, channel = hidden.nonzero(as_tuple=True)
    readings = {"npho": batch.npho, "time": batch.time.masked_fill(~batch.time_valid, torch.nan)}
    errors = [
        (readings[e.name] - outputs[e.mean_name])[hidden] if e.name in names else _nan(event)
        for e in SENSOR_ESTIMATES
    ]
    return Sample(
        error=_numpy(torch.cat([_error(e, outputs, batch) for e in GAMMA_ESTIMATES], 1)[known]),
        sigma=_numpy(torch.cat([outputs[e.sigma_name] for e in GAMMA_ESTIMATES], 1)[known]),
        uvw=_numpy(outputs["uvw"][known]),
        event=event.cpu().numpy() + first,
        is_mppc=(channel < N_MPPC).cpu().numpy(),
        light=_numpy(outputs["npho_mean"][hidden]),
        sensor_error=_numpy(torch.stack(errors, dim=1)),
        sensor_sigma=_numpy(
            torch.stack([outputs[e.sigma_name][hidden] for e in SENSOR_ESTIMATES], dim=1)
        ),
        features=_features(outputs, masked, geometry) if has_gamma else _no_features(),
    )


def _error(estimate: Estimate, outputs: dict[str, Tensor], batch: TrainingBatch) -> Tensor:
    mean = outputs[estimate.mean_name]
    truth: Tensor = getattr(batch, estimate.name)
    return truth.reshape(mean.shape) - mean


def _nan(like: Tensor) -> Tensor:
    return torch.full(like.shape, torch.nan, device=like.device)


def _numpy(values: Tensor) -> FloatArray:
    return np.asarray(values.cpu().numpy(), dtype=np.float64)


def _no_features() -> FloatArray:
    return np.empty((0, len(FEATURES)))


def as_events(masked: Masked) -> EventBatch:
    """What the network saw, as the events that a server would see."""
    B = len(masked.npho)
    return EventBatch(
        run=np.zeros(B, dtype=np.int64),
        event=np.arange(B),
        npho=masked.npho.cpu().numpy(),
        time=masked.time.cpu().numpy(),
        npho_valid=masked.npho_valid.cpu().numpy(),
        time_valid=masked.time_valid.cpu().numpy(),
    )


def as_arrays(outputs: dict[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    """A network's outputs, as an engine would give them."""
    return {name: value.cpu().numpy() for name, value in outputs.items()}


def _features(outputs: dict[str, Tensor], masked: Masked, geometry: Geometry) -> FloatArray:
    arrays = as_arrays(outputs)
    return np.stack(
        [features_of(e, arrays, row, geometry) for row, e in enumerate(as_events(masked))]
    )


def _joined(parts: list[Sample]) -> Sample:
    if not parts:
        two, seven = np.empty((0, 2)), np.empty((0, 7))
        none = np.empty(0)
        sensors = none.astype(np.int64), none.astype(np.bool_)
        return Sample(seven, seven, np.empty((0, 3)), *sensors, none, two, two, _no_features())
    return Sample(
        *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Sample))
    )
