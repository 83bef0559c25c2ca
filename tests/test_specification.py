"""docs/specification.md: whatever it names exists, and every choice of the settings is in it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from xec_training.stages import SETTINGS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "specification.md").read_text(encoding="utf-8")
SPAN = re.compile(r"`([^`\n]+)`")
PLACE = re.compile(r"([\w./-]+/[\w.-]+\.(?:py|yaml|json|md))(?:::([\w.]+))?")
SECTIONS = sorted({name for kind in SETTINGS.values() for name in kind.model_fields})
KEY = re.compile(rf"(?<![\w./])((?:{'|'.join(SECTIONS)})(?:\.[a-z_]+)+)(?:(?:: |=)(\S+))?")


@cache
def names(path: str) -> frozenset[str]:
    """What a file defines at its top and in its classes; of a test file, the tests alone."""
    found = set(defined(ast.parse((ROOT / path).read_text(encoding="utf-8")), ""))
    is_test = Path(path).name.startswith("test_")
    return frozenset(name for name in found if name.startswith("test_") or not is_test)


def defined(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + child.name
        if isinstance(child, ast.ClassDef):
            yield from defined(child, f"{child.name}.")
        for target in getattr(child, "targets", [getattr(child, "target", None)]):
            if isinstance(target, ast.Name):
                yield prefix + target.id


def fields(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted keys of settings, sections included."""
    for name, field in kind.model_fields.items():
        yield prefix + name, field
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from fields(section, f"{prefix}{name}.")


KEYS = [(key, field) for kind in SETTINGS.values() for key, field in fields(kind)]


def accepts(field: FieldInfo, value: str) -> bool:
    try:
        TypeAdapter[Any](field.rebuild_annotation()).validate_python(yaml.safe_load(value))
    except ValidationError:
        return False
    return True


def wrong(text: str) -> list[str]:
    """Places and settings in backticks that do not exist."""
    found = []
    for span in SPAN.findall(text):
        for path, name in PLACE.findall(span):
            if not (ROOT / path).is_file() or (name and name not in names(path)):
                found.append(span)
        for key, value in KEY.findall(span):
            known = [field for name, field in KEYS if name == key]
            if not known or (value and not any(accepts(field, value) for field in known)):
                found.append(span)
    return found


def choices() -> set[str]:
    """Every choice of the settings as the last part of its key and its value."""
    return {
        f"{key.split('.')[-1]}: {choice}"
        for key, field in KEYS
        if get_origin(field.annotation) is Literal
        for choice in get_args(field.annotation)
    }


def test_whatever_the_page_names_exists() -> None:
    assert wrong(PAGE) == []


def test_there_is_something_to_check() -> None:
    assert len({name for _, name in PLACE.findall(PAGE) if name.startswith("test_")}) > 100
    assert len({key for key, _ in KEY.findall(PAGE)}) > 30


@pytest.mark.parametrize(
    "invented",
    [
        "`src/xec/models/none.py`",
        "`src/xec/models/mae.py::MaskedEncoder`",
        "`training/xec_training/trainer.py::Trainer.stepp`",
        "`tests/test_model_none.py::test_it`",
        "`tests/test_model_mae.py::test_nothing`",
        "`tests/test_model_mae.py::randomised`",  # a helper, not a test
        "`training.ema_deccay`",
        "`loss.energi.kind: nll`",
        "`model.positions: rotray`",
        "`xec train regress --set training.amp=fp8`",
    ],
)
def test_what_is_invented_is_noticed(invented: str) -> None:
    assert wrong(f"| see {invented} | and `docs/log.md`") == [invented.strip("`")]


def test_every_choice_of_the_settings_is_named() -> None:
    assert len(choices()) > 30
    named = " ".join(f"{span} " for span in SPAN.findall(PAGE))
    assert {choice for choice in choices() if f"{choice} " not in named} == set()
