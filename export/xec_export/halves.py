"""The halves of a network that a repository holds, cut out of its graph without any checkpoint."""

from __future__ import annotations

from pathlib import Path

import onnx
from rich.console import Console

from xec.contract import INPUTS, MODEL_NAME, MODELS, OUTPUTS, outputs_of
from xec.engines.golden import GOLDEN_FILE, Golden, golden_bytes, golden_of
from xec.engines.onnx_bytes import metadata_of
from xec.engines.repository import StoredModel, read_model
from xec.errors import ModelError, UsageError
from xec.io.output import writing
from xec_export.card import Origin, variant_card
from xec_export.parity import TOLERANCE, runtime_of
from xec_export.parity_report import PARITY_FILE, parity_of_json
from xec_export.prune import graph_of
from xec_export.repository import Artefacts, write_model

HALVES = tuple(name for name in MODELS if name != MODEL_NAME)


def run_halves(
    source: Path, version: int | None, repository: Path, models: tuple[str, ...] = HALVES
) -> None:
    """Write models that compute one half of a repository's network, beside it or elsewhere.

    Each must answer the network's golden events before anything is written. Its parity report is
    that of the network, whose answers it gives.

    Args:
        source: repository that holds the whole network.
        version: of it; the highest one by default. The halves get the same number.
        repository: to write to.
        models: which halves.

    Raises:
        UsageError: a name is not that of a half.
        ModelError: the network is missing or altered, has no golden events, or a half differs.
        FileError: the repository cannot be written to.
    """
    unknown = [name for name in models if name not in HALVES]
    if unknown:
        raise UsageError(
            f"{', '.join(unknown)} is not cut out of a network: choose among {', '.join(HALVES)}."
        )
    stored = read_model(source, MODEL_NAME, version)
    made = [_artefacts(stored, name) for name in models]
    console = Console(stderr=True)
    with writing(repository):
        for artefacts in made:
            folder = write_model(repository, stored.folder.name, artefacts)
            console.print(f"{folder}: {len(artefacts.onnx) / 1e6:.1f} MB, cut out of {source}")


def _artefacts(stored: StoredModel, name: str) -> Artefacts:
    half = graph_of(onnx.load_from_string(stored.content), name).SerializeToString()
    golden = _golden(stored, name)
    golden.check(runtime_of(half, name)(dict(golden.inputs)), f"{name}, cut out,", TOLERANCE)
    metadata = metadata_of(stored.content)
    origin = Origin(metadata["preset"], metadata["geometry_hash"], metadata["contract_version"])
    parity = _parity(stored)
    card = variant_card(name, origin, stored.folder.name, half, parity_of_json(parity))
    return Artefacts(name, origin.geometry_hash, half, golden_bytes(golden), parity, card)


def _golden(stored: StoredModel, name: str) -> Golden:
    path = stored.folder / GOLDEN_FILE
    if stored.golden is None:
        raise ModelError(f"There is no {path} to compare with: export the model again.")
    whole = golden_of(stored.golden, path, OUTPUTS, INPUTS)
    return Golden(whole.inputs, {t.name: whole.outputs[t.name] for t in outputs_of(name)})


def _parity(stored: StoredModel) -> bytes:
    """The network's report; that it is its manifest's was looked at before."""
    path = stored.folder / PARITY_FILE
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"There is no {path}: export the model again.") from error
