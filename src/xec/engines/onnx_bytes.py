"""What an ONNX file refers to outside itself, read from its bytes without the `onnx` package.

ONNX is a protocol-buffer message. This walks the wire format along the few fields that lead to
tensors and operators, because ONNX Runtime would open external data relative to the working
directory, and a custom operator means a library to load.

Field numbers: onnx/onnx.proto of the ONNX specification; wire format: protobuf.dev/programming-
guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from typing import Final

from xec.errors import ModelError

STANDARD_DOMAINS: Final = frozenset({"", "ai.onnx"})
MAX_DEPTH: Final = 64  # nested subgraphs; real graphs have a few

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class _Message(Enum):
    MODEL = auto()
    GRAPH = auto()
    NODE = auto()
    ATTRIBUTE = auto()
    FUNCTION = auto()
    TRAINING = auto()
    TENSOR = auto()
    SPARSE_TENSOR = auto()


_CHILDREN: Final[dict[_Message, dict[int, _Message]]] = {
    _Message.MODEL: {7: _Message.GRAPH, 20: _Message.TRAINING, 25: _Message.FUNCTION},
    _Message.GRAPH: {1: _Message.NODE, 5: _Message.TENSOR, 15: _Message.SPARSE_TENSOR},
    _Message.NODE: {5: _Message.ATTRIBUTE},
    _Message.ATTRIBUTE: {
        5: _Message.TENSOR,
        6: _Message.GRAPH,
        10: _Message.TENSOR,
        11: _Message.GRAPH,
        22: _Message.SPARSE_TENSOR,
        23: _Message.SPARSE_TENSOR,
    },
    _Message.FUNCTION: {7: _Message.NODE, 11: _Message.ATTRIBUTE},
    _Message.TRAINING: {1: _Message.GRAPH, 2: _Message.GRAPH},
    _Message.TENSOR: {},
    _Message.SPARSE_TENSOR: {1: _Message.TENSOR, 2: _Message.TENSOR},
}
_NODE_DOMAIN: Final = 7
_TENSOR_EXTERNAL_DATA: Final = 13
_TENSOR_DATA_LOCATION: Final = 14
_MODEL_METADATA: Final = 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2


class _MalformedError(Exception):
    pass


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(content) or shift > 63:
            raise _MalformedError
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        kind = key & 7
        value: int | memoryview
        if kind == _VARINT:
            value, at = _varint(content, at)
        else:
            length = {_FIXED64: 8, _FIXED32: 4}.get(kind, -1)
            if kind == _LENGTH:
                length, at = _varint(content, at)
            if length < 0 or at + length > len(content):
                raise _MalformedError
            value = content[at : at + length]
            at += length
        yield key >> 3, value


def _tensor_is_external(tensor: memoryview) -> bool:
    places = (_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION)
    return any(number in places and bool(value) for number, value in _fields(tensor))


def _domains(content: memoryview, message: _Message, depth: int = 0) -> Iterator[str]:
    """The operator domains below a message; raises `ModelError` at external data."""
    if depth > MAX_DEPTH:
        raise _MalformedError
    if message is _Message.TENSOR and _tensor_is_external(content):
        raise ModelError("it keeps data in other files; export it as a single file")
    for number, value in _fields(content):
        if isinstance(value, int):
            continue
        if number in _CHILDREN[message]:
            yield from _domains(value, _CHILDREN[message][number], depth + 1)
        elif message is _Message.NODE and number == _NODE_DOMAIN:
            yield bytes(value).decode("utf-8", "replace")


def check_self_contained(content: bytes) -> None:
    """Check that an ONNX model needs nothing but its own bytes and the standard operators.

    Raises:
        ModelError: the bytes do not follow the format, a tensor lives in another file, or an
            operator is of another domain than ONNX's own; the text is the end of a sentence.
    """
    try:
        custom = set(_domains(memoryview(content), _Message.MODEL)) - STANDARD_DOMAINS
    except _MalformedError as error:
        raise ModelError("its bytes are not those of an ONNX model") from error
    if custom:
        raise ModelError(f"it uses custom operators of {', '.join(sorted(custom))}")


def metadata_of(content: bytes) -> dict[str, str]:
    """What an ONNX model says about itself, without ONNX Runtime.

    Raises:
        ModelError: the bytes do not follow the format; the text is the end of a sentence.
    """
    metadata = {}
    try:
        for number, value in _fields(memoryview(content)):
            if number == _MODEL_METADATA and isinstance(value, memoryview):
                entry = {n: bytes(v).decode() for n, v in _fields(value) if not isinstance(v, int)}
                metadata[entry.get(_ENTRY_KEY, "")] = entry.get(_ENTRY_VALUE, "")
    except (_MalformedError, UnicodeDecodeError) as error:
        raise ModelError("its bytes are not those of an ONNX model") from error
    return metadata
