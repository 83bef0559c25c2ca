"""Triton's Python environment: where it can exist, when it is complete, what its lack says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import build_stub_model
from support_triton import ROOT, add_model, configuration, needs_triton
from xec.errors import EngineError
from xec_server.triton.environment import MARKER, Environment, cache_folder, defect, provide
from xec_server.triton.launcher import TritonSettings, start
from xec_server.triton.requirements import PINS, Machine, require_machine

GOOD = Machine("Linux", "x86_64", (2, 36), (3, 11), True)


def test_the_runtime_is_that_of_the_embedded_engine() -> None:
    """Of one version, or the reproducible answers of both would differ in their last bits."""
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    (pin,) = [pin for pin in PINS if pin.startswith("onnxruntime==")]
    assert pin in constraints


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"system": "Darwin", "processor": "arm64"},
            "no wheel of tritonserver for Darwin",
        ),
        ({"processor": "riscv64"}, "no wheel of tritonserver for Linux on riscv64"),
        ({"glibc": (2, 31)}, "its wheel needs glibc 2.35, and here is 2.31"),
        ({"glibc": ()}, "its wheel needs glibc 2.35, and here is none"),
        ({"python": (3, 13)}, "its backend needs Python 3.11 or 3.12, and this is 3.13"),
        ({"shared_python": False}, "its backend needs a Python with a shared library"),
    ],
    ids=["system", "processor", "glibc", "musl", "python", "static"],
)
def test_other_machines_are_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises(EngineError, match=re.escape(reason)) as caught:
        require_machine(replace(GOOD, **change))  # type: ignore[arg-type]
    assert "xec serve" in str(caught.value)


def test_a_good_machine_is_not_refused() -> None:
    require_machine(GOOD)


def test_this_machine_is_described() -> None:
    here = Machine.here()
    assert here.system == sys.platform.capitalize()
    assert here.python == sys.version_info[:2]


@pytest.fixture(scope="module")
def built() -> Environment:
    """The environment that all tests of Triton use; built if there is none."""
    return provide()


@pytest.fixture
def copy(built: Environment, tmp_path: Path) -> Environment:
    """Links to the files of the built one: to be removed, not changed."""
    folder = tmp_path / "environment"
    shutil.copytree(built.folder, folder, symlinks=True, copy_function=link)
    return Environment(folder)


def link(source: str, target: str) -> None:
    os.link(source, target, follow_symlinks=False)


def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip finds a closed port, and no settings of this machine."""
    for name in [name for name in os.environ if name.upper().startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")


@needs_triton
def test_a_built_environment_is_complete(copy: Environment) -> None:
    assert defect(copy) == ""
    told: list[str] = []
    assert provide(copy.folder, told.append) == copy
    assert told == []


@needs_triton
def test_it_lies_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder().parent == tmp_path / "xec-reconstruct"


@needs_triton
@pytest.mark.parametrize("what", ["library", "cut", "interpreter", "marker", "package", "pins"])
def test_damage_is_noticed(copy: Environment, what: str) -> None:
    library = next(copy.libraries.glob("libtritonserver*"))
    record = next(copy.packages.glob("numpy-*.dist-info")) / "RECORD"
    marker = copy.folder / MARKER
    victims = {"interpreter": copy.scripts / "python", "marker": marker, "package": record}
    victim = victims.get(what, marker if what == "pins" else library)
    content = victim.read_bytes()
    victim.unlink()
    if what == "cut":
        victim.write_bytes(content[:-1])
    if what == "pins":
        victim.write_bytes(content.replace(b"numpy==1.26.4", b"numpy==1.26.3"))
    assert {
        "library": f"{library.name} of nvidia-pytriton==0.7.0 is missing or was changed",
        "cut": f"{library.name} of nvidia-pytriton==0.7.0 is missing or was changed",
        "interpreter": "its interpreter is gone",
        "marker": "it was not finished",
        "package": "numpy==1.26.4 is missing",
        "pins": "it was built for other versions",
    }[what] == defect(copy)


@needs_triton
def test_an_incomplete_environment_is_built_again(
    copy: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as the package index, which cannot be reached; what is left is never taken."""
    next(copy.libraries.glob("libtritonserver*")).unlink()
    no_index(monkeypatch)
    told: list[str] = []
    with pytest.raises(EngineError, match="no package index can be reached"):
        provide(copy.folder, told.append)
    assert len(told) == 1
    assert told[0].startswith(f"building Triton's environment in {copy.folder} (libtritonserver")
    assert defect(copy) == "it was not finished"
    command = [sys.executable, "-m", "xec", "triton", "--grpc-port", "0"]
    done = subprocess.run(
        [*command, "--model", str(ROOT / "model_repository"), "--environment", str(copy.folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == EngineError.exit_code
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("xec: Triton's environment is not built yet (")
    assert "Traceback" not in done.stderr


@needs_triton
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(EngineError, match=r"is no environment of Triton's: it holds no bin/python"):
        provide(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@needs_triton
def test_a_file_is_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "environment"
    path.write_text("")
    with pytest.raises(EngineError, match="is a file: name a folder"):
        provide(path)


@needs_triton
def test_a_numpy_that_does_not_fit_is_caught(built: Environment, tmp_path: Path) -> None:
    """Triton starts with it, says that it is ready, and answers with nothing."""
    foreign = Environment(tmp_path / "foreign")
    venv.create(foreign.folder, with_pip=False, symlinks=True)
    own = Path(np.__file__).parent
    assert np.__version__.startswith("2.")
    links = {name: built.packages / name for name in ("pytriton", "onnxruntime")}
    links[built.libraries.name] = built.libraries
    links["numpy"] = own
    links["numpy.libs"] = own.parent / "numpy.libs"
    for name, target in links.items():
        (foreign.packages / name).symlink_to(target)
    repository = tmp_path / "repository"
    add_model(
        repository,
        "stub",
        build_stub_model().SerializeToString(),
        configuration("stub", max_batch=2),
    )
    with pytest.raises(EngineError, match="answers without the content of npho_mean") as caught:
        start(TritonSettings(repository, environment=foreign.folder))
    assert "numpy==1.26.4" in str(caught.value)
    # The negative control: the same links to the NumPy of the built environment.
    for name in ("numpy", "numpy.libs"):
        (foreign.packages / name).unlink()
        (foreign.packages / name).symlink_to(built.packages / name)
    start(TritonSettings(repository, environment=foreign.folder)).stop()
