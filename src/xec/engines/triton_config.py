"""Triton's `config.pbtxt` as far as it can contradict the model beside it.

It is protocol buffers' text format. The schema belongs to Triton's client, which an embedded
engine does without; names, nesting and strings are all that is needed here.
Source: protobuf.dev/reference/protobuf/textformat-spec.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from xec.contract import INPUTS, Tensor, outputs_of
from xec.errors import ModelError

Fields = dict[str, list[Any]]
"""Every value of each field: strings as they are, numbers and names as text, messages as Fields."""

_TOKEN: Final = re.compile(
    r'\s+|#[^\n]*|(?P<string>"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\')'
    r"|(?P<word>[\w.+-]+)|(?P<mark>[{}\[\]<>:,;])"
)
_CLOSING: Final = {"{": "}", "<": ">"}
_TYPES: Final = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}
_DEEPEST: Final = 16


class _UnreadableError(Exception):
    pass


def fields_of(text: str) -> Fields:
    """Read protocol buffers' text format without a schema.

    Raises:
        ValueError: the text is not of that format.
    """
    tokens = _tokens(text)
    try:
        found, end = _message(tokens, 0, "", 0)
    except (_UnreadableError, IndexError) as error:
        raise ValueError("not protocol buffers' text format") from error
    if end != len(tokens):
        raise ValueError("not protocol buffers' text format")
    return found


def _tokens(text: str) -> list[str]:
    tokens, place = [], 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise ValueError(f"an unexpected character {text[place]!r}")
        if match.lastgroup:
            tokens.append(match[0])
        place = match.end()
    return tokens


def _message(tokens: list[str], place: int, closing: str, depth: int) -> tuple[Fields, int]:
    """Fields up to `closing`, or to the end where it is empty, and the place behind them."""
    if depth > _DEEPEST:
        raise _UnreadableError
    found: Fields = {}
    while place < len(tokens) and tokens[place] != closing:
        name = tokens[place]
        if not re.fullmatch(r"\w+", name):
            raise _UnreadableError
        place += 1
        if tokens[place] == ":":
            place += 1
        values, place = _values(tokens, place, depth)
        found.setdefault(name, []).extend(values)
        if place < len(tokens) and tokens[place] in ",;":
            place += 1
    if closing and tokens[place] != closing:
        raise _UnreadableError
    return found, place + bool(closing)


def _values(tokens: list[str], place: int, depth: int) -> tuple[list[Any], int]:
    if tokens[place] != "[":
        value, place = _value(tokens, place, depth)
        return [value], place
    values, place = [], place + 1
    while tokens[place] != "]":
        value, place = _value(tokens, place, depth)
        values.append(value)
        if tokens[place] == ",":
            place += 1
    return values, place + 1


def _value(tokens: list[str], place: int, depth: int) -> tuple[Any, int]:
    token = tokens[place]
    if token in _CLOSING:
        return _message(tokens, place + 1, _CLOSING[token], depth + 1)
    if token[0] in "\"'":
        return token[1:-1], place + 1
    if not re.fullmatch(r"[\w.+-]+", token):
        raise _UnreadableError
    return token, place + 1


def check_config(
    text: str, path: Path, model: str, sha256: str, metadata: Mapping[str, str]
) -> None:
    """Compare a model's configuration with the model.

    Args:
        text: of `config.pbtxt`.
        path: names it in errors.
        model: name of the model.
        sha256: of the graph that was read.
        metadata: of the graph.

    Raises:
        ModelError: it cannot be read, or says something else than the graph.
    """
    try:
        config = fields_of(text)
        difference = _difference(config, model, sha256, metadata)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read: export the model again.") from error
    if difference:
        raise ModelError(f"{path} contradicts the model: {difference}; export the model again.")


def _difference(config: Fields, model: str, sha256: str, metadata: Mapping[str, str]) -> str:
    if config.get("name", [model]) != [model]:
        return f"it is that of {config['name'][0]}, not of {model}"
    for kind, tensors in (("input", INPUTS), ("output", outputs_of(model))):
        found = {t["name"][0]: (t["data_type"][0], t["dims"]) for t in config.get(kind, [])}
        if difference := _of_tensors(found, tensors):
            return f"{kind} {difference}"
    known = {**metadata, "sha256": sha256}
    for parameter in config.get("parameters", []):
        key, value = parameter["key"][0], parameter["value"][0]["string_value"][0]
        if key in ("sha256", "contract_version", "geometry_hash") and value != known.get(key):
            return f"its {key} is {value[:12]}, not {known.get(key, '')[:12]}"
    return ""


def _of_tensors(found: Mapping[str, Any], tensors: Iterable[Tensor]) -> str:
    wanted = {t.name: (_TYPES[t.dtype], [str(t.width)]) for t in tensors}
    if differing := sorted(found.keys() ^ wanted.keys()):
        return f"{differing[0]} is {'missing' if differing[0] in wanted else 'unknown'}"
    for name, entry in wanted.items():
        if found[name] != entry:
            kind, sizes = found[name]
            return f"{name} is {kind} [{', '.join(sizes)}], not {entry[0]} {entry[1][0]}"
    return ""
