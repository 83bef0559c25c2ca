"""Reconstructions for people: tables of events and of recovered sensors, and a summary of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from xec.contract import MIN_PHOTONS_FOR_TIME
from xec.detector.channels import face_of_channel
from xec.event import Flag, GammaEstimate, Reconstruction, RecoveryStatus
from xec.lineage import Provenance
from xec_client.tally import Tally

ABSENT: Final = "–"

_FLAG_WORDS: Final = {
    Flag.OUTSIDE_FIDUCIAL: "outside fiducial volume",
    Flag.OUTSIDE_DOMAIN: "outside training domain",
    Flag.TOO_MUCH_DEAD_LIGHT: "too much dead light",
}
_EVENT_COLUMNS: Final = (
    "energy\n[MeV]",
    "time\n[ns]",
    "u\n[cm]",
    "v\n[cm]",
    "w\n[cm]",
    "θ\n[deg]",
    "φ\n[deg]",
)


def _decimals(sigma: float) -> int:
    """Decimals that show two significant digits of `sigma`, 3 at most."""
    if not (math.isfinite(sigma) and sigma > 0):
        return 3
    return min(max(1 - math.floor(math.log10(sigma)), 0), 3)


def with_sigma(mean: float, sigma: float, separator: str = " ") -> str:
    """A value with its standard deviation, rounded to two digits of the latter."""
    digits = _decimals(sigma)
    return f"{mean:.{digits}f}{separator}± {sigma:.{digits}f}"


def _components(*estimates: GammaEstimate) -> Iterator[str]:
    for estimate in estimates:
        for mean, sigma in zip(estimate.mean, estimate.sigma, strict=True):
            yield with_sigma(float(mean), float(sigma), "\n")


def _flag_words(flags: Flag) -> str:
    return "\n".join(word for flag, word in _FLAG_WORDS.items() if flag in flags) or ABSENT


def _table(title: str) -> Table:
    # Text, not markup: the units in brackets would be taken for styles.
    return Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def event_table(reconstructions: Sequence[Reconstruction], title: str) -> Table:
    """One row per event: each regressed quantity over its standard deviation.

    Args:
        reconstructions: to show.
        title: over the table; says whether they are synthetic.
    """
    table = _table(title)
    for heading in ("run", "event", *_EVENT_COLUMNS, "sensors\nrecovered"):
        table.add_column(Text(heading), justify="right")
    table.add_column(Text("flags"))
    for answer in reconstructions:
        values = _components(answer.energy, answer.gamma_time, answer.uvw, answer.angle)
        count = str(len(answer.recovered))
        row = (str(answer.run), str(answer.event), *values, count, _flag_words(answer.flags))
        table.add_row(*row)
    return table


def _brightest(reconstructions: Sequence[Reconstruction], limit: int) -> list[tuple[int, int]]:
    """Event and place of the brightest recovered sensors, those of one event together."""
    light = [(row, k) for row, one in enumerate(reconstructions) for k in range(len(one.recovered))]
    light.sort(key=lambda at: -float(reconstructions[at[0]].recovered.npho[at[1]]))
    return sorted(light[:limit], key=lambda at: at[0])


def _sensor_row(answer: Reconstruction, place: int, faces: Sequence[str]) -> tuple[str, ...]:
    sensors = answer.recovered
    channel, npho = int(sensors.channel[place]), float(sensors.npho[place])
    status = RecoveryStatus(int(sensors.status[place]))
    identity = (str(answer.run), str(answer.event), str(channel), faces[channel])
    if status is RecoveryStatus.REFUSED:
        return (*identity, ABSENT, ABSENT, "refused")
    # With too little light there is no time to speak of.
    timed = npho > MIN_PHOTONS_FOR_TIME
    time = with_sigma(float(sensors.time[place]), float(sensors.time_sigma[place]))
    return (
        *identity,
        with_sigma(npho, float(sensors.npho_sigma[place])),
        time if timed else ABSENT,
        status.name.lower(),
    )


def recovered_table(reconstructions: Sequence[Reconstruction], limit: int) -> Table:
    """The brightest recovered sensors of some events, at most `limit` of them."""
    total = sum(len(answer.recovered) for answer in reconstructions)
    table = _table(f"Recovered dead sensors, the {min(limit, total)} brightest of {total}")
    for heading in ("run", "event", "channel", "face", "photons", "time [ns]", "filled"):
        left = heading in ("face", "filled")
        table.add_column(Text(heading), justify="left" if left else "right")
    faces = face_of_channel().tolist()
    for row, place in _brightest(reconstructions, limit):
        table.add_row(*_sensor_row(reconstructions[row], place, faces))
    return table


def _lineage_lines(lineages: set[Provenance]) -> list[tuple[str, str]]:
    models = {f"{one.model_name} {one.model_version} ({one.model_sha256[:12]})" for one in lineages}
    lists = {one.dead_list_id or ABSENT for one in lineages}
    return [("model", ", ".join(sorted(models))), ("dead list", ", ".join(sorted(lists)))]


def summary_table(tally: Tally, seconds: float, place: str, output: str) -> Table:
    """What a run did: events, rate, energies, recovered sensors, where it all went.

    Args:
        tally: of all events.
        seconds: that the reconstruction took, reading and writing included.
        place: where it was done, in words.
        output: the file that was written.
    """
    count = len(tally)
    lines = [("events", f"{count} in {seconds:.1f} s, {place}")]
    if count:
        energy = with_sigma(float(np.median(tally.energy)), float(np.median(tally.energy_sigma)))
        lines += [
            ("rate", f"{count / max(seconds, 1e-9):.0f} events/s"),
            ("energy", f"{energy} MeV (medians of value and uncertainty)"),
            ("recovered", f"{np.mean(tally.recovered):.1f} sensors per event"),
            *_lineage_lines(tally.lineages),
        ]
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, text in (*lines, ("output", output)):
        table.add_row(Text(name, style="bold"), Text(text))
    return table
