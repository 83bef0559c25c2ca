"""`xec serve` with TLS and tokens, and the commands that ask it, as processes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support_daq import (
    Folders,
    ended,
    events_of,
    midas_file,
    root_file,
    verdict_of,
    wait_until,
    xec,
)
from support_identity import House, entry, issue
from xec.io.parquet_read import read_results

GOOD = ("daq", "reconstruct", "info")


@dataclass(frozen=True)
class Served:
    """A server that asks for client certificates and tokens."""

    house: House
    address: str
    token: Path
    other: Path

    @property
    def access(self) -> list[object]:
        cert, key = self.house.folder / "client.pem", self.house.folder / "client.key"
        return ["--server-ca", self.house.ca, "--client-cert", cert, "--client-key", key]


@pytest.fixture(scope="module")
def served(stub_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    house = House(tmp_path_factory.mktemp("served"))
    (token, kept), (other, less) = entry(*GOOD), entry("shift", "info")
    cert, key = house.server_files()
    issue("daq machine", house.authority).write(house.folder, "client")
    ready = house.folder / "ready"
    arguments = ["serve", "--model", stub_repository, "--listen", "127.0.0.1:0", "--no-dead-list"]
    arguments += ["--tls-cert", cert, "--tls-key", key, "--tls-client-ca", house.ca]
    arguments += ["--tokens", house.write_register([kept, less]), "--ready-file", ready]
    with (house.folder / "log").open("w") as log:
        process = xec(*arguments, "--sessions", 1, output=log)
        try:
            wait_until(lambda: ready.exists() or process.poll() is not None)
            address = ready.read_text().strip()
            yield Served(house, address, house.token_file(token), house.token_file(other, "other"))
        finally:
            process.terminate()
            process.wait(60)


def test_reconstruct(served: Served, tmp_path: Path) -> None:
    batch = events_of(7, 20)
    source, out = root_file(tmp_path / "in.root", batch), tmp_path / "out.parquet"
    arguments = ["reconstruct", source, "--server", served.address, "--out", out, *served.access]
    code, _, error = ended(xec(*arguments, "--token-file", served.other))
    assert code == 11, error
    assert "does not permit it: This call needs the right reconstruct, which shift" in error
    assert error.count("\n") == 1
    assert not out.exists()
    code, _, error = ended(xec(*arguments, XEC_TOKEN=served.token.read_text()))
    assert code == 0, error
    assert [one.event for one in read_results(out)] == list(range(20))


def test_daq(served: Served, tmp_path: Path) -> None:
    """Without a right nothing is lost: events stay, and are forwarded once there is one."""
    batch, folders = events_of(407, 30), Folders(tmp_path)
    source = midas_file(tmp_path / "run00407.mid.lz4", batch)
    token = tmp_path / "token"
    shutil.copy(served.other, token)
    arguments = ["daq", "--replay", source, *folders.arguments(served.address), *served.access]
    process = xec(*arguments, "--report-seconds", 0.2, "--token-file", token)
    assert process.stdout is not None
    wait_until(lambda: "does not permit it" in process.stdout.readline())
    new = tmp_path / "new"
    shutil.copy(served.token, new)
    os.replace(new, token)  # noqa: PTH105
    code, _, error = ended(process)
    assert code == 0, error
    verdict = verdict_of(folders, batch)
    assert verdict.is_clean, verdict
    assert verdict.results == len(batch)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_commands_of_the_documentation(tmp_path: Path) -> None:
    """What docs/security.md says makes certificates that work."""
    text = (Path(__file__).parents[1] / "docs" / "security.md").read_text()
    blocks = [block.split("```")[0] for block in text.split("```sh\n")[1:]]
    script = "".join(block for block in blocks if "openssl" in block)
    assert script.count("openssl") >= 3
    done = subprocess.run(
        ["bash", "-eu", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    from xec_server.identity.tls import TlsFiles, checked_configuration

    checked_configuration(
        TlsFiles(tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "ca.pem")
    )
