"""Why Triton ended, in one sentence, from its log."""

from __future__ import annotations

import re
from typing import Final

from xec.errors import EngineError, ModelError, ServiceError, XecError

_LOAD_FAILED: Final = re.compile(
    r"error: creating server: .*?load failed for model '(?P<model>[^']*)'.*?: Internal: "
    r"(?:(?P<kind>\w+): )?(?P<text>.*?)(?:\n\nAt:|;\n|\Z)",
    re.DOTALL,
)
_PORT: Final = re.compile(r"Socket '(?P<address>[^']*)' already in use")


def reason_of(log: str, status: int | None) -> XecError:
    """The error to raise for a Triton that ended.

    Args:
        log: all that it printed.
        status: its exit status, if it has ended.
    """
    if taken := _PORT.search(log):
        return port_in_use(taken["address"])
    if failed := _LOAD_FAILED.search(log):
        text = " ".join(failed["text"].split())
        if failed["kind"] == ModelError.__name__:
            return ModelError(text)
        kind = f"{failed['kind']}: " if failed["kind"] else ""
        return EngineError(f"Triton cannot load {failed['model']}: {kind}{text}")
    lines = log.splitlines()
    errors = [line for line in lines if line.startswith(("error:", "E"))] or lines[:1]
    last = " ".join(errors[-1].split()) if errors else "its log says nothing"
    return EngineError(f"Triton ended with status {status}: {last}")


def port_in_use(address: str) -> ServiceError:
    """The error for a port that another program holds."""
    return ServiceError(
        f"Triton cannot listen on {address}: the port is in use; choose another one, or 0 for any "
        "free one."
    )
