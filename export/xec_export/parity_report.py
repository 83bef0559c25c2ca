"""The parity report: every engine against PyTorch in every case, for a file and a card."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xec.contract import MODEL_NAME, Tensor, outputs_of
from xec.errors import ModelError
from xec_export.parity import TOLERANCE, relative_difference
from xec_export.parity_cases import SHUFFLED, Arrays, Infer, order, parity_cases

PARITY_FILE: Final = "parity.json"
REFERENCE: Final = "PyTorch"


@dataclass(frozen=True, slots=True)
class Parity:
    """The worst output of one engine in one case, relative to its size."""

    engine: str
    case: str
    events: int
    output: str
    relative: float


def parity_report(
    reference: Infer, engines: Mapping[str, Infer], fresh: Arrays, name: str = MODEL_NAME
) -> list[Parity]:
    """Compare engines with the network in PyTorch.

    Besides, the reference itself must not care for what stands where nothing is valid, nor for
    the events beside one: it is compared with its own answers to the unmarked, unshuffled events.

    Args:
        reference: the network.
        engines: what is compared, by name; anything that answers the contract's tensors.
        fresh: arrays of the contract for at least 64 events that no training has seen.
        name: of the model, which decides on the outputs.
    """
    outputs = outputs_of(name)
    cases = parity_cases(fresh)
    expected = {case: reference(inputs) for case, inputs in cases.items()}
    plain = expected["batch 7"]
    same = {
        "markers where invalid": plain,
        SHUFFLED: {t.name: plain[t.name][order(7)] for t in outputs},
    }
    found = [
        _worst(REFERENCE, case, expected[case], answers, outputs) for case, answers in same.items()
    ]
    for engine, infer in engines.items():
        for case, inputs in cases.items():
            found.append(_worst(engine, case, infer(inputs), expected[case], outputs))
    return found


def _worst(
    engine: str,
    case: str,
    answers: Mapping[str, NDArray[np.generic]],
    expected: Mapping[str, NDArray[np.generic]],
    outputs: Iterable[Tensor],
) -> Parity:
    sizes = {
        t.name: relative_difference(
            np.asarray(answers[t.name], dtype=np.float32),
            np.asarray(expected[t.name], dtype=np.float32),
        )
        for t in outputs
    }
    worst = max(sizes, key=lambda name: sizes[name])
    return Parity(engine, case, len(answers[worst]), worst, sizes[worst])


def require_agreement(rows: Iterable[Parity], tolerance: float = TOLERANCE) -> Parity:
    """The worst row; `ModelError` names it when it is beyond `tolerance`."""
    worst = max(rows, key=lambda row: row.relative)
    if not worst.relative <= tolerance:
        raise ModelError(
            f"{worst.engine} differs from PyTorch: {worst.output} by {worst.relative:.1e} "
            f"(relative), case {worst.case!r}, allowed {tolerance:.0e}. Nothing was written."
        )
    return worst


def parity_as_dict(rows: Iterable[Parity], tolerance: float = TOLERANCE) -> dict[str, Any]:
    """The report as JSON-serialisable values."""
    return {
        "synthetic": True,
        "measure": "largest |a - b| / (|b| + rms of b) over all events and outputs",
        "tolerance": tolerance,
        "rows": [asdict(row) for row in rows],
    }


def parity_of_json(content: bytes) -> list[Parity]:
    """The rows of a report that was written.

    Raises:
        ModelError: it is not such a report.
    """
    try:
        return [Parity(**row) for row in json.loads(content)["rows"]]
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{PARITY_FILE} is no parity report: export the model again.") from error
