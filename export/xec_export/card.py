"""The model card: where a model comes from and what it does, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from xec.contract import MODEL_NAME, SENSOR_ESTIMATES, outputs_of
from xec.lineage import sha256_of_bytes
from xec.models.checkpoint import Checkpoint
from xec_export.parity_report import REFERENCE, Parity
from xec_export.performance import BRIGHT, Performance


@dataclass(frozen=True, slots=True)
class Origin:
    """What a card says of where a graph comes from, besides its bytes."""

    preset: str
    geometry_hash: str
    contract_version: str

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        """That of an exported checkpoint."""
        return cls(checkpoint.preset, checkpoint.geometry_hash, checkpoint.contract_version)


def model_card(
    checkpoint: Checkpoint,
    version: str,
    onnx_bytes: bytes,
    parity: Sequence[Parity],
    performance: Performance,
) -> str:
    """The card of one exported version."""
    training = checkpoint.training
    parts = [
        f"# Model `{MODEL_NAME}`, version {version}\n",
        (
            "Fills dead sensors of the liquid-xenon detector and measures the gamma, each with an "
            "uncertainty.\n**Trained and judged on simulated events only: every figure below is "
            "synthetic.**\n"
        ),
        _identity(Origin.of(checkpoint), onnx_bytes),
        "## Training\n",
        f"`{training_command(checkpoint)}`\n",
        (
            f"{training.get('events', 0):,} simulated events, {training.get('steps', 0):,} steps, "
            f"{training.get('seconds', 0) / 60:.0f} minutes on {training.get('device', '?')}. "
            f"Sigmas scaled on {training.get('calibration_events', 0):,} further events.\n"
        ),
        performance_sections(performance),
        _parity_section(parity),
        "## Settings\n",
        "As JSON, which is also valid YAML for `--config`.\n",
        f"```json\n{json.dumps(training.get('settings', {}), indent=2)}\n```",
    ]
    return "\n".join(parts) + "\n"


def variant_card(
    name: str, origin: Origin, version: str, onnx_bytes: bytes, parity: Sequence[Parity]
) -> str:
    """The card of a model that is one half of the network."""
    half = "the dead sensors" if SENSOR_ESTIMATES[0].mean_name in _names(name) else "the gamma"
    parts = [
        f"# Model `{name}`, version {version}\n",
        (
            f"The outputs of `{MODEL_NAME}` that concern {half}, from a graph of their own that "
            f"computes nothing else: {', '.join(f'`{n}`' for n in _names(name))}. Same weights, "
            f"same inputs, same answers. How good they are stands on the card of `{MODEL_NAME}`.\n"
            "**Trained and judged on simulated events only.**\n"
        ),
        _identity(origin, onnx_bytes),
        _parity_section(parity),
    ]
    return "\n".join(parts) + "\n"


def _names(model: str) -> list[str]:
    return [tensor.name for tensor in outputs_of(model)]


def _identity(origin: Origin, onnx_bytes: bytes) -> str:
    rows = [
        ("preset", f"`{origin.preset}`"),
        ("size", f"{len(onnx_bytes) / 1e6:.2f} MB (ONNX, float32)"),
        ("sha256", f"`{sha256_of_bytes(onnx_bytes)}`"),
        ("geometry", f"`{origin.geometry_hash}`"),
        ("contract", origin.contract_version),
    ]
    return "\n".join(["## Identity\n", _table(("", ""), rows)])


def _parity_section(parity: Sequence[Parity]) -> str:
    """One row for each case, one column for each engine; the worst output of each."""
    engines = [e for e in dict.fromkeys(row.engine for row in parity) if e != REFERENCE]
    found = {(row.engine, row.case): row for row in parity}
    cases = list(dict.fromkeys(row.case for row in parity if row.engine != REFERENCE))
    rows = []
    for case in cases:
        cells = [f"{found[e, case].relative:.0e} ({found[e, case].output})" for e in engines]
        rows.append((case, *cells))
    text = (
        "Largest difference to the trained network in PyTorch, relative to the size of each "
        "output, on fresh simulated events. PyTorch itself answers the same whatever stands in "
        f"invalid places and beside an event, to {_own(parity):.0e}.\n"
    )
    return "\n".join(["## Agreement of the engines\n", text, _table(("case", *engines), rows)])


def _own(parity: Sequence[Parity]) -> float:
    return max((row.relative for row in parity if row.engine == REFERENCE), default=0.0)


def training_command(checkpoint: Checkpoint) -> str:
    """The command that repeats the training, with the card's settings in a file."""
    init = checkpoint.training.get("init")
    start = f" --init {init}" if init else ""
    return (
        f"xec train {checkpoint.stage} --config settings.yaml{start} --out runs/{checkpoint.preset}"
    )


def performance_sections(performance: Performance) -> str:
    """The metrics as two sections of Markdown."""
    return "\n".join([*_filling_section(performance), *_resolution_section(performance)])


def _filling_section(performance: Performance) -> list[str]:
    rows = [
        (
            f.method,
            f"{f.mae:.2f}",
            f"{f.rmse:.2f}",
            f"{f.bias:+.2f}",
            f"{f.within68:.2f}",
            f"{f.within95:.2f}",
            f"{100 * f.relative:.1f} %",
            f"{f.rmse / performance.noise_rmse:.2f}",
            str(f.missing),
        )
        for f in performance.filling
    ]
    bright = f"relative (≥ {BRIGHT:.0f} photons)"
    head = ("method", "MAE", "RMSE", "bias", "68 %", "95 %", bright, "RMSE / noise", "not filled")
    return [
        "## Dead sensors\n",
        (
            f"{performance.events:,} fresh signal events (52.8 MeV), {performance.dead:,} dead "
            "sensors, single and clustered. Errors against the expected light, in photons; a "
            f"reading's own noise is {performance.noise_rmse:.2f} photons RMS. Pull of the true "
            f"reading, half of its central 68 %: {performance.reading_pull68:.2f}.\n"
        ),
        _table(head, rows),
    ]


def _resolution_section(performance: Performance) -> list[str]:
    rows = [
        (
            r.name,
            f"{r.sigma68:.3g} {r.unit}",
            f"{r.bias:+.2g} {r.unit}",
            f"{r.pull68:.2f}",
            f"{100 * r.coverage:.1f} %",
        )
        for r in performance.resolution
    ]
    head = ("quantity", "half of the central 68 %", "median bias", "pull", "within one sigma")
    return ["## The gamma\n", "On the same events.\n", _table(head, rows)]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
