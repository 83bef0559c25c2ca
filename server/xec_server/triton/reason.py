"""Why Triton ended, in one sentence, from its log."""

from __future__ import annotations

import re
from typing import Final

from xec.errors import EngineError, ModelError, ServiceError, XecError

_NOT_LOADED: Final = re.compile(
    r"\"failed to load '(?P<model>[^']*)' version \d+: [A-Z][a-z ]+: "
    r"(?P<text>.*?)(?:\\n\\nAt:|\"$)",
    re.MULTILINE,
)
_NOT_READ: Final = re.compile(
    r"\"Poll failed for model directory '(?P<model>[^']*)': (?P<text>.*)\"$", re.MULTILINE
)
_SYNTAX: Final = re.compile(
    r"Error parsing text-format inference\.ModelConfig: (?P<text>.*)$", re.M
)
_PORT: Final = re.compile(r"Socket '(?P<address>[^']*)' already in use")
_MARKS: Final = re.compile(r"^(?:error: |[EF]\d{4} .*?\] )")


def reason_of(log: str, status: int | None) -> XecError:
    """The error to raise for a Triton that ended.

    Args:
        log: all that it printed.
        status: its exit status, if it has ended.
    """
    if taken := _PORT.search(log):
        return port_in_use(taken["address"])
    if found := _NOT_READ.search(log):
        detail = syntax["text"] if (syntax := _SYNTAX.search(log)) else found["text"]
        return ModelError(
            f"Triton cannot read the configuration of {found['model']}: {_sentence(detail)}"
        )
    if found := _NOT_LOADED.search(log):
        ours, _, text = found["text"].partition(f"{ModelError.__name__}: ")
        if text and not ours:
            return ModelError(_plain(text))
        return EngineError(f"Triton cannot load {found['model']}: {_sentence(found['text'])}")
    lines = log.splitlines()
    errors = [line for line in lines if _MARKS.match(line)] or lines[:1]
    last = _MARKS.sub("", errors[-1]) if errors else "its log says nothing"
    return EngineError(f"Triton ended with status {status}: {_sentence(last)}")


def _plain(text: str) -> str:
    """Without the marks by which Triton keeps a message on one line."""
    return " ".join(text.replace("\\n", " ").replace('\\"', '"').split())


def _sentence(text: str) -> str:
    return _plain(text).strip('"').rstrip(".") + "."


def port_in_use(address: str) -> ServiceError:
    """The error for a port that another program holds."""
    return ServiceError(
        f"Triton cannot listen on {address}: the port is in use; choose another one, or 0 for any "
        "free one."
    )
