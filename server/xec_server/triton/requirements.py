"""What Triton's own environment holds, and on which machines it can exist."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xec.errors import EngineError

PINS: Final = ("nvidia-pytriton==0.7.0", "numpy==1.26.4", "onnxruntime==1.32.0")
"""Installed without dependencies: tritonserver 2.51 with the stubs of its Python backend, which
are built against NumPy 1, and the ONNX Runtime of the embedded engine (constraints.txt)."""

OLDEST_GLIBC: Final = (2, 35)
PYTHONS: Final = ((3, 11), (3, 12))
"""With a stub in the wheel and wheels of the pinned NumPy."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides whether the wheel can be installed."""

    system: str
    processor: str
    glibc: tuple[int, ...]
    python: tuple[int, int]
    shared_python: bool

    @classmethod
    def here(cls) -> Machine:
        """This machine and this interpreter."""
        name, _, version = _libc().partition(" ")
        numbers = version.split(".") if name == "glibc" else []
        return cls(
            system=platform.system(),
            processor=platform.machine(),
            glibc=tuple(int(number) for number in numbers if number.isdecimal()),
            python=sys.version_info[:2],
            shared_python=bool(sysconfig.get_config_var("Py_ENABLE_SHARED")),
        )

    def obstacle(self) -> str:
        """Why there can be no Triton here; empty where there can."""
        if self.system != "Linux" or self.processor not in ("x86_64", "aarch64"):
            return f"there is no wheel of tritonserver for {self.system} on {self.processor}"
        if self.glibc < OLDEST_GLIBC:
            found = ".".join(map(str, self.glibc)) or "none"
            return f"its wheel needs glibc {'.'.join(map(str, OLDEST_GLIBC))}, and here is {found}"
        if self.python not in PYTHONS:
            known = " or ".join(".".join(map(str, version)) for version in PYTHONS)
            return (
                f"its backend needs Python {known}, and this is {'.'.join(map(str, self.python))}"
            )
        if not self.shared_python:
            return "its backend needs a Python with a shared library (libpython), and this has none"
        return ""


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        return ""


def require_machine(machine: Machine) -> None:
    """Refuse where Triton cannot run.

    Raises:
        EngineError: with the reason and the way out.
    """
    if reason := machine.obstacle():
        raise EngineError(
            f"Triton cannot run here: {reason}. Serve with the embedded engine (xec serve)."
        )


def key() -> str:
    """Names an environment by all that it was built from."""
    parts = (*PINS, platform.machine(), sys.version, str(Path(sys.base_prefix).resolve()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
