"""The model card: where a model comes from and what it does, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable

from xec.contract import MODEL_NAME
from xec.lineage import sha256_of_bytes
from xec.models.checkpoint import Checkpoint
from xec_export.parity import Difference
from xec_export.performance import BRIGHT, Performance


def model_card(
    checkpoint: Checkpoint,
    version: str,
    onnx_bytes: bytes,
    parity: Difference,
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
        "## Identity\n",
        _table(
            ("", ""),
            [
                ("preset", f"`{checkpoint.preset}`"),
                ("size", f"{len(onnx_bytes) / 1e6:.2f} MB (ONNX, float32)"),
                ("sha256", f"`{sha256_of_bytes(onnx_bytes)}`"),
                ("geometry", f"`{checkpoint.geometry_hash}`"),
                ("contract", checkpoint.contract_version),
                ("difference to PyTorch", f"{parity.relative:.1e} relative ({parity.output})"),
            ],
        ),
        "## Training\n",
        f"`{training_command(checkpoint)}`\n",
        (
            f"{training.get('events', 0):,} simulated events, {training.get('steps', 0):,} steps, "
            f"{training.get('seconds', 0) / 60:.0f} minutes on {training.get('device', '?')}. "
            f"Sigmas scaled on {training.get('calibration_events', 0):,} further events.\n"
        ),
        performance_sections(performance),
        "## Settings\n",
        "As JSON, which is also valid YAML for `--config`.\n",
        f"```json\n{json.dumps(training.get('settings', {}), indent=2)}\n```",
    ]
    return "\n".join(parts) + "\n"


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
