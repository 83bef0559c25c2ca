"""What a user installs: the wheel's content, and server and client where there is no torch."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "xec",
    "xec_client",
    "xec_evaluation",
    "xec_export",
    "xec_loadtest",
    "xec_server",
    "xec_training",
}

# Runs in a fresh interpreter that behaves as if torch, and what only training needs, were absent.
WITHOUT_TORCH = """
import importlib, importlib.abc, json, pkgutil, sys

class NoTorch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "onnxscript"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, NoTorch())

def names(package):
    module = importlib.import_module(package)
    yield package
    for info in pkgutil.walk_packages(getattr(module, "__path__", ()), package + "."):
        yield info.name

def outcome(name):
    try:
        importlib.import_module(name)
    except ImportError as error:
        return str(error)
    return "imported"
"""


def without_torch(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_TORCH + textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": "/tmp", "COLUMNS": "100"},
    )


def xec_without_torch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return without_torch(
        "from xec.cli import main; sys.argv[0] = 'xec'; sys.exit(main())", *arguments
    )


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def members(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_top_level_names_are_the_seven_packages(members: list[str]) -> None:
    tops = {name.partition("/")[0] for name in members}
    (metadata,) = {name for name in tops if name.endswith(".dist-info")}
    assert tops - {metadata} == PACKAGES


def test_wheel_is_typed_and_holds_the_schema(members: list[str]) -> None:
    for package in PACKAGES:
        assert f"{package}/py.typed" in members
    assert "xec/wire/v1/reconstruction.proto" in members
    assert "xec/wire/v1/reconstruction_pb2.py" in members
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in members)


def test_wheel_holds_no_tests_and_no_caches(members: list[str]) -> None:
    leftovers = [
        name
        for name in members
        if "__pycache__" in name or Path(name).name.startswith(("test_", "conftest"))
    ]
    assert leftovers == []


def test_wheel_holds_every_module(members: list[str]) -> None:
    sources = {
        path.relative_to(folder.parent).as_posix()
        for folder in ROOT.glob("*/xec*")
        if folder.name in PACKAGES
        for path in folder.rglob("*.py")
    }
    assert len(sources) > 50
    assert sources == {name for name in members if name.endswith(".py")}


def test_wheel_brings_the_commands(wheel: Path, members: list[str]) -> None:
    (name,) = [name for name in members if name.endswith("entry_points.txt")]
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(name).decode()
    for command in (
        "simulate",
        "train",
        "export",
        "serve",
        "triton",
        "reconstruct",
        "reprocess",
        "evaluate",
        "health",
    ):
        assert f"{command} = " in text


def test_server_and_client_import_without_torch() -> None:
    done = without_torch("""
        packages = ["xec_server", "xec_client", "xec_evaluation", "xec.answer", "xec.assembly",
                    "xec.cli", "xec.conditions", "xec.detector", "xec.display", "xec.engines",
                    "xec.io", "xec.metrics", "xec.recovery", "xec.reliability", "xec.wire"]
        modules = [name for package in packages for name in names(package)]
        print(json.dumps({name: outcome(name) for name in modules}))
    """)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert len(outcomes) > 30
    assert "xec_server.events.service" in outcomes
    assert outcomes.pop("xec.engines.torch_engine") == "No module named 'torch'"  # as it should be
    assert {name: text for name, text in outcomes.items() if text != "imported"} == {}


@pytest.mark.parametrize("module", ["xec.models.build", "xec.simulation.generator"])
def test_without_torch_the_network_cannot_be_imported(module: str) -> None:
    """The negative control: torch is really out of reach in these tests."""
    done = without_torch("print(outcome(sys.argv[1]))", module)
    assert done.stdout.strip() == "No module named 'torch'"


def test_help_without_torch_shows_only_what_works() -> None:
    done = xec_without_torch("--help")
    assert done.returncode == 0, done.stderr
    listed = {
        line.strip("│ ").split()[0]
        for line in done.stdout.partition("Commands")[2].splitlines()
        if line.startswith("│ ") and line[2] != " "
    }
    assert {"serve", "triton", "reconstruct", "display"} <= listed
    assert listed.isdisjoint({"simulate", "train", "export"})


@pytest.mark.parametrize(
    "arguments",
    [
        ("simulate",),
        ("simulate", "--help"),
        ("simulate", "--events", "10", "--out", "x.root", "extra", "-v"),
        ("train", "--config", "configs/regress.yaml"),
        ("export", "--", "checkpoint"),
    ],
)
def test_refused_command_is_one_sentence_that_names_the_way_out(arguments: tuple[str, ...]) -> None:
    done = xec_without_torch(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"xec: xec {arguments[0]} needs torch")
    assert "pip install 'xec-reconstruct[" in done.stderr
    assert done.stderr.count("\n") == 1


def test_version_names_the_distribution() -> None:
    done = xec_without_torch("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("xec 0.")


@pytest.mark.parametrize(
    "command", ["serve", "triton", "reconstruct", "reprocess", "display", "evaluate"]
)
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    done = xec_without_torch(command, "--help")
    assert done.returncode == 0
    assert f"Example: xec {command}" in done.stdout


def test_known_error_is_a_sentence_and_its_exit_code(tmp_path: Path) -> None:
    done = xec_without_torch(
        "display", str(tmp_path / "none.root"), "--out", str(tmp_path / "x.png")
    )
    assert done.returncode == 3
    assert done.stderr == f"xec: {tmp_path / 'none.root'} does not exist.\n"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["serve", "--help"]])
def test_a_full_output_is_a_sentence(arguments: list[str]) -> None:
    command = [sys.executable, "-c", "from xec.cli import main; main()", *arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == "xec: What is printed cannot be written: No space left on device.\n"
