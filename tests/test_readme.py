"""README's Python example runs as it stands, against a real server with the shipped model."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from xec.io.root import event_count

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "127.0.0.1:50051"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of `xec serve` with the options that README names."""
    ready = tmp_path / "ready"
    command = [sys.executable, "-c", "from xec.cli import main; main()", "serve"]
    command += ["--model", str(ROOT / "model_repository"), "--no-dead-list"]
    command += ["--listen", "127.0.0.1:0", "--ready-file", str(ready)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while not ready.exists() and process.poll() is None:
            time.sleep(0.05)
        assert process.poll() is None, process.stderr
        yield ready.read_text().strip()
        process.terminate()
        assert process.wait(30) == 0


def python_block() -> str:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    assert len(blocks) == 1
    return str(blocks[0])


def test_the_python_example_prints_one_line_per_event(server: str, tmp_path: Path) -> None:
    sample = ROOT / "samples" / "synthetic.root"
    shutil.copy(sample, tmp_path / "new.root")
    code = python_block()
    assert ADDRESS in code
    done = subprocess.run(
        [sys.executable, "-c", code.replace(ADDRESS, server)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == event_count(sample)
