"""`xec serve --conditions`: what it refuses, and a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest

from support_conditions import address_of
from support_server import Code, Events, request
from test_server_conditions import of_run, record
from xec.conditions.intervals import Tag
from xec.errors import ConditionsUnavailable, UsageError
from xec.wire.v1.reconstruction_pb2_grpc import ReconstructionStub
from xec_server.command import _run_lists


@pytest.fixture
def file(tmp_path: Path) -> Path:
    record(address_of(tmp_path / "conditions.sqlite"))
    return tmp_path / "conditions.sqlite"


@pytest.mark.parametrize(
    ("conditions", "tag", "other", "says"),
    [
        ("x.sqlite", None, False, "needs --tag"),
        ("x.sqlite", Tag.ONLINE, True, "one or the other"),
        (None, Tag.ONLINE, False, "--tag needs a database"),
        ("postgresql://u:secret@h/d", Tag.ONLINE, False, "--conditions holds a password"),
        ("http://h/d", Tag.ONLINE, False, "--conditions names no database of the kind"),
    ],
)
def test_commands_that_cannot_be_followed(
    conditions: str | None,
    tag: Tag | None,
    other: bool,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("XEC_CONDITIONS_DATABASE", raising=False)
    with pytest.raises(UsageError, match=says) as caught:
        _run_lists(conditions, tag, other)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConditionsUnavailable, match="does not exist"):
        _run_lists(str(tmp_path / "none.sqlite"), Tag.ONLINE, other=False)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xec.conditions.option.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"xec-reconstruct\[conditions\]"):
        _run_lists("x.sqlite", Tag.ONLINE, other=False)


@pytest.mark.parametrize("by_environment", [False, True])
def test_xec_serve_with_conditions(
    stub_repository: Path, events: Events, file: Path, tmp_path: Path, by_environment: bool
) -> None:
    ready = tmp_path / "ready"
    command = [sys.executable, "-c", "from xec.cli import main; main()", "serve"]
    command += ["--model", str(stub_repository)]
    command += ["--listen", "127.0.0.1:0", "--ready-file", str(ready), "--tag", "online"]
    environment = dict(os.environ)
    if by_environment:
        environment["XEC_CONDITIONS_DATABASE"] = str(file)
    else:
        command += ["--conditions", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    try:
        end = time.monotonic() + 60
        while not ready.exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        with grpc.insecure_channel(ready.read_text().strip()) as channel:
            stub = ReconstructionStub(channel)
            answer = stub.Reconstruct(request(of_run(events, 150)), timeout=20)
            assert answer.provenance.dead_list_revision == "ONLINE@2"
            with pytest.raises(grpc.RpcError) as caught:
                stub.Reconstruct(request(of_run(events, 250)), timeout=20)
            assert caught.value.code() == Code.NOT_FOUND  # type: ignore[attr-defined]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()
