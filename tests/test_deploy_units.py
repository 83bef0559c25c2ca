"""The units of systemd: verified, locked down, and in agreement with what they start."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support_deploy import DEPLOY, SYSTEMD, tool

UNITS = ("xec-serve@50051", "xec-daq", "xec-triton")
PROGRAM = "/opt/xec/current/bin/xec"
MOST_EXPOSED = 20  # in tenths: systemd-analyze calls up to 2.0 of 10 safe enough to be "OK"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units in one folder, the template as an instance, with a program that exists."""
    folder = tmp_path / "units"
    shutil.copytree(SYSTEMD, folder)
    for path in (*folder.rglob("*.service"), *folder.rglob("*.conf")):
        path.write_text(path.read_text().replace(PROGRAM, "/bin/true"))
    (folder / "xec-serve@.service").rename(folder / "xec-serve@50051.service")
    (folder / "xec-serve@.service.d").rename(folder / "xec-serve@50051.service.d")
    return folder


def verify(unit: Path) -> tuple[int, str]:
    command = [tool("systemd-analyze"), "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_accepts_every_line(installed: Path, unit: str) -> None:
    code, said = verify(installed / f"{unit}.service")
    assert (code, [line for line in said.splitlines() if str(installed) in line]) == (0, [])


def test_a_line_that_systemd_does_not_know_would_be_seen(installed: Path) -> None:
    unit = installed / "xec-daq.service"
    unit.write_text(unit.read_text().replace("NoNewPrivileges=", "NoNewPriviliges="))
    assert re.search(r"Unknown key (name )?'NoNewPriviliges'", verify(unit)[1])


def exposure(unit: Path) -> int:
    command = [tool("systemd-analyze"), "security", "--offline=true", "--no-pager"]
    command += [f"--threshold={MOST_EXPOSED}", str(unit)]
    return subprocess.run(command, capture_output=True, check=False).returncode


@pytest.mark.parametrize("unit", UNITS)
def test_little_is_exposed(installed: Path, unit: str) -> None:
    assert exposure(installed / f"{unit}.service") == 0


def test_a_unit_that_locks_nothing_would_be_seen(installed: Path) -> None:
    unit = installed / "xec-daq.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    assert exposure(unit) == 1


def setting(unit: str, name: str) -> str:
    found = re.findall(rf"^{name}=(.*)$", (SYSTEMD / f"{unit}.service").read_text(), re.MULTILINE)
    return str(found[-1])


@pytest.mark.parametrize("unit", ["xec-serve@", "xec-daq"])
def test_a_stop_has_time_for_the_grace(unit: str) -> None:
    text = (SYSTEMD / f"{unit}.service").read_text()
    (grace,) = re.findall(r"--grace (\d+)", text)
    assert int(setting(unit, "TimeoutStopSec")) >= int(grace) + 10
    assert setting(unit, "KillSignal") == "SIGTERM"


def test_the_drop_in_for_tls_changes_the_way_and_not_the_server() -> None:
    plain = setting("xec-serve@", "ExecStart").split()
    text = (SYSTEMD / "xec-serve@.service.d/tls.conf").read_text().replace("\\\n", " ")
    emptied, line = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    assert emptied == ""
    assert set(plain) - set(line.split()) == {"127.0.0.1:%i"}
    for name in re.findall(r"\$\{CREDENTIALS_DIRECTORY\}/(\S+)", line):
        assert f"LoadCredential={name}:/etc/xec/private/{name}" in text


def test_no_secret_is_in_an_environment_file() -> None:
    for path in SYSTEMD.glob("*.env"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert not re.search(r"(?i)password|token|secret|\.key|://\w+:", "\n".join(lines))


def test_the_account_is_made(tmp_path: Path) -> None:
    for folder in ("etc", "usr/lib"):
        (tmp_path / folder).mkdir(parents=True)
    command = [tool("systemd-sysusers"), f"--root={tmp_path}", str(SYSTEMD / "xec.sysusers")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "etc/passwd").read_text().startswith("xec:")
    for unit in ("xec-daq", "xec-triton"):
        assert setting(unit, "User") == "xec"


def test_onnx_runtime_reports_to_nobody() -> None:
    files = [DEPLOY / "Dockerfile", DEPLOY / "xec-serve.def"]
    files += [SYSTEMD / "xec-serve@.service", SYSTEMD / "xec-triton.service"]
    silent = [path.name for path in files if "ORT_DISABLE_TELEMETRY=1" in path.read_text()]
    assert silent == [path.name for path in files]
