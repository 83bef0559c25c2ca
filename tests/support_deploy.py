"""Command lines and structure of the files in deploy/ and docs/deploy.md, as tests read them."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
SYSTEMD = DEPLOY / "systemd"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

VALUES = {
    "%i": "50051",
    "CREDENTIALS_DIRECTORY": "/run/credentials",
    "STATE_DIRECTORY": "/var/lib/xec-daq",
    "XEC_LISTEN_HOST": "0.0.0.0",
    "XEC_SERVER": "127.0.0.1:50051",
}


def tool(name: str) -> str:
    """A program that `.ci/tools` or the extra `dev` installs; without it a test is skipped."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run([ROOT / ".ci" / "tools"], check=False, capture_output=True)
        found = shutil.which(name, path=path)
    if found is None:
        reason = f"{name} is not installed (.ci/tools, or pip install '.[dev]')"
        if os.environ.get("XEC_REQUIRE_TOOLS"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The parser of `xec NAME …`, by the project's own entry points, and what it is to parse."""
    program, name, *arguments = words
    assert Path(program).name == "xec", words
    module, _, attribute = PROJECT["entry-points"]["xec.commands"][name].partition(":")
    run = getattr(importlib.import_module(module), attribute).run
    if isinstance(run, typer.Typer):
        group: Any = typer.main.get_command(run)
        return group.commands[arguments[0]], arguments[1:]
    app = typer.Typer()
    app.command(name)(run)
    return typer.main.get_command(app), arguments


def parse(words: list[str]) -> None:
    """Parse a command line as the real command does, without running it."""
    if ">" in words:  # where the shell puts its output
        words = words[: words.index(">")]
    command, arguments = command_of(words)
    command.make_context(words[1], arguments)


def sections(text: str) -> dict[str, str]:
    """The sections of an Apptainer definition by name; the header has none."""
    parts = re.split(r"^%(\w+)\n", text, flags=re.MULTILINE)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with their arguments, in order."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def _options_of_environment(text: str) -> list[str]:
    """Every value that an environment file gives or proposes for the options."""
    return re.findall(r'^(?:# )?XEC_\w+_OPTIONS="(.*)"$', text, re.MULTILINE)


def _units() -> Iterator[tuple[str, list[str]]]:
    for path in sorted(SYSTEMD.rglob("*")):
        if path.suffix not in (".service", ".conf"):
            continue
        text = path.read_text().replace("\\\n", " ")
        for line in re.findall(r"^ExecStart=(/.*)$", text, re.MULTILINE):
            filled = line
            for name, value in VALUES.items():
                filled = filled.replace(name if name == "%i" else f"${{{name}}}", value)
            variable = re.search(r"\$(XEC_(\w+)_OPTIONS)", filled)
            proposals = [""]
            if variable is not None:
                file = SYSTEMD / f"{variable[2].lower()}.env"
                proposals = _options_of_environment(file.read_text())
                assert proposals, file
            for proposal in proposals:
                whole = filled if variable is None else filled.replace(variable[0], proposal)
                assert "$" not in whole, whole
                yield path.name, shlex.split(whole)


def _image() -> Iterator[tuple[str, list[str]]]:
    found = dict(instructions((DEPLOY / "Dockerfile").read_text()))
    entry = json.loads(found["ENTRYPOINT"])
    yield "Dockerfile", entry + json.loads(found["CMD"])
    yield "Dockerfile health", [*json.loads(found["HEALTHCHECK"].partition("CMD ")[2]), "h:1"]
    for document in documents(DEPLOY / "kubernetes" / "gateway.yaml"):
        if document["kind"] == "Deployment":
            (container,) = document["spec"]["template"]["spec"]["containers"]
            yield "gateway.yaml", entry + container["args"]
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                yield f"gateway.yaml {probe}", [*container[probe]["exec"]["command"], "h:1"]


def _scripts() -> Iterator[tuple[str, list[str]]]:
    texts = sections((DEPLOY / "xec-serve.def").read_text())
    for section in ("runscript", "test"):
        for line in re.findall(r"^\s+(?:exec )?(xec [a-z].*?)(?: &)?$", texts[section], re.M):
            words = shlex.split(line.replace('"$@"', "").replace('"$(cat "$ready")"', "h:1"))
            yield f"xec-serve.def {section}", words


def _documentation() -> Iterator[tuple[str, list[str]]]:
    text = (ROOT / "docs" / "deploy.md").read_text()
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"\s(?:&&|\|\||[|&;])(?:\s|$)", line):
                words = shlex.split(part, comments=True)
                for at, word in enumerate(words):
                    if word.endswith("/bin/xec") or (word, at) == ("xec", 0):
                        yield "deploy.md", words[at:]


def command_lines() -> list[tuple[str, list[str]]]:
    """Every command line of ours in the deployment files and their documentation."""
    return [*_units(), *_image(), *_scripts(), *_documentation()]
