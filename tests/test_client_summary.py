"""Tables for people."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from xec.assembly import assemble
from xec.event import EventBatch, Flag, Reconstruction, RecoveryStatus
from xec.lineage import Provenance
from xec_client.summary import event_table, recovered_table, summary_table, with_sigma
from xec_client.tally import Tally

PROVENANCE = Provenance("reconstruct", "3", "ab" * 32, "cd" * 32, "2023-11")


@pytest.fixture
def answered(
    events: Callable[..., EventBatch], answers: Callable[..., dict[str, np.ndarray]]
) -> list[Reconstruction]:
    batch = events(4)
    outputs = {name: values.astype(np.float32) for name, values in answers(batch).items()}
    return assemble(batch, outputs, PROVENANCE, {})


def printed(table: Table) -> str:
    console = Console(file=io.StringIO(), width=110)
    console.print(table)
    text = console.file.getvalue()
    assert all(len(line) <= 110 for line in text.splitlines())
    return text


@pytest.mark.parametrize(
    ("mean", "sigma", "text"),
    [
        (52.8312, 0.9512, "52.83 ± 0.95"),
        (52.8312, 1.49, "52.8 ± 1.5"),
        (-0.0312, 0.0650, "-0.031 ± 0.065"),
        (1234.5, 17.2, "1234 ± 17"),
        (1234.5, 172.0, "1234 ± 172"),
        (1.0, 0.0001, "1.000 ± 0.000"),
        (1.0, 0.0, "1.000 ± 0.000"),
        (1.0, float("nan"), "1.000 ± nan"),
        (1.0, float("inf"), "1.000 ± inf"),
    ],
)
def test_two_digits_of_the_uncertainty(mean: float, sigma: float, text: str) -> None:
    assert with_sigma(mean, sigma) == text


def cells(table: Table, column: int) -> list[str]:
    return list(table.columns[column].cells)


def test_event_table(answered: Sequence[Reconstruction]) -> None:
    flagged = replace(answered[1], flags=Flag.OUTSIDE_FIDUCIAL | Flag.TOO_MUCH_DEAD_LIGHT)
    table = event_table([answered[0], flagged], "Two synthetic events")
    assert cells(table, 1) == ["0", "1"]
    energy = answered[0].energy
    assert cells(table, 2)[0] == with_sigma(energy.mean[0], energy.sigma[0], "\n")
    assert cells(table, 9) == [str(len(a.recovered)) for a in answered[:2]]
    assert cells(table, 10)[1].splitlines() == ["outside fiducial volume", "too much dead light"]
    text = printed(table)
    assert "Two synthetic events" in text
    # Brackets are units here, no styles.
    assert "[MeV]" in text


def test_the_brightest_sensors(answered: Sequence[Reconstruction]) -> None:
    table = recovered_table(answered, 7)
    shown = list(zip(cells(table, 1), cells(table, 2), strict=True))
    everything = [
        (-float(npho), str(answer.event), str(channel))
        for answer in answered
        for channel, npho in zip(answer.recovered.channel, answer.recovered.npho, strict=True)
    ]
    assert set(shown) == {identity[1:] for identity in sorted(everything)[:7]}
    assert cells(table, 1) == sorted(cells(table, 1))
    assert f"7 brightest of {len(everything)}" in printed(table)


def test_what_a_sensor_says(answered: Sequence[Reconstruction]) -> None:
    recovered = answered[0].recovered
    dim = recovered.npho.copy()
    dim[0] = 99.0
    status = recovered.status.copy()
    status[1] = RecoveryStatus.REFUSED
    status[2] = RecoveryStatus.BASELINE
    one = replace(answered[0], recovered=replace(recovered, npho=dim, status=status))
    table = recovered_table([one], 10**6)
    rows = {row[0]: row[1:] for row in zip(*(cells(table, c) for c in (2, 4, 5, 6)), strict=True)}
    first, second, third, fourth = (rows[str(channel)] for channel in recovered.channel[:4])
    assert first[1] == "–"  # too little light for a time
    assert second == ("–", "–", "refused")
    assert third[2] == "baseline"
    assert "±" in fourth[1]
    assert fourth[2] == "inpainted"


def test_summary(answered: Sequence[Reconstruction]) -> None:
    tally = Tally(keep=3)
    tally.add(answered[:2])
    tally.add(answered[2:])
    assert [answer.event for answer in tally.shown] == [0, 1, 2]
    text = printed(summary_table(tally, 0.5, "in this process", "out.parquet"))
    median = float(np.median([answer.energy.mean[0] for answer in answered]))
    sensors = sum(len(answer.recovered) for answer in answered) / 4
    for part in (
        "4 in 0.5 s, in this process",
        "8 events/s",
        f"{median:.1f} ±",
        f"{sensors:.1f} sensors per event",
        "reconstruct 3 (abababababab)",
        "2023-11",
        "out.parquet",
    ):
        assert part in text


def test_summary_of_nothing() -> None:
    text = printed(summary_table(Tally(), 0.0, "in this process", "out.parquet"))
    assert "0 in 0.0 s" in text
    assert "energy" not in text
