"""Fits the constants of the conventional estimators on simulated (synthetic) events.

Run: python benchmarks/conventional_constants.py [--events 20000] [--seed 910001] [--out FILE]

Energies are flat, wider than the spectrum that is judged, with a dead map per event as in the
training of the networks; only the parametric detector is simulated. Without --out the file that
the package ships is written. The seed is used nowhere else.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from xec.detector.geometry import Geometry, parametric
from xec.recovery import gamma_time
from xec.recovery.constants import GammaConstants, PositionConstants
from xec.recovery.energy import conventional_energy, face_light, fit_energy_weights
from xec.recovery.gamma_time import TimeHits, fit_time_constants, time_hits
from xec.recovery.light_centre import light_centre, mean_centre
from xec.recovery.local_fit import local_fit
from xec.recovery.position import fit_position_correction, position_window
from xec.simulation.generator import Generator, SimulatedBatch
from xec_export.events import contract_inputs
from xec_training.data.simulated import TRAINING_ENERGY, training_simulation

SHIPPED = Path(gamma_time.__file__).with_name("constants.json")
BATCH = 100

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What the fits need of B events."""

    wide: Floats  # (B, 3) centres of the light by each method
    near: Floats
    mean: Floats
    light: Floats  # (B, 6)
    energy: Floats  # truth
    uvw: Floats
    gamma_time: Floats


def seen(batch: SimulatedBatch, geometry: Geometry) -> tuple[Seen, TimeHits]:
    """Light, its centres and the times of one batch."""
    inputs = contract_inputs(batch)
    npho, time = (np.asarray(inputs[name], dtype=np.float32) for name in ("npho", "time"))
    valid, timed = (inputs[name].astype(np.bool_) for name in ("npho_valid", "time_valid"))
    wide = light_centre(npho, valid, geometry).uvw
    found = Seen(
        wide,
        local_fit(npho, valid, geometry, position_window(wide[:, 2])).uvw,
        mean_centre(npho, valid, geometry),
        face_light(npho, valid, wide, geometry),
        *(getattr(batch, name).double().numpy() for name in ("energy", "uvw", "gamma_time")),
    )
    return found, time_hits(npho, time, valid, timed, wide, geometry)


def joined(parts: list[tuple[Seen, TimeHits]]) -> tuple[Seen, TimeHits]:
    """All batches as one."""
    events, hits = zip(*parts, strict=True)

    def columns(records: tuple[Seen | TimeHits, ...]) -> Iterator[NDArray[np.generic]]:
        for field in fields(records[0]):
            yield np.concatenate([getattr(record, field.name) for record in records])

    first = np.cumsum([0, *(len(part.energy) for part in events)])[:-1]
    _, *rest = columns(hits)
    row = np.concatenate([part.event + start for part, start in zip(hits, first, strict=True)])
    return Seen(*columns(events)), TimeHits(row, *rest)


def fitted(events: Seen, hits: TimeHits) -> GammaConstants:
    """Constants; those of position and time are fitted with the conventional energy."""
    weights = fit_energy_weights(events.light, events.wide, events.energy)
    energy = conventional_energy(events.light, events.wide, weights)
    position = PositionConstants(
        fit=fit_position_correction(events.near, energy, events.uvw),
        mean=fit_position_correction(events.mean, energy, events.uvw),
    )
    time = fit_time_constants(hits, events.wide, energy, events.gamma_time)
    return GammaConstants(position, weights, time)


def main() -> None:
    """Simulate, fit, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=910_001)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    geometry = parametric()
    source = Generator(training_simulation(), geometry, "cpu", arguments.seed)
    steps = range(0, arguments.events, BATCH)
    parts = [
        seen(source.sample(min(BATCH, arguments.events - start)), geometry)
        for start in track(steps, description="simulating", console=Console(stderr=True))
    ]
    report = {
        "about": "constants of the conventional estimators, fitted on synthetic events",
        "command": f"python benchmarks/conventional_constants.py --events {arguments.events} "
        f"--seed {arguments.seed}",
        "energy": TRAINING_ENERGY,
        "geometry": geometry.hash,
        "constants": fitted(*joined(parts)).as_dict(),
    }
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {arguments.out.name}")


if __name__ == "__main__":
    main()
