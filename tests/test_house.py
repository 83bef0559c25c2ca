"""The rules of the house (CONTRIBUTING.md), and that what README and the Makefile say exists."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from xec.cli import build_app

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (
    "src",
    "training",
    "export",
    "evaluation",
    "server",
    "clients",
    "benchmarks",
    "loadtest",
    "tests",
)
GENERATED = re.compile(r"_pb2(_grpc)?\.pyi?$")
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60

FILES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if not GENERATED.search(path.name)
)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Name and lines of each function's body; the options of a command are not its body."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.body[0].lineno + 1


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 100


def test_files_have_one_subject_and_so_are_short() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


def test_functions_are_short() -> None:
    long = {
        f"{relative(path)}:{name}": lines
        for path in FILES
        for name, lines in functions(parsed(path))
        if lines > MOST_LINES_OF_A_FUNCTION
    }
    assert long == {}


def test_a_long_function_would_be_seen() -> None:
    body = "    x = 1\n" * (MOST_LINES_OF_A_FUNCTION + 1)
    assert dict(functions(ast.parse(f"def f(\n    a,\n    b,\n):\n{body}"))) == {"f": 61}


def test_every_module_says_what_it_is() -> None:
    silent = [relative(path) for path in FILES if not ast.get_docstring(parsed(path))]
    assert silent == []


def lint_imports(configuration: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--config", str(configuration), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_go_downward_only() -> None:
    done = lint_imports(ROOT / "pyproject.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_an_import_of_torch_would_be_seen(tmp_path: Path) -> None:
    configuration = tmp_path / "pyproject.toml"
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    changed = text.replace('source_modules = ["xec_server",', 'source_modules = ["xec.models",')
    assert changed != text
    configuration.write_text(changed, encoding="utf-8")
    done = lint_imports(configuration)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "server and client never import torch BROKEN" in done.stdout


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_is_pinned_exactly() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    exact = [re.fullmatch(r"([\w.-]+)==(\d[\w.]*)", pin) for pin in pins]
    assert [pin for pin, match in zip(pins, exact, strict=True) if match is None] == []
    pinned = {normalised(match[1]) for match in exact if match is not None}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(name for extra in extras.values() for name in extra)]
    names = {normalised(re.split(r"[\[<>=!~; ]", requirement)[0]) for requirement in wanted}
    # The GPU's runtime replaces the one that is pinned, on machines that have a GPU.
    assert names - pinned == {"xec-reconstruct", "onnxruntime-gpu"}


def test_the_grpc_family_has_one_version() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    versions = set(re.findall(r"^grpcio[\w-]*==(\S+)$", text, re.MULTILINE))
    generated = (ROOT / "src/xec/wire/v1/reconstruction_pb2_grpc.py").read_text(encoding="utf-8")
    match = re.search(r"GRPC_GENERATED_VERSION = '(\S+)'", generated)
    assert match is not None
    assert versions == {match[1]}


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z]+):.*## ", text, re.MULTILINE))


def documented_commands(text: str) -> list[list[str]]:
    """The words of each command in the shell blocks of a Markdown text."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    commands = [part for line in lines for part in re.split(r"\s(?:&&|\|\||[|&;])(?:\s|$)", line)]
    return [words for command in commands if (words := shlex.split(command, comments=True))]


def options() -> dict[str, set[str]]:
    """The options of each subcommand of `xec`, such as `display` and `train regress`."""
    commands: dict[str, set[str]] = {}

    def collect(group: typer.core.TyperGroup, prefix: str) -> None:
        for name, command in group.commands.items():
            if isinstance(command, typer.core.TyperGroup):
                collect(command, f"{prefix}{name} ")
            else:
                used = {option for p in command.params for option in p.opts}
                commands[f"{prefix}{name}"] = {"--help"} | used
        # A group may stand for one of its subcommands, as `xec reprocess` does.
        default = getattr(group, "default_command", None)
        if default is not None:
            commands[prefix.strip()] = commands[f"{prefix}{default}"]

    group = typer.main.get_command(build_app())
    assert isinstance(group, typer.core.TyperGroup)
    collect(group, "")
    return commands


def unknown(words: list[str]) -> list[str]:
    """What a documented command names that does not exist."""
    program = Path(words[0]).name
    if program == "make":
        wanted = {word for word in words[1:] if not word.startswith("-") and "=" not in word}
        return sorted(wanted - make_targets())
    if program == "xec" and len(words) > 1 and not words[1].startswith("-"):
        known = options()
        name = next((n for n in (" ".join(words[1:3]), words[1]) if n in known), None)
        if name is None:
            return [" ".join(words[1:3])]
        used = {word.partition("=")[0] for word in words[2:] if word.startswith("--")}
        return sorted(used - known[name])
    return []


DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_documented_commands_exist(path: Path) -> None:
    commands = documented_commands(path.read_text(encoding="utf-8"))
    assert {shlex.join(words): names for words in commands if (names := unknown(words))} == {}


def test_readme_begins_with_the_two_commands() -> None:
    commands = documented_commands((ROOT / "README.md").read_text(encoding="utf-8"))
    first = [words for words in commands if words[0] == "make"][:2]
    assert first == [["make", "demo"], ["make", "test"]]


def test_an_invented_command_would_be_seen() -> None:
    text = (
        "```sh\nmake dmeo && xec display e.root --hue 3 \\\n  --out e.png | xec revive\n"
        "xec train regress --speed 3\nxec train harder --out x\n```\n"
    )
    commands = documented_commands(text)
    wrong = [["dmeo"], ["--hue"], ["revive"], ["--speed"], ["train harder"]]
    assert [unknown(words) for words in commands] == wrong


def test_ci_runs_readme_commands_and_the_tests_last() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    lines = [line.strip() for line in script.read_text(encoding="utf-8").splitlines()]
    assert "make demo" in lines
    assert any(line.startswith("make faults") for line in lines)
    assert lines[-1] == "exec make test"
