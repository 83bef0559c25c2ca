"""What `xec triton` refuses: one sentence, an exit status, and nothing left running."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import build_stub_model
from support_triton import add_model, configuration, needs_triton
from xec.errors import EngineError, FileError, ModelError, ServiceError
from xec_server.triton.launcher import TritonSettings, start
from xec_server.triton.reason import reason_of

CONTENT = build_stub_model().SerializeToString()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    add_model(folder, "stub", CONTENT, configuration("stub", max_batch=2))
    return folder


def xec_triton(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "xec", "triton", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@needs_triton
def test_a_port_in_use(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = xec_triton("--model", repository, "--grpc-port", str(port))
        assert done.returncode == ServiceError.exit_code
        assert done.stdout == ""
        assert done.stderr == (
            f"xec: Triton cannot listen on 127.0.0.1:{port}: the port is in use; choose another "
            "one, or 0 for any free one.\n"
        )
        with pytest.raises(ServiceError, match="the port is in use"):
            start(TritonSettings(repository, metrics_port=port))


def test_a_port_taken_meanwhile_is_read_from_the_log() -> None:
    log = (
        "error: failed to start GRPC service: Unavailable - Socket '127.0.0.1:8001' already in use"
    )
    error = reason_of(log, 1)
    assert isinstance(error, ServiceError)
    assert "cannot listen on 127.0.0.1:8001" in str(error)


def no_model(repository: Path) -> None:
    (repository / "stub" / "1" / "model.onnx").unlink()


def no_manifest(repository: Path) -> None:
    (repository / "stub" / "1" / "manifest.json").unlink()


def no_config(repository: Path) -> None:
    (repository / "stub" / "config.pbtxt").unlink()


def altered(repository: Path) -> None:
    path = repository / "stub" / "1" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (no_model, "model.onnx cannot be read: No such file or directory"),
        (no_manifest, "manifest.json cannot be read"),
        (no_config, "holds no model: no folder with a config.pbtxt"),
        (altered, "model.onnx is corrupted or was changed: its sha256"),
    ],
)
def test_a_damaged_repository(
    repository: Path, damage: Callable[[Path], None], reason: str
) -> None:
    damage(repository)
    done = xec_triton("--model", repository, "--grpc-port", "0")
    assert done.returncode == ModelError.exit_code
    assert reason in done.stderr
    assert done.stderr.startswith(f"xec: {repository}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"models": ("stub", "inpaint")}, "has no model named inpaint"),
        ({"models": ("../repository",)}, "'../repository' is no name of a model"),
        ({"flavour": "cuda"}, "stub has no flavour cuda; it has none: leave out --flavour"),
    ],
)
def test_what_the_repository_does_not_have(
    repository: Path, settings: dict[str, object], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        start(TritonSettings(repository, **settings))  # type: ignore[arg-type]


def test_no_repository(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no model repository at"):
        start(TritonSettings(tmp_path / "none"))


@needs_triton
@pytest.mark.parametrize("option", ["--log", "--ready-file"])
def test_a_file_that_cannot_be_written(repository: Path, option: str) -> None:
    """Found late, the ready file ends a Triton that runs."""
    path = repository / "none" / "file"
    done = xec_triton("--model", repository, "--grpc-port", "0", option, path)
    assert done.returncode == FileError.exit_code
    assert done.stdout == ""
    assert done.stderr.startswith(f"xec: {path} cannot be written: ")
    assert done.stderr.count("\n") == 1


UVW = 'output { name: "uvw" data_type: TYPE_FP32 dims: [ 3 ] }'


@needs_triton
@pytest.mark.parametrize(
    ("config", "kind", "reason"),
    [
        (
            configuration("stub").replace(UVW, UVW.replace("[ 3 ]", "[ 4 ]")),
            ModelError,
            "contradicts {repository}/stub/1/model.onnx: uvw is a tensor(float) of [4] per event",
        ),
        (
            configuration("stub") + "max_bach_size: 3\n",
            ModelError,
            "Triton cannot read the configuration of stub: ",
        ),
        (
            configuration("stub").replace("KIND_CPU", "KIND_GPU"),
            EngineError,
            "Triton cannot load stub: ",
        ),
        (
            configuration("stub").replace('"onnxruntime"', '"pytorch"'),
            EngineError,
            "Triton cannot load stub: unable to find backend library for backend 'pytorch'",
        ),
    ],
    ids=["contradiction", "syntax", "no GPU", "backend"],
)
def test_a_configuration_that_cannot_be_followed(
    repository: Path, config: str, kind: type[Exception], reason: str
) -> None:
    """By the backend or by Triton itself, in a real start."""
    (repository / "stub" / "config.pbtxt").write_text(config)
    with pytest.raises(kind, match=re.escape(reason.format(repository=repository))) as caught:
        start(TritonSettings(repository))
    assert "\n" not in str(caught.value)
    assert "\\n" not in str(caught.value)


@needs_triton
def test_a_flavour_is_taken_from_its_file(repository: Path) -> None:
    """And not from `config.pbtxt`, which here would be refused."""
    configs = repository / "stub" / "configs"
    configs.mkdir()
    (configs / "small.pbtxt").write_text(configuration("stub", max_batch=3))
    (repository / "stub" / "config.pbtxt").write_text(configuration("stub", {"nonsense": "1"}))
    with pytest.raises(ModelError, match="has the parameter nonsense"):
        start(TritonSettings(repository))
    start(TritonSettings(repository, flavour="small")).stop()


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        ("", "Triton ended with status 1: its log says nothing."),
        ("tritonserver: unrecognized option '--x'\nUsage: ...", "unrecognized option '--x'."),
        ('E1125 13:00:00.1 7 a.cc:1] "first"\nerror: creating server: last\n', "server: last."),
    ],
)
def test_an_unknown_end_is_told_by_the_last_error(log: str, sentence: str) -> None:
    assert str(reason_of(log, 1)).endswith(sentence)
