"""README's Python examples run as they stand, against real servers with the shipped model."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support_triton import Served, needs_triton
from xec.engines.base import tensors_of
from xec.engines.onnx import OnnxEngine
from xec.io.root import event_count, read_events

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "127.0.0.1:50051"
TRITON = "127.0.0.1:8001"


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


def python_block(address: str) -> str:
    """The example that talks to an address."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    (found,) = (block for block in blocks if address in block)
    assert len(blocks) == 2
    return str(found)


def test_the_python_example_prints_one_line_per_event(server: str, tmp_path: Path) -> None:
    sample = ROOT / "samples" / "synthetic.root"
    shutil.copy(sample, tmp_path / "new.root")
    code = python_block(ADDRESS)
    done = subprocess.run(
        [sys.executable, "-c", code.replace(ADDRESS, server)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == event_count(sample)


@needs_triton
def test_the_example_for_triton_prints_the_energies_of_the_embedded_engine(served: Served) -> None:
    code = python_block(TRITON).replace(TRITON, served.triton.address)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    printed = [float(text) for text in re.findall(r"[\d.]+", done.stdout)]
    events = next(iter(read_events(ROOT / "samples" / "synthetic.root")))
    energy = OnnxEngine(ROOT / "model_repository").infer(tensors_of(events))["energy"]
    np.testing.assert_allclose(printed, energy[:3, 0], rtol=1e-4)
