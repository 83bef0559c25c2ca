"""`xec simulate`: synthetic events into a file of the experiment's formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xec.cli import Command
from xec.errors import UsageError

LARGEST_NUMBER = 2**31 - 1  # run and event are 32-bit in the files
LARGEST_SEED = 2**63 - 1
MIDAS_ENDINGS = (".mid", ".mid.lz4", ".mid.gz", ".mid.bz2")
LARGEST_ENERGY = 1000.0  # MeV; the shower's shape is meant for tens of MeV


def parse_energy(text: str) -> tuple[float, float]:
    """Lowest and highest energy in MeV of ``52.8`` or ``20:60``.

    Raises:
        UsageError: when it is not a number or a range, not positive, or reversed.
    """
    low, colon, high = text.partition(":")
    try:
        energy = float(low), float(high if colon else low)
    except ValueError:
        raise UsageError(
            f"--energy is MEV or MIN:MAX, such as 52.8 or 20:60, not {text}."
        ) from None
    if not 0.0 < energy[0] <= energy[1] <= LARGEST_ENERGY:
        raise UsageError(
            f"--energy {text} is not a rising range above 0 and up to {LARGEST_ENERGY:.0f} MeV."
        )
    return energy


def _check_numbers(events: int, seed: int, run: int, pileup: float) -> None:
    if not 1 <= events <= LARGEST_NUMBER:
        raise UsageError(f"--events must be between 1 and {LARGEST_NUMBER}, not {events}.")
    if not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"--seed must be between 0 and {LARGEST_SEED}, not {seed}.")
    if not 0 <= run <= LARGEST_NUMBER:
        raise UsageError(f"--run must be between 0 and {LARGEST_NUMBER}, not {run}.")
    if not 0.0 <= pileup <= 1.0:
        raise UsageError(f"--pileup is a probability between 0 and 1, not {pileup}.")


def _check_output(out: Path) -> None:
    if out.is_dir():
        raise UsageError(f"--out {out} is a directory; name a file in it, such as simulated.root.")
    if out.suffix != ".root" and not out.name.endswith(MIDAS_ENDINGS):
        raise UsageError(
            f"--out {out} is neither a ROOT nor a MIDAS file; choose a name that ends in .root, "
            "or in .mid.lz4."
        )


def simulate(
    *,
    events: Annotated[int, typer.Option(help="How many events.")],
    out: Annotated[Path, typer.Option(help="File to write; an existing one is replaced.")],
    seed: Annotated[int, typer.Option(help="Equal seeds give equal events.")] = 0,
    run: Annotated[int, typer.Option(help="Run number.")] = 0,
    energy: Annotated[str, typer.Option(help="MeV, or MIN:MAX for a flat spectrum.")] = "52.8",
    dead_list: Annotated[
        Path | None,
        typer.Option(help="Dead sensors, one id per line; drawn at random when not given."),
    ] = None,
    pileup: Annotated[float, typer.Option(help="Probability of a second gamma.")] = 0.0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Simulate gammas (synthetic events) into a ROOT file, or into one as the DAQ writes it.

    All events are of one run: one photon detection efficiency, one set of gains, one dead list.
    ROOT files also hold the truth, and in the branch nphoTruth what the dead sensors would have
    read; MIDAS files (.mid, .mid.lz4, .mid.gz, .mid.bz2) hold what a detector measures.

    Example: xec simulate --events 200 --seed 7 --out simulated.root
    """
    _check_numbers(events, seed, run, pileup)
    _check_output(out)
    limits = parse_energy(energy)
    # Imported here because torch is slow to load and not everyone who has `xec` has it.
    from xec.simulation import event_file  # noqa: PLC0415

    request = event_file.Request(events, out, seed, run, limits, dead_list, pileup, device)
    event_file.write(request)


COMMAND = Command(run=simulate, needs=("torch", "lz4", "uproot"), extra="train")
