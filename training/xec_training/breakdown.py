"""From how much hidden light on the network's filling of a hole is no better than the baseline.

Squares of dead sensors of random size are laid over or beside the light of held-out events. At
the sensors of the hole, the network is compared with the solid-angle method. A filling counts as
broken where it is no better than the conventional one, or wrong by more than three of its sigmas.
The threshold of the hidden light is the one that sorts the events best: with the fewest broken
fillings below it and sound ones above.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from xec.detector.channels import INNER_GRID, N_CHANNELS, N_MPPC
from xec.detector.coordinates import uvw_from_xyz
from xec.detector.geometry import Geometry
from xec.metrics.bins import merged_bins
from xec.metrics.spread import ONE_SIGMA
from xec.models.reconstructor import Reconstructor
from xec.recovery.filling import fill
from xec.recovery.vertex import conventional_vertex
from xec.reliability.dead_light import DeadLight, hidden_share, holes
from xec_training.calibration_sample import Progress, as_arrays, as_events, nobody
from xec_training.data.batch import TrainingBatch
from xec_training.masking import hide
from xec_training.sigma_curves import EDGES

FloatArray = NDArray[np.float64]

LARGEST_HALF: Final = 6  # sensors: squares of 3 x 3 to 13 x 13
LARGEST_OFFSET: Final = 8  # sensors, of a square's centre from the light's, in each direction
LEAST_EVENTS: Final = 25  # in a bin of the share
LEAST_SENSORS: Final = 50  # in a bin of the light
LARGEST_PULL: Final = 3.0
SHARES: Final = (1e-4, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Broken:
    """Errors in holes: of n events with a hole, and of the m sensors in them."""

    share: FloatArray  # (n,) of the predicted light that is hidden
    network: FloatArray  # (n,) photons, RMS error in the hole
    baseline: FloatArray  # (n,) photons, of the solid-angle method
    pull: FloatArray  # (n,) RMS error of the network in its sigmas
    event: NDArray[np.int64]  # (m,) which of the n
    light: FloatArray  # (m,) photons by the solid-angle method
    error: FloatArray  # (m,) photons, its error
    time_error: FloatArray  # (m,) ns, of the conventional time; NaN where it is not known

    @property
    def ratio(self) -> FloatArray:
        """The network's error over the baseline's (n,)."""
        return self.network / np.maximum(self.baseline, 1e-9)

    @property
    def broken(self) -> NDArray[np.bool_]:
        """Whether the network's filling is not to be trusted (n,)."""
        return np.asarray((self.ratio >= 1.0) | (self.pull > LARGEST_PULL))


@dataclass(frozen=True, slots=True)
class ShareRow:
    """A bin of the share of hidden light: medians over its events."""

    low: float
    high: float
    events: int
    ratio: float  # of the network's error to the baseline's
    pull: float
    broken: float  # share of the events


@torch.no_grad()
def measure(
    model: Reconstructor,
    batches: Iterable[TrainingBatch],
    geometry: Geometry,
    seed: int,
    progress: Progress = nobody,
) -> Broken:
    """Lay holes in front of the light of held-out events, and compare the fillings."""
    model.eval()
    rng = np.random.default_rng(seed)
    masks = torch.Generator().manual_seed(seed)
    parts: list[Broken] = []
    for batch in batches:
        on_host = batch.to(torch.device("cpu"))
        dead = on_host.dead | torch.from_numpy(_squares(on_host, geometry, rng))
        masked = hide(replace(on_host, dead=dead), 0.0, 0.0, masks)
        device = batch.npho.device
        outputs = as_arrays(model(*(tensor.to(device) for tensor in masked.inputs)))
        events = as_events(masked)
        filling = fill(events.npho, events.time, events.npho_valid, events.time_valid, geometry)
        first = sum(len(part.share) for part in parts)
        parts.append(_compared(on_host, events.npho_valid, outputs, filling, first))
        progress(len(batch))
    return _joined(parts)


def _squares(
    batch: TrainingBatch, geometry: Geometry, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """A square of inner sensors (B, 4760) over or beside each event's light."""
    npho, valid = batch.npho.numpy(), (batch.npho_valid & ~batch.dead).numpy()
    centre = uvw_from_xyz(conventional_vertex(npho, valid, geometry))[:, :2]
    places = uvw_from_xyz(geometry.position[:N_MPPC])[:, :2]
    found = np.zeros((len(batch), N_CHANNELS), dtype=np.bool_)
    for row, place in enumerate(centre):
        half = int(rng.integers(1, LARGEST_HALF + 1))
        down, right = rng.integers(-LARGEST_OFFSET, LARGEST_OFFSET + 1, size=2).tolist()
        if np.isfinite(place).all():
            nearest = int(((places - place) ** 2).sum(axis=1).argmin())
            r, c = divmod(nearest, INNER_GRID.shape[1])
            rows, columns = _around(r + down, half), _around(c + right, half)
            found[row, INNER_GRID[rows, columns].ravel()] = True
    return found


def _around(place: int, half: int) -> slice:
    return slice(max(place - half, 0), max(place + half + 1, 0))


def _compared(
    batch: TrainingBatch,
    valid: NDArray[np.bool_],
    outputs: dict[str, NDArray[np.float32]],
    filling: tuple[FloatArray, FloatArray],
    first: int,
) -> Broken:
    reading, known = batch.npho.numpy().astype(np.float64), batch.npho_valid.numpy()
    time = np.where(batch.time_valid.numpy(), batch.time.numpy(), np.nan)
    rows: list[tuple[float, float, float, float]] = []
    sensors: list[FloatArray] = []
    for row in range(len(batch)):
        where = np.flatnonzero(holes(valid[row]) & known[row] & np.isfinite(filling[0][row]))
        if len(where) == 0:
            continue
        ours = reading[row, where] - outputs["npho_mean"][row, where]
        theirs = reading[row, where] - filling[0][row, where]
        off = ours / outputs["npho_sigma"][row, where]
        hidden = hidden_share(valid[row], outputs["npho_mean"][row])
        rows.append((hidden, _rms(ours), _rms(theirs), _rms(off)))
        late = time[row, where] - filling[1][row, where]
        number = np.full(len(where), first + len(rows) - 1)
        sensors.append(np.stack([number, filling[0][row, where], theirs, late]))
    share, network, baseline, pull = np.array(rows).reshape(-1, 4).T
    event, light, error, late = np.concatenate([np.empty((4, 0)), *sensors], axis=1)
    return Broken(share, network, baseline, pull, event.astype(np.int64), light, error, late)


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(values * values)))


def _joined(parts: list[Broken]) -> Broken:
    if not parts:
        none = np.empty(0)
        return Broken(none, none, none, none, none.astype(np.int64), none, none, none)
    return Broken(
        *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Broken))
    )


def share_rows(found: Broken) -> list[ShareRow]:
    """The comparison in bins of the share of hidden light."""
    return [
        ShareRow(
            b.low,
            b.high,
            len(b.rows),
            float(np.median(found.ratio[b.rows])),
            float(np.median(found.pull[b.rows])),
            float(found.broken[b.rows].mean()),
        )
        for b in merged_bins(found.share, SHARES, LEAST_EVENTS)
    ]


def threshold_of(share: FloatArray, broken: NDArray[np.bool_]) -> float | None:
    """The share that parts sound from broken with the fewest mistakes; None for none.

    Args:
        share: (n,) of each event.
        broken: (n,) whether its filling is.
    """
    order = np.argsort(share, kind="stable")
    after = np.cumsum(broken[order])  # broken ones not above the k-th share
    sound = np.cumsum(~broken[order])
    mistakes = np.concatenate([[sound[-1:].sum()], after + sound[-1:] - sound])
    below = int(mistakes.argmin())  # so many events are trusted
    if below == len(share):
        return None
    return float(max(share[order][max(below - 1, 0)], np.finfo(np.float32).tiny))


def fit_dead_light(found: Broken) -> DeadLight | None:
    """Threshold and errors of the baseline beyond it; None where nothing forbids the network."""
    if len(found.share) < LEAST_EVENTS:
        return None
    threshold = threshold_of(found.share, found.broken)
    if threshold is None:
        return None
    beyond = found.share[found.event] > threshold
    light, error = found.light[beyond], np.abs(found.error[beyond])
    bins = merged_bins(light, EDGES["light"], LEAST_SENSORS)
    late = np.abs(found.time_error[beyond])
    late = late[np.isfinite(late)]
    if not bins or len(late) < LEAST_SENSORS:
        return None
    return DeadLight(
        threshold=threshold,
        light=np.array([float(np.median(light[b.rows])) for b in bins]),
        sigma=np.array([float(np.quantile(error[b.rows], ONE_SIGMA)) for b in bins]),
        time_sigma=float(np.quantile(late, ONE_SIGMA)),
    )
