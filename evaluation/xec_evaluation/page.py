"""`report.html`: one page that needs nothing beside itself."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib.resources import files

from xec_evaluation import tables
from xec_evaluation.content import Evaluation
from xec_evaluation.drawing import Picture, as_svg
from xec_evaluation.sensors import PULL
from xec_evaluation.tables import Table


def page(
    evaluation: Evaluation,
    filling: Sequence[Picture],
    gamma: Sequence[Picture],
    calibration: Sequence[Picture],
) -> str:
    """The report as HTML; pictures are inside it.

    Args:
        evaluation: what to say.
        filling: pictures of the filled sensors.
        gamma: pictures of the gamma.
        calibration: pictures of the uncertainties.
    """
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    sections = (
        _head(evaluation),
        _filling(evaluation, filling),
        _gamma(evaluation, gamma),
        _uncertainty(evaluation, calibration),
        _worst(evaluation),
        _cost(evaluation),
        _words(),
    )
    body = "\n".join(part for section in sections for part in section)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(_title(evaluation))}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _title(evaluation: Evaluation) -> str:
    kind = "synthetic events" if evaluation.synthetic else "events"
    return f"Evaluation on {evaluation.events_used} {kind}, mode {evaluation.mode}"


def _head(evaluation: Evaluation) -> Iterator[str]:
    yield f"<h1>{escape(_title(evaluation))}</h1>"
    if evaluation.synthetic:
        yield '<p><span class="label">synthetic: simulated events, not data</span></p>'
    yield f'<p class="lead">Masked: {escape(evaluation.masking)}.</p>'
    model = evaluation.model
    data = "; ".join(f"{file.path} ({file.events})" for file in evaluation.data)
    noise = ", ".join(
        f"{kind} {tables.number(value)}" for kind, value in evaluation.noise_per_photon.items()
    )
    yield _definitions(
        {
            "model": f"{model['name']} {model['version']}, sha256 {model['sha256'][:16]}",
            "geometry": model["geometry"][:16],
            "files (events)": data,
            "events": f"{evaluation.events_used} used of {evaluation.events_read} read",
            "masked sensors": f"{evaluation.masked_per_event:.1f} per event with a known reading",
            "noise": f"variance of a reading per photon of light: {noise}",
            "seed": str(evaluation.seed),
            "software": f"xec {evaluation.software_version}",
        }
    )
    yield "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in evaluation.notes) + "</ul>"


def _definitions(entries: dict[str, str]) -> str:
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in entries.items())
    return f"<dl>{rows}</dl>"


def _filling(evaluation: Evaluation, pictures: Iterable[Picture]) -> Iterator[str]:
    yield "<h2>Filled sensors</h2>"
    yield _table(tables.filling_table(evaluation))
    yield from map(_picture, pictures)
    for grouping, heading, title in (
        ("face", "face", "By face"),
        ("light", "reading", "By reading (photons)"),
        ("dead neighbours", "dead", "Inner face, by dead sensors among the eight around"),
    ):
        table = tables.group_table(evaluation, grouping, heading)
        if table.rows:
            yield f"<h3>{title}</h3>"
            yield _table(table)


def _gamma(evaluation: Evaluation, pictures: Iterable[Picture]) -> Iterator[str]:
    if not evaluation.resolution:
        return
    yield "<h2>The gamma</h2>"
    yield _table(tables.resolution_table(evaluation))
    if evaluation.distances:
        yield _table(tables.distance_table(evaluation))
    yield from map(_picture, pictures)


def _uncertainty(evaluation: Evaluation, pictures: Iterable[Picture]) -> Iterator[str]:
    if not evaluation.pulls:
        return
    yield "<h2>Predicted uncertainties</h2>"
    gamma = [row for row in evaluation.pulls if row.quantity != PULL]
    sensors = [row for row in evaluation.pulls if row.quantity == PULL]
    if gamma:
        yield _table(tables.pull_table(gamma, "The gamma."))
    if sensors:
        yield _table(tables.pull_table(sensors, "Filled sensors, against the readings."))
    yield from map(_picture, pictures)


def _worst(evaluation: Evaluation) -> Iterator[str]:
    if not evaluation.worst:
        return
    yield "<h2>Worst events</h2>"
    yield _table(tables.worst_table(evaluation.worst))
    yield '<p class="small">To look at the first of each kind:</p>'
    first = {row.quantity: (row.path, row.event) for row in reversed(evaluation.worst)}
    for path, event in dict.fromkeys(first[row.quantity] for row in evaluation.worst):
        command = f"xec display {shlex.quote(path)} --event {event} --out event{event}.png"
        yield f"<p><code>{escape(command)}</code></p>"


def _cost(evaluation: Evaluation) -> Iterator[str]:
    yield "<h2>Cost</h2>"
    yield _table(tables.cost_table(evaluation))


def _words() -> Iterator[str]:
    yield "<h2>Words</h2>"
    yield _definitions(
        {
            "MAE, RMSE, bias": "mean |error|, root of the mean squared error, mean error",
            "68 %, 95 %": "the size of error that this share of the values does not exceed",
            "relative": "mean |error| / reading, for readings of at least 100 photons",
            "σ_eff": "half of the smallest interval that holds 68.27 % of the errors",
            "σ68": "half of the central 68.27 % of the errors",
            "pull": "error over predicted standard deviation; its width is half of the central "
            "68.27 %",
            "inside 68 %, 95 %": "share inside the intervals that the model's calibration gives; "
            "without one, inside the normal intervals of the predicted standard deviation",
            "CRPS": "continuous ranked probability score of the normal prediction; smaller is "
            "better",
        }
    )


def _table(table: Table) -> str:
    head = "".join(
        f"<th{_kind(place, table)}>{escape(text)}</th>" for place, text in enumerate(table.headings)
    )
    rows = "".join(
        ('<tr class="ours">' if number in table.ours else "<tr>")
        + "".join(f"<td{_kind(k, table)}>{escape(text)}</td>" for k, text in enumerate(row))
        + "</tr>\n"
        for number, row in enumerate(table.rows)
    )
    return (
        f'<div class="wide"><table><caption>{escape(table.caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>"
    )


def _kind(place: int, table: Table) -> str:
    return ' class="text"' if place < table.texts else ""


def _picture(picture: Picture) -> str:
    caption = escape(picture.caption)
    return (
        f'<figure id="{escape(picture.name)}"><img src="{as_svg(picture)}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
