"""From what one pass accumulated to the content of the report."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xec import __version__
from xec.engines.base import ModelInfo
from xec.metrics.bins import LEAST
from xec.metrics.bootstrap import bootstrap_error
from xec_evaluation import gamma, sensors
from xec_evaluation.collect import SUMS, Collection
from xec_evaluation.content import NETWORK, CostRow, Evaluation, Sampling, WorstRow
from xec_evaluation.modes import Mode
from xec_evaluation.quantities import COMPONENTS
from xec_evaluation.served import gamma_scales
from xec_evaluation.source import Source

FloatArray = NDArray[np.float64]

AGAINST_READINGS: Final = (
    "Errors of filled sensors are taken against the readings, which have noise of their own: no "
    "method can come below it. That noise is estimated from the readings themselves (second "
    "differences of neighbouring sensors) as counting noise; a spread of the gains comes on top."
)


@dataclass(frozen=True, slots=True)
class Run:
    """What was done: mode, what was masked in words, and the seed."""

    mode: Mode
    masking: str
    seed: int


def summarise(found: Collection, source: Source, model: ModelInfo, run: Run) -> Evaluation:
    """The content of the report; figures that too few events allow are left out and named."""
    sample = _gamma_sample(found, model, run.seed)
    about_gamma, notes = _gamma_parts(sample, source)
    filling = found.filling
    pulls = sensors.pull_rows(filling, model)
    if not pulls:
        notes.append(f"Fewer than {LEAST} sensors were masked: their pulls are not quoted.")
    about_gamma["pulls"] = (*pulls, *about_gamma.get("pulls", ()))
    curves = (*sensors.calibrations(filling), *about_gamma.get("calibration", ()))
    about_gamma["calibration"] = curves
    return Evaluation(
        synthetic=source.synthetic,
        mode=run.mode.value,
        masking=run.masking,
        model=_model_words(model),
        data=source.files,
        events_read=found.read,
        events_used=found.used,
        masked_per_event=found.masked / found.used,
        seed=run.seed,
        notes=(*_notes(found, source, run.mode), *notes),
        noise_per_photon={kind: found.noise.per_photon(kind == "MPPC") for kind in ("MPPC", "PMT")},
        sensors_sampled=Sampling(len(filling.sample), filling.sample.seen),
        events_sampled=Sampling(len(found.events), found.events.seen),
        filling=tuple(filling.rows(found.noise, _event_errors(found, run.seed))),
        sensors=sensors.normalised(filling, found.noise),
        worst=tuple(_worst(found, source)),
        cost=tuple(CostRow(name, found.used, s) for name, s in found.clock.seconds.items()),
        software_version=__version__,
        **about_gamma,
    )


def _gamma_sample(found: Collection, model: ModelInfo, seed: int) -> gamma.GammaSample:
    def rows(name: str) -> FloatArray:
        return found.events.columns([f"{name} {component}" for component in COMPONENTS])[known]

    known = np.isfinite(found.events.column("truth energy"))
    estimates = {name: rows(name) for name in found.methods.gamma_names}
    served = gamma_scales(model, estimates[NETWORK])
    return gamma.GammaSample(rows("truth"), rows("sigma"), estimates, served, seed)


def _gamma_parts(sample: gamma.GammaSample, source: Source) -> tuple[dict[str, Any], list[str]]:
    """The parts of the content that need the true gamma, and why some are missing."""
    empty = dict.fromkeys(("resolution", "distances", "bins", "errors"), ())
    if len(sample) < gamma.LEAST_EVENTS:
        if not source.has_truth:
            return {**empty}, []
        reason = (
            f"{len(sample)} events with truth are fewer than the {gamma.LEAST_EVENTS} that a "
            "resolution needs: there are no figures of the gamma."
        )
        return {**empty}, [reason]
    bins, notes = gamma.bin_rows(sample)
    resolution, distances = gamma.resolution_rows(sample)
    return {
        "resolution": tuple(resolution),
        "distances": tuple(distances),
        "bins": tuple(bins),
        "errors": tuple(gamma.error_samples(sample)),
        "pulls": tuple(gamma.pull_rows(sample)),
        "calibration": tuple(gamma.calibrations(sample)),
    }, notes


def _event_errors(found: Collection, seed: int) -> dict[str, FloatArray]:
    """Per method the bootstrap errors of MAE, RMSE and bias: events are resampled, not sensors."""
    return {
        method: np.array(
            [bootstrap_error(statistic, sums, seed=seed) for statistic in (_mae, _rmse, _bias)]
        )
        for method in found.methods.fill_names
        for sums in [found.events.columns([f"{method} {name}" for name in SUMS])]
    }


def _mae(sums: NDArray[np.floating[Any]]) -> float:
    count, absolute, _, _ = sums.sum(axis=0)
    return float(absolute / count) if count else math.nan


def _rmse(sums: NDArray[np.floating[Any]]) -> float:
    count, _, square, _ = sums.sum(axis=0)
    return float(np.sqrt(square / count)) if count else math.nan


def _bias(sums: NDArray[np.floating[Any]]) -> float:
    count, _, _, signed = sums.sum(axis=0)
    return float(signed / count) if count else math.nan


def _model_words(model: ModelInfo) -> dict[str, str]:
    return {
        "name": model.name,
        "version": model.version,
        "sha256": model.sha256,
        "geometry": model.geometry_hash,
        "contract": model.contract_version,
        "interval_scale": json.dumps(dict(model.interval_scale)),
    }


def _notes(found: Collection, source: Source, mode: Mode) -> list[str]:
    """What a reader must know to read the figures rightly."""
    notes = [AGAINST_READINGS]
    if not source.has_truth:
        what = (
            "masked sensors" if mode is Mode.ARTIFICIAL else "dead sensors whose reading is known"
        )
        notes.append(
            f"These files hold no truth: the figures are those of the {what}, against the "
            "readings; there are none of the gamma."
        )
    elif not all(file.truth for file in source.files):
        notes.append("Some files hold no truth: the figures of the gamma leave them out.")
    if found.used < found.read:
        notes.append(
            f"{found.read - found.used} of {found.read} events do not serve this mode and were "
            "left out."
        )
    for sampled, words in ((found.filling.sample, "sensors"), (found.events, "events")):
        if not sampled.exact:
            notes.append(
                f"Quantiles, pulls and resolutions are those of {len(sampled)} {words} drawn "
                f"at random from {sampled.seen}; MAE, RMSE and bias are of all."
            )
    return notes


def _worst(found: Collection, source: Source) -> list[WorstRow]:
    """The masked sensors and the gammas that are farthest off."""
    paths = [file.path for file in source.files]
    rows = []
    for file, run, event, channel, *values in found.filling.worst.rows.tolist():
        where = (paths[int(file)], int(run), int(event), "sensor light", "photons", int(channel))
        rows.append(_worst_row(where, *values))
    for name, (quantity, unit) in {
        "relative_energy": ("energy", "MeV"),
        "distance": ("distance of the position", "cm"),
    }.items():
        for file, run, event, *values in found.worst[name].rows.tolist():
            where = (paths[int(file)], int(run), int(event), quantity, unit, -1)
            rows.append(_worst_row(where, *values))
    return rows


def _worst_row(
    where: tuple[str, int, int, str, str, int], truth: float, estimate: float, sigma: float
) -> WorstRow:
    error = estimate - truth
    return WorstRow(*where, truth, estimate, error, error / sigma)
