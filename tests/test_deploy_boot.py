"""`xec-serve@.service` as it is, under a real systemd: ready, alive, restarted, drained.

A container whose root is this machine's own, with whatever is written kept in memory, in which
systemd is the first process. Needs root; `.ci/tools` brings what it starts.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support_deploy import PROJECT, ROOT, SYSTEMD, tool

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.geteuid() != 0, reason="starts a container, which needs root"),
]

SOURCES = ("src", "server", "clients", "training", "export", "evaluation")
SECONDS = 150
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
# What the program consists of lies where no home and no temporary folder is.
BINDS = {"python": Path(sys.base_prefix).resolve(), "venv": Path(sys.prefix), "checkout": ROOT}
PATHS = [
    "/opt/xec/metadata",
    *(f"/opt/xec/checkout/{name}" for name in SOURCES),
    f"/opt/xec/venv/lib/{VERSION}/site-packages",
]
PROGRAM = f"""#!/bin/sh
PYTHONPATH={":".join(PATHS)}
LD_LIBRARY_PATH=/opt/xec/python/lib  # else that of another Python of this machine is found
export PYTHONPATH LD_LIBRARY_PATH
exec /opt/xec/python/bin/{VERSION} -c 'from xec.cli import main; main()' "$@"
"""

# The watchdog of the unit, sooner.
SOONER = "[Service]\nWatchdogSec=6\n"

RUN_TESTS = """[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash /etc/xec/steps
ExecStopPost=/usr/bin/systemctl --no-block poweroff
StandardOutput=file:/outside/said
StandardError=inherit
"""

STEPS = r"""
unit=xec-serve@50051
trap 'journalctl --no-pager --output cat --unit $unit' EXIT
show() { systemctl show --value --property "$1" $unit; }
health() { /opt/xec/current/bin/xec health 127.0.0.1:50051 --quiet --wait "$1"; echo "$2: $?"; }
systemctl start $unit; echo "started: $?"
health 0 "answers at once"
echo "status: $(show StatusText)"
pid=$(show MainPID)
[ "$pid" -gt 0 ] || exit 1
echo "root: $(( $(stat --format %u /proc/$pid) == 0 ))"
grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/$pid/status
kill -STOP "$pid"
for second in $(seq 30); do [ "$(show NRestarts)" = 1 ] && break; sleep 1; done
echo "restarts after a hang: $(show NRestarts)"
health 30 "answers after a hang"
kill -KILL "$(show MainPID)"
sleep 1
health 30 "answers after a kill"
echo "restarts after a kill: $(show NRestarts)"
systemctl stop $unit
echo "stopped: $(show ActiveState) $(show Result) $(show ExecMainStatus)"
/opt/xec/current/bin/xec health 127.0.0.1:50051 --quiet 2>&1; echo "answers when stopped: $?"
echo 'XEC_SERVE_OPTIONS="--model /nowhere"' >/etc/xec/serve-50051.env
systemctl start $unit 2>/dev/null; echo "without a model: $?"
sleep 3
echo "tried again: $(show NRestarts) $(show ExecMainStatus)"
"""


@contextmanager
def root_in_memory(folder: Path) -> Iterator[Path]:
    """This machine's root, with what is written on it kept apart and dropped."""
    memory, root = folder / "memory", folder / "root"
    for path in (memory, root):
        path.mkdir()
    mounts = [["-t", "tmpfs", "tmpfs", str(memory)]]
    mounts += [["-t", "overlay", "overlay", str(root), "-o"]]
    mounts[1].append(f"lowerdir=/,upperdir={memory}/upper,workdir={memory}/work")
    done = []
    try:
        for arguments, target in zip(mounts, (memory, root), strict=True):
            made = subprocess.run(["mount", *arguments], capture_output=True, check=False)
            if made.returncode:
                pytest.skip(f"no overlay can be mounted: {made.stderr.decode()}")
            done.append(target)
            for name in ("upper", "work"):
                (memory / name).mkdir(exist_ok=True)
        yield root
    finally:
        for target in reversed(done):
            subprocess.run(["umount", "--recursive", target], check=True)


def install(root: Path) -> None:
    """The unit, a model, a list of dead sensors, and a program that runs this checkout."""
    units, xec = root / "etc/systemd/system", root / "etc/xec"
    # What else this machine would start is not started.
    shutil.rmtree(units, ignore_errors=True)
    for path in (units, xec, root / "opt/xec/current/bin", root / "outside"):
        path.mkdir(parents=True, exist_ok=True)
    shutil.copy(SYSTEMD / "xec-serve@.service", units)
    (units / "xec-serve@.service.d").mkdir()
    (units / "xec-serve@.service.d/sooner.conf").write_text(SOONER)
    (units / "steps.service").write_text(RUN_TESTS)
    (xec / "steps").write_text(STEPS)
    shutil.copy(SYSTEMD / "serve.env", xec)
    (xec / "dead.txt").write_text("17\n18\n")
    shutil.copytree(ROOT / "model_repository", root / "opt/xec/models")
    metadata = root / "opt/xec/metadata/xec_reconstruct-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Name: xec-reconstruct\nVersion: 0\n")
    commands = PROJECT["entry-points"]["xec.commands"].items()
    entries = "".join(f"{name} = {target}\n" for name, target in commands)
    (metadata / "entry_points.txt").write_text(f"[xec.commands]\n{entries}")
    program = root / "opt/xec/current/bin/xec"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    wants = units / "multi-user.target.wants"
    wants.mkdir()
    (wants / "steps.service").symlink_to("../steps.service")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the steps printed, then the unit's journal."""
    nspawn = tool("systemd-nspawn")
    folder = tmp_path_factory.mktemp("boot")
    outside = folder / "outside"
    outside.mkdir()
    with root_in_memory(folder) as root:
        install(root)
        # In a namespace of its own, which ends with `unshare`: a test that is ended leaves nothing.
        command = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
        command += [nspawn, "--quiet", "--boot", f"--directory={root}", "--register=no"]
        command += ["--keep-unit", "--private-network", f"--bind={outside}:/outside"]
        command += [f"--bind-ro={source}:/opt/xec/{name}" for name, source in BINDS.items()]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    result = outside / "said"
    assert result.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    return result.read_text()


def lines(said: str, beginning: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith(beginning)]


def test_it_is_ready_when_it_is_started(said: str) -> None:
    assert "started: 0\nanswers at once: 0\nstatus: listens on 127.0.0.1:50051\n" in said, said


def test_it_runs_without_rights(said: str) -> None:
    assert "root: 0\n" in said
    assert lines(said, "CapBnd")[0].split()[1].strip("0") == ""
    assert lines(said, "NoNewPrivs")[0].split()[1] == "1"
    assert lines(said, "Seccomp:")[0].split()[1] == "2"


def test_a_loop_that_hangs_is_restarted(said: str) -> None:
    assert "restarts after a hang: 1\nanswers after a hang: 0\n" in said
    assert "Watchdog timeout" in said


def test_a_process_that_is_killed_is_restarted(said: str) -> None:
    assert "answers after a kill: 0\nrestarts after a kill: 2\n" in said


def test_a_stop_is_a_success_and_ends_the_service(said: str) -> None:
    assert "stopped: inactive success 0\n" in said
    assert "answers when stopped: 7\n" in said


def test_a_model_that_is_missing_is_not_tried_again(said: str) -> None:
    assert "without a model: 1\ntried again: 0 5\n" in said
    assert re.search(r"There is no model repository at /nowhere", said)
