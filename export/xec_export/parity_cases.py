"""What every engine has to agree on: batch sizes, and events at the edge of what can happen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xec.contract import INPUTS
from xec.detector.channels import FACE_IDS, Face

Arrays = Mapping[str, NDArray[np.generic]]

BATCHES: Final = (1, 7, 64)
MARKERS: Final = (1e10, float("nan"), -999.0)
SHUFFLED: Final = "shuffled batch-mates"


def parity_cases(fresh: Arrays) -> dict[str, dict[str, NDArray[np.generic]]]:
    """Inputs of each case by its name.

    Args:
        fresh: arrays of the contract for at least `max(BATCHES)` fresh events with dead sensors.
    """
    few = _rows(fresh, 7)
    return {
        **{f"batch {size}": _rows(fresh, size) for size in BATCHES},
        "an all-dead face": _with_dead_faces(few),
        "no dead sensor": _without_dead(few),
        "no light": _dark(few),
        "markers where invalid": with_markers(few),
        SHUFFLED: {name: values[order(len(values))] for name, values in few.items()},
    }


def order(count: int) -> NDArray[np.int64]:
    """The places that the events of the shuffled case come from."""
    return np.random.default_rng(1).permutation(count)


def _rows(inputs: Arrays, count: int) -> dict[str, NDArray[np.generic]]:
    return {t.name: inputs[t.name][:count].copy() for t in INPUTS}


def _with_dead_faces(inputs: Arrays) -> dict[str, NDArray[np.generic]]:
    """Each face dead in one event; the last event with everything dead."""
    found = _rows(inputs, len(Face) + 1)
    for event, face in enumerate(Face):
        for name in ("npho_valid", "time_valid"):
            found[name][event, FACE_IDS[face]] = 0
    for name in ("npho_valid", "time_valid"):
        found[name][len(Face)] = 0
    return found


def _without_dead(inputs: Arrays) -> dict[str, NDArray[np.generic]]:
    found = _rows(inputs, len(inputs["npho"]))
    found["npho_valid"][:] = 1
    return found


def _dark(inputs: Arrays) -> dict[str, NDArray[np.generic]]:
    """One live sensor without light, and all of them."""
    found = _rows(inputs, 2)
    for values in found.values():
        values[:] = 0
    found["npho_valid"][0, 0] = 1
    found["npho_valid"][1] = 1
    return found


def with_markers(inputs: Arrays) -> dict[str, NDArray[np.generic]]:
    """The same events with markers of files where nothing is valid; answers must not change."""
    found = {name: values.copy() for name, values in inputs.items()}
    for name in ("npho", "time"):
        invalid = found[f"{name}_valid"] == 0
        found[name][invalid] = np.resize(np.array(MARKERS, np.float32), int(invalid.sum()))
    return found


Infer = Callable[[Arrays], Mapping[str, NDArray[np.generic]]]
"""From arrays of the contract's inputs to arrays of a model's outputs."""
