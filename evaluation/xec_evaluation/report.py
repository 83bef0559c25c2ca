"""The report in its folder: both files appear together and complete, or not at all."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import matplotlib as mpl

from xec.errors import FileError
from xec.io.output import replacing, writing
from xec_evaluation.content import Evaluation
from xec_evaluation.drawing import STYLE
from xec_evaluation.gamma_pictures import calibration_pictures, gamma_pictures
from xec_evaluation.page import page
from xec_evaluation.sensor_pictures import sensor_pictures

HTML: Final = "report.html"
JSON: Final = "report.json"


@contextmanager
def report_folder(folder: Path) -> Iterator[None]:
    """Make sure that a report can be written before hours are spent on it.

    A folder that was made here and stays empty is removed again.

    Raises:
        FileError: it cannot be made, is a file, or cannot be written to.
    """
    made = not folder.exists()
    with writing(folder):
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    try:
        yield
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()


def write_report(folder: Path, evaluation: Evaluation) -> None:
    """Write `report.html` and `report.json`.

    Raises:
        FileError: the disk is full, or the folder is gone.
    """
    with mpl.rc_context(STYLE):
        pictures = [sensor_pictures, gamma_pictures, calibration_pictures]
        html = page(evaluation, *(list(draw(evaluation)) for draw in pictures))
    text = json.dumps(evaluation.as_json(), indent=1, allow_nan=False, ensure_ascii=False)
    if not folder.is_dir():
        raise FileError(f"{folder} cannot be written: it does not exist any more.")
    with replacing(folder / HTML) as first, replacing(folder / JSON) as second:
        with writing(folder / HTML):
            first.write(html.encode())
        with writing(folder / JSON):
            second.write(text.encode() + b"\n")
