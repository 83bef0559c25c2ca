"""Result files by their suffix, and results read back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, Self

from xec.errors import UsageError
from xec.event import EventBatch, Reconstruction
from xec.io.output import Output, replacing
from xec.io.parquet import ParquetResultWriter
from xec.io.result_columns import ResultLabel
from xec.io.root_results import RootResultWriter


class ResultWriter(AbstractContextManager["ResultWriter"], Protocol):
    """Where reconstructions go; the file appears when the block succeeds."""

    def __enter__(self) -> Self:
        """Create the file under a temporary name."""
        ...

    def write(self, events: EventBatch, reconstructions: Sequence[Reconstruction]) -> None:
        """Append the answers to `events`, one for each and in their order."""
        ...


def open_result_writer(
    path: Path, *, source: str, synthetic: bool, output: Output = replacing
) -> ResultWriter:
    """The writer for the kind of file that the suffix of `path` names.

    Args:
        path: ends in `.parquet` or `.root`.
        source: name of the file that the events come from.
        synthetic: whether they were simulated.
        output: where the bytes go while the file is written.

    Raises:
        UsageError: for another suffix.
    """
    label = ResultLabel(source, synthetic)
    if path.suffix == ".parquet":
        return ParquetResultWriter(path, label, output)
    if path.suffix == ".root":
        return RootResultWriter(path, label, output)
    raise UsageError(f"{path}: results are written to .parquet or .root files.")
