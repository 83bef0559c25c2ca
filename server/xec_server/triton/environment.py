"""Triton's own Python environment: built once, checked at every start, rebuilt when incomplete.

It lies in the user's cache, named by what it was built from. A folder that this module did not
build is used as it is and never changed; whether its libraries fit, the golden event shows.
"""

from __future__ import annotations

import csv
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from xec.errors import EngineError
from xec_server.triton.requirements import PINS, Machine, key, require_machine

MARKER: Final = "xec-triton.json"
"""Written last: a folder with it was built by us, and to the end."""

_UNREACHABLE: Final = ("Retrying (", "ConnectionError", "ConnectTimeout", "name resolution")

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python environment that holds tritonserver, NumPy and ONNX Runtime."""

    folder: Path

    @property
    def scripts(self) -> Path:
        """Where its interpreter lies."""
        return self.folder / "bin"

    @property
    def packages(self) -> Path:
        """Its site-packages."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "lib" / version / "site-packages"

    @property
    def triton(self) -> Path:
        """The part of the wheel that is tritonserver."""
        return self.packages / "pytriton" / "tritonserver"

    @property
    def server(self) -> Path:
        """The program."""
        return self.triton / "bin" / "tritonserver"

    @property
    def libraries(self) -> Path:
        """Shared libraries that the wheel brings."""
        return self.packages / "nvidia_pytriton.libs"


def cache_folder() -> Path:
    """Where environments are kept: `XDG_CACHE_HOME`, or `~/.cache`."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "xec-reconstruct" / f"triton-{key()}"


def provide(folder: Path | None = None, progress: Progress = print) -> Environment:
    """An environment that is complete, built now if need be.

    Args:
        folder: of the environment; in the user's cache by default.
        progress: is told what is being done, where it takes time.

    Raises:
        EngineError: Triton cannot run on this machine, the folder holds something else, or the
            environment cannot be built.
    """
    require_machine(Machine.here())
    environment = Environment((folder or cache_folder()).absolute())
    with _locked(environment.folder):
        if _is_foreign(environment.folder):
            return _as_it_is(environment)
        if reason := defect(environment):
            progress(f"building Triton's environment in {environment.folder} ({reason})")
            _build(environment)
    return environment


def defect(environment: Environment) -> str:
    """What is wrong with an environment of ours; empty when it is complete."""
    if not environment.folder.exists():
        return "there is none yet"
    try:
        built = json.loads((environment.folder / MARKER).read_text())
    except (OSError, ValueError):
        return "it was not finished"
    if built != {"pins": list(PINS), "key": key()}:
        return "it was built for other versions"
    if not (environment.scripts / "python").exists():
        return "its interpreter is gone"
    for pin in PINS:
        if missing := _first_missing(environment.packages, pin):
            return missing
    return ""


def _first_missing(packages: Path, pin: str) -> str:
    name, _, version = pin.partition("==")
    record = packages / f"{name.replace('-', '_')}-{version}.dist-info" / "RECORD"
    if not record.is_file():
        return f"{pin} is missing"
    with record.open(newline="") as lines:
        for path, _, size in csv.reader(lines):
            file = packages / path
            if file.suffix == ".pyc":
                continue
            if size and not (file.is_file() and file.stat().st_size == int(size)):
                return f"{file.name} of {pin} is missing or was changed"
    return ""


def _is_foreign(folder: Path) -> bool:
    if not folder.exists() or (folder / MARKER).exists():
        return False
    if not folder.is_dir():
        return True
    return any(folder.iterdir()) and not (folder / f"{MARKER}.part").exists()


def _as_it_is(environment: Environment) -> Environment:
    if not environment.folder.is_dir():
        raise EngineError(f"{environment.folder} is a file: name a folder with --environment.")
    for needed in (environment.scripts / "python", environment.server):
        if not needed.exists():
            raise EngineError(
                f"{environment.folder} is no environment of Triton's: it holds no "
                f"{needed.relative_to(environment.folder)}; name an empty folder to have one built."
            )
    return environment


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time builds or checks an environment."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder.parent / f".{folder.name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise EngineError(
            f"Triton's environment cannot be kept in {folder.parent}: {error.strerror}; name "
            "another folder with --environment."
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _build(environment: Environment) -> None:
    folder = environment.folder
    part = folder / f"{MARKER}.part"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        part.touch()
    except OSError as error:
        raise EngineError(
            f"Triton's environment cannot be built in {folder}: {error.strerror}; name another "
            "folder with --environment."
        ) from error
    for command in _commands(environment):
        _run(command, folder)
    part.write_text(json.dumps({"pins": PINS, "key": key()}))
    part.replace(folder / MARKER)


def _commands(environment: Environment) -> Iterator[list[str]]:
    """Create and fill it; by the pip that is here, or by one of its own, which takes longer."""
    python = str(environment.scripts / "python")
    here = find_spec("pip") is not None
    pip = [sys.executable, "-I", "-m", "pip", "--python", python] if here else [python, "-m", "pip"]
    yield [sys.executable, "-m", "venv", *(["--without-pip"] * here), str(environment.folder)]
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    yield [*pip, "install", *options, "--retries=1", *PINS]


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode == 0:
        return
    text = done.stdout + done.stderr
    if any(sign in text for sign in _UNREACHABLE):
        raise EngineError(
            f"Triton's environment is not built yet ({folder}), and no package index can be "
            f"reached to build it: connect, or set pip's index, and run this again."
        )
    last = text.strip().splitlines()[-1] if text.strip() else f"exit status {done.returncode}"
    raise EngineError(f"Triton's environment cannot be built in {folder}: {last}.")
