"""From files and a model to the content of the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from xec.conditions.dead_list import read_dead_list
from xec.contract import MODEL_NAME
from xec.detector.geometry import Geometry, load_survey, parametric
from xec.engines.base import ModelInfo
from xec.engines.onnx import OnnxEngine
from xec.errors import ConditionsError, FileError, ModelError, UsageError
from xec_evaluation import baselines
from xec_evaluation.collect import Capacity, Collection, Methods, collect
from xec_evaluation.content import Evaluation
from xec_evaluation.modes import (
    Artificial,
    Front,
    Lists,
    Masking,
    Mode,
    Pseudo,
    fixed_list,
    no_list,
)
from xec_evaluation.patterns import WORDS, DrawnLists, Pattern, Redraw
from xec_evaluation.source import Source, open_source
from xec_evaluation.summarise import Run, summarise

Progress = Callable[[int], Callable[[int], None]]
"""From the number of events to what is called with how many more are done."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be evaluated and how.

    Args:
        model: folder of the model, such as ``model_repository/reconstruct``.
        data: files or patterns.
        mode: which sensors are masked.
        dead_list: file of dead sensors.
        pattern: or what dead lists are drawn like.
        redraw: when they are drawn anew.
        events: most events to read; None for all.
        baselines: whether the conventional methods run as well.
        local_fit: whether the slowest of them, the local fit, is among them.
        survey: table of the sensors' places, for a model of another than the ideal geometry.
        seed: of masks, samples and bootstrap.
        capacity: rows that are kept for quantiles.
    """

    model: Path
    data: tuple[str, ...]
    mode: Mode
    dead_list: Path | None = None
    pattern: Pattern | None = None
    redraw: Redraw = Redraw.RUN
    events: int | None = None
    baselines: bool = True
    local_fit: bool = True
    survey: Path | None = None
    seed: int = 0
    capacity: Capacity = field(default_factory=Capacity)


def evaluate(request: Request, progress: Progress) -> Evaluation:
    """Run the model and the conventional methods over the files.

    Args:
        request: what and how.
        progress: shows how far it is.

    Raises:
        UsageError: options contradict each other.
        FileError: a file is missing, damaged or without events, or the mode needs truth.
        ConditionsError: the dead list is unknown, or leaves no live sensor.
        ModelError: the model is missing, altered, or of another contract or geometry.
        InvalidEvent: an event has no live sensor.
        EngineError: the network failed.
    """
    if request.dead_list is not None and request.pattern is not None:
        raise UsageError("--dead-list and --dead-pattern both say what is dead: give one of them.")
    lists = _lists(request)
    engine = _open_engine(request.model)
    try:
        geometry = _geometry(engine.model, request.survey)
        source = open_source(request.data, request.events, engine.model.geometry_hash)
        masking, words = _masking(request, source, lists, geometry)
        methods = _methods(request, engine, geometry)
        found = collect(
            source,
            masking,
            methods,
            capacity=request.capacity,
            seed=request.seed,
            advance=progress(len(source)),
        )
        if not found.masked:
            raise FileError(_nothing_masked(request.mode, found))
        return summarise(found, source, engine.model, Run(request.mode, words, request.seed))
    finally:
        engine.close()


def _nothing_masked(mode: Mode, found: Collection) -> str:
    if mode is Mode.FRONT:
        return (
            f"None of {found.read} events converts in front of a live inner sensor at less than "
            "1 cm of depth: --mode front needs more events, or others."
        )
    return (
        f"In none of {found.read} events is the reading of a masked sensor known: use a dead list "
        "that names sensors which are alive in the files, or --mode artificial."
    )


def _open_engine(model: Path) -> OnnxEngine:
    """The model of a folder, or the one named `reconstruct` in a repository."""
    if not model.is_dir():
        raise ModelError(f"There is no model at {model}: name its folder, or its repository's.")
    if (model / MODEL_NAME).is_dir():
        return OnnxEngine(model)
    return OnnxEngine(model.parent, name=model.name)


def _geometry(model: ModelInfo, survey: Path | None) -> Geometry:
    geometry = parametric() if survey is None else load_survey(survey)
    if geometry.hash == model.geometry_hash:
        return geometry
    if survey is None:
        raise ModelError(
            f"The model was made for geometry {model.geometry_hash[:12]}…, not for the ideal one: "
            "name the table of its sensors' places with --survey FILE."
        )
    raise ModelError(
        f"The model was made for geometry {model.geometry_hash[:12]}…, {survey} holds "
        f"{geometry.hash[:12]}…: use the table that the model was made with."
    )


def _lists(request: Request) -> Lists | None:
    """The dead lists that were asked for, or None."""
    if request.dead_list is not None:
        dead = read_dead_list(request.dead_list)
        if dead.mask.all():
            raise ConditionsError(f"The dead list {request.dead_list} leaves no live sensor.")
        return fixed_list(dead)
    if request.pattern is not None:
        return DrawnLists(request.pattern, request.redraw, request.seed)
    return None


def _list_words(request: Request) -> str:
    if request.dead_list is not None:
        return f"the list {request.dead_list.name}"
    if request.pattern is None:
        return ""
    when = {
        Redraw.RUN: "drawn anew for each run",
        Redraw.EVENT: "drawn anew for each event",
        Redraw.NEVER: "drawn once",
    }
    return f"{WORDS[request.pattern]}, {when[request.redraw]}"


def _masking(
    request: Request, source: Source, lists: Lists | None, geometry: Geometry
) -> tuple[Masking, str]:
    """What hides sensors, and in words."""
    words = _list_words(request)
    if request.mode is Mode.PSEUDO:
        if lists is not None:
            return Pseudo(lists), f"dead sensors: {words}"
        if source.own_lists:
            return Pseudo(None), "dead sensors: those of the files' own lists"
        lists = DrawnLists(Pattern.TYPICAL, request.redraw, request.seed)
        return Pseudo(lists), f"dead sensors: {WORDS[Pattern.TYPICAL]}, drawn"
    also = f"; dead as well, and not asked for: {words}" if words else ""
    if request.mode is Mode.ARTIFICIAL:
        text = "10 live sensors of the inner face and 1 of each other face, drawn for each event"
        return Artificial(lists or no_list, request.seed), text + also
    if not source.has_truth:
        raise FileError(
            "--mode front masks the sensor in front of the true conversion point, which these "
            "files do not hold: use simulated events, or --mode artificial."
        )
    text = (
        "the inner sensor in front of the conversion point, nearer than 0.5 cm in u and v, "
        "at less than 1 cm of depth"
    )
    return Front(lists or no_list, geometry), text + also


def _methods(request: Request, engine: OnnxEngine, geometry: Geometry) -> Methods:
    if not request.baselines:
        return Methods(engine, {}, None)
    fills = baselines.fills(geometry, local_fit=request.local_fit)
    return Methods(engine, fills, baselines.gamma(geometry))
