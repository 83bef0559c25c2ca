"""Settings from a YAML file and `--set key=value`, with every mistake as one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from xec.errors import FileError, UsageError
from xec_training.settings import Settings

S = TypeVar("S", bound=Settings)


def load_settings(kind: type[S], path: Path | None, overrides: Sequence[str]) -> S:
    """Read, override, check.

    Args:
        kind: the stage's settings.
        path: YAML file; defaults without one.
        overrides: `key=value` with dots in the key and YAML in the value, later ones win.

    Raises:
        FileError: when the file cannot be read or is no YAML mapping.
        UsageError: naming the key that is unknown, wrong or contradicts another.
    """
    values = {} if path is None else _read(path)
    for override in overrides:
        _apply(values, override)
    try:
        return kind.model_validate(_merged(_defaults(kind), values))
    except ValidationError as error:
        where = "the settings" if path is None else str(path)
        raise UsageError(_sentence(error, kind, where)) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise FileError(f"{path} does not exist; the shipped ones are in configs/.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f", line {place.line + 1}" if place is not None else ""
        raise FileError(f"{path}{line} is not valid YAML.") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise FileError(f"{path} is not a YAML mapping of sections such as training: and model:.")
    return content


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one dotted key in nested mappings."""
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise UsageError(f"--set takes key=value such as training.lr=0.001, not {override!r}.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UsageError(f"--set {override}: the value is not valid YAML.") from None
    node = values
    for name in path[:-1]:
        child = node.setdefault(name, {})
        if not isinstance(child, dict):
            child = node[name] = {}
        node = child
    node[path[-1]] = value


def _defaults(kind: type[BaseModel]) -> dict[str, Any]:
    """The stage's own defaults, section by section.

    A section in a file changes the keys that it names and no others: the weight of `loss.uvw` is
    not lost when its unit is set.
    """
    found = {}
    for name, field in kind.model_fields.items():
        value = field.default
        found[name] = value.model_dump() if isinstance(value, BaseModel) else value
    return found


def _merged(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` over `defaults`, mapping by mapping."""
    merged = dict(defaults)
    for name, value in values.items():
        default = defaults.get(name)
        nested = isinstance(value, Mapping) and isinstance(default, Mapping)
        merged[name] = _merged(default or {}, value) if nested else value
    return merged


def _sentence(error: ValidationError, kind: type[BaseModel], where: str) -> str:
    """The first mistake as a sentence, and how many others there are."""
    errors = error.errors(include_url=False)
    # An unknown key is the likeliest cause of whatever else is wrong.
    errors.sort(key=lambda e: e["type"] != "extra_forbidden")
    rest = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{where}: {_explain(errors[0], kind)}{rest}."


def _explain(error: ErrorDetails, kind: type[BaseModel]) -> str:
    # Members of a union add their type's name to the path; a key is what the user wrote.
    names = [str(part) for part in error["loc"]]
    key = ".".join(names)
    if error["type"] == "extra_forbidden":
        known = _keys_at(kind, names[:-1])
        close = difflib.get_close_matches(names[-1], known, n=1)
        prefix = ".".join(names[:-1])
        hint = f"the nearest is {close[0]}" if close else f"known are {', '.join(sorted(known))}"
        return f"{key} is not a known key{' of ' + prefix if prefix else ''}; {hint}"
    if error["type"] == "value_error":
        return str(error["msg"]).removeprefix("Value error, ")
    message = str(error["msg"])
    return f"{key}: {message[0].lower()}{message[1:]}, not {error['input']!r}"


def _keys_at(kind: type[BaseModel], path: Sequence[str]) -> list[str]:
    """The known keys of the section at a path."""
    section: type[BaseModel] = kind
    for name in path:
        field = section.model_fields.get(name)
        annotation = None if field is None else field.annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        section = annotation
    return list(section.model_fields)


def as_yaml(settings: Settings) -> str:
    """All settings, defaults included, as YAML that `load_settings` reads back."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def as_dict(settings: Settings) -> dict[str, Any]:
    """The same as JSON-serialisable values."""
    return settings.model_dump(mode="json")


def differences(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two nested mappings."""
    found = []
    for name in sorted(first.keys() | second.keys()):
        a, b = first.get(name), second.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(f"{prefix}{name}")
    return found
