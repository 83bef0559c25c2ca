"""The folders that one start of Triton reads: backends, and the models that were asked for."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import xec
import xec_server
from xec.errors import EngineError
from xec_server.triton.environment import Environment

BACKEND: Final = "onnxruntime"
SHARED: Final = ("errors.py", "engines/onnx_bytes.py")
"""Modules of `xec` that the backend imports; they need nothing but Python."""

_UTILITIES: Final = "triton_python_backend_utils.py"
_LIBRARY: Final = "libtriton_python.so"
_STUB: Final = "triton_python_backend_stub"


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one start."""

    backends: Path
    models: Path


def lay_out(folder: Path, environment: Environment, repository: Path, models: list[str]) -> Layout:
    """Fill an empty folder.

    The models are links into the repository, so that no other model of it is loaded although
    Triton loads all that it finds: in that mode it refuses to load or unload any later.

    Args:
        folder: to be filled.
        environment: of Triton.
        repository: in Triton's layout.
        models: names of those to serve.

    Raises:
        EngineError: the environment lacks a file of the backend.
    """
    layout = Layout(folder / "backends", folder / "models")
    _python_backend(layout.backends / "python", environment)
    _our_backend(layout.backends / BACKEND)
    layout.models.mkdir()
    for name in models:
        (layout.models / name).symlink_to((repository / name).resolve(), target_is_directory=True)
    return layout


def _python_backend(folder: Path, environment: Environment) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    wheel = environment.triton
    folder.mkdir(parents=True)
    for source in (
        wheel / "backends" / "python" / _LIBRARY,
        wheel / "backends" / "python" / _UTILITIES,
        wheel / "python_backend_stubs" / version / _STUB,
    ):
        if not source.is_file():
            raise EngineError(
                f"Triton's environment {environment.folder} lacks {source.name} for Python "
                f"{version}: remove the folder, and it is built again."
            )
        shutil.copy2(source, folder / source.name)
    (folder / _STUB).chmod(0o755)


def _our_backend(folder: Path) -> None:
    """Copies, not links: the interpreter of Triton sees these files of ours and no others.

    The folders `xec` and `xec_server` get no `__init__.py`: those of the real packages ask for
    what is not installed there.
    """
    core, server = (Path(package.__path__[0]) for package in (xec, xec_server))
    for name in SHARED:
        _copy(core / name, folder / "xec" / name)
    for source in sorted((server / "triton" / "shim").glob("*.py")):
        _copy(source, folder / "xec_server" / "triton" / "shim" / source.name)
    _copy(server / "triton" / "backend" / "model.py", folder / "model.py")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
