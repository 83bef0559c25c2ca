"""What to show, from files: an event and, from a result file or a model, its reconstruction."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from xec.answer import answer
from xec.display.content import EventPicture
from xec.engines.base import provenance_of, tensors_of
from xec.errors import FileError, InvalidEvent, UsageError
from xec.event import Event, EventBatch, Reconstruction
from xec.io.parquet_read import read_results
from xec.io.root import EventFile, open_events
from xec.io.root_columns import EventChunk


@dataclass(frozen=True, slots=True)
class EventNumber:
    """An event by the number that the data acquisition gave it."""

    number: int


@dataclass(frozen=True, slots=True)
class Entry:
    """An event by its place in the file, from 0."""

    index: int


def _at(file: EventFile, index: int) -> EventChunk:
    if index >= len(file):
        raise UsageError(f"{file.path} has no entry {index}: it holds {len(file)} events.")
    return next(file.chunks(1, entry_start=index, entry_stop=index + 1))


def _numbered(file: EventFile, number: int) -> EventChunk:
    for chunk in file.chunks():
        for row in (chunk.events.event == number).nonzero()[0]:
            return chunk[row : row + 1]
    raise UsageError(f"{file.path} has no event {number}.")


def load_event(path: Path, which: EventNumber | Entry) -> EventPicture:
    """An event without a reconstruction; of several with the same number the first.

    Raises:
        FileError: when the file is not a complete event file.
        UsageError: when it has no such event.
    """
    with open_events(path) as file:
        chunk = (
            _at(file, which.index) if isinstance(which, Entry) else _numbered(file, which.number)
        )
        return EventPicture(
            next(iter(chunk.events)),
            reference=None if chunk.npho_reference is None else chunk.npho_reference[0],
            truth=chunk.events.truth,
            synthetic=file.synthetic,
            geometry_hash=file.geometry_hash,
        )


def _refuse_other_event(path: Path, event: Event, reconstruction: Reconstruction) -> None:
    """Files of other simulations often use the same numbers."""
    recovered = np.isin(np.flatnonzero(~event.npho_valid), reconstruction.recovered.channel)
    if not recovered.all():
        raise FileError(
            f"{path} is not of this file: its run {event.run}, event {event.event} was "
            "reconstructed with other dead sensors."
        )


def stored_reconstruction(path: Path, event: Event) -> Reconstruction:
    """The reconstruction of an event from a result file.

    Raises:
        FileError: when the file is not a result file, or has no such event, or one of that number
            that had other invalid sensors.
    """
    for reconstruction in read_results(path):
        if (reconstruction.run, reconstruction.event) == (event.run, event.event):
            _refuse_other_event(path, event, reconstruction)
            return reconstruction
    raise FileError(f"{path} has no reconstruction of run {event.run}, event {event.event}.")


def computed_reconstruction(repository: Path, picture: EventPicture) -> Reconstruction:
    """The reconstruction of a picture's event by the embedded engine.

    Raises:
        UsageError: when ONNX Runtime is not installed.
        InvalidEvent: when no sensor has a valid count.
        ModelError: when the model cannot be loaded, or is for another geometry.
    """
    event = picture.event
    if not event.npho_valid.any():
        raise InvalidEvent(
            f"Event {event.event} of run {event.run} has no sensor with a valid count: draw it "
            "without --model."
        )
    if find_spec("onnxruntime") is None:
        raise UsageError(
            "xec display --model needs onnxruntime: pip install 'xec-reconstruct[server]'."
        )
    from xec.engines.onnx import OnnxEngine, OnnxSettings  # noqa: PLC0415

    settings = OnnxSettings(sessions=1, largest_batch=1)
    engine = OnnxEngine(repository, settings, geometry_hash=picture.geometry_hash)
    try:
        model = engine.model
        batch = EventBatch.stack([event])
        outputs = engine.infer(tensors_of(batch))
        return answer(batch, outputs, provenance_of(model), model)[0]
    finally:
        engine.close()
