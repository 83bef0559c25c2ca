"""`xec simulate`: the file it writes, and its answers to arguments that cannot be followed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer
import uproot
from typer.testing import CliRunner

from xec.detector.channels import N_CHANNELS
from xec.detector.geometry import parametric
from xec.errors import ConditionsError, FileError, UsageError, XecError
from xec.io.root import open_events
from xec.simulation.command import COMMAND, parse_energy, simulate

MARKER = np.float32(1e10)
MAIN = "from xec.cli import main; main()"


def _run(*arguments: str):
    app = typer.Typer()
    app.command()(simulate)
    return CliRunner().invoke(app, list(arguments))


def _simulate(path: Path, *more: str) -> dict[str, np.ndarray]:
    result = _run("--events", "12", "--seed", "7", "--out", str(path), *more)
    assert result.exit_code == 0, result.output
    with uproot.open(path) as file:
        return file["tree"].arrays(library="np")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    path = tmp_path_factory.mktemp("simulate") / "run.root"
    return path, _simulate(path, "--run", "321")


def test_the_file_holds_a_run_in_the_experiments_format(simulated) -> None:
    _, columns = simulated
    assert columns["run"].tolist() == [321] * 12
    assert columns["event"].tolist() == list(range(12))
    assert columns["npho"].shape == columns["relative_time"].shape == (12, N_CHANNELS)
    np.testing.assert_allclose(columns["energyTruth"], 0.0528, rtol=1e-6)
    assert np.abs(columns["relative_time"][columns["relative_time"] < 9e9]).max() < 1e-6  # s


def test_dead_sensors_are_markers_whose_truth_is_kept(simulated) -> None:
    _, columns = simulated
    dead = columns["dead"].astype(bool)
    assert (dead == dead[0]).all()
    assert columns["nDead"].tolist() == dead.sum(1).tolist()
    assert 20 < dead[0].sum() < 200
    assert (columns["npho"][dead] == MARKER).all()
    assert (columns["relative_time"][dead] == MARKER).all()
    live = columns["npho"] < 9e9
    assert (columns["npho"][live] == columns["nphoTruth"][live]).all()
    assert np.abs(columns["nphoTruth"]).max() < 1e8


def test_our_reader_takes_it_back_as_synthetic(simulated) -> None:
    path, columns = simulated
    with open_events(path) as file:
        assert file.synthetic
        assert file.has_truth
        assert file.geometry_hash == parametric().hash
        (chunk,) = file.chunks(100)
    events = chunk.events
    assert len(events) == 12
    assert events.truth is not None
    np.testing.assert_allclose(events.truth.uvw, columns["uvwTruth"])
    assert np.abs(events.npho).max() < 1e8
    assert not (events.npho_valid & columns["dead"].astype(bool)).any()


def test_equal_seeds_give_equal_files_and_others_do_not(simulated, tmp_path: Path) -> None:
    _, columns = simulated
    again = _simulate(tmp_path / "again.root", "--run", "321")
    assert all(np.array_equal(again[name], columns[name]) for name in columns)
    other = _simulate(tmp_path / "other.root", "--seed", "8")
    assert not np.array_equal(other["nphoTruth"], columns["nphoTruth"])


def test_a_dead_list_replaces_the_drawn_one_only(simulated, tmp_path: Path) -> None:
    _, columns = simulated
    listed = tmp_path / "dead.txt"
    listed.write_text("# two sensors\n17\n4759\n")
    given = _simulate(tmp_path / "run.root", "--dead-list", str(listed))
    assert np.flatnonzero(given["dead"][0]).tolist() == [17, 4759]
    assert np.array_equal(given["nphoTruth"], columns["nphoTruth"])


def test_an_energy_range_and_pile_up(tmp_path: Path) -> None:
    columns = _simulate(tmp_path / "run.root", "--energy", "20:60", "--pileup", "0.5")
    assert 0.02 <= columns["energyTruth"].min() < columns["energyTruth"].max() <= 0.06


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("--events", "0"), UsageError, "--events"),
        (("--events", "-3"), UsageError, "--events"),
        (("--seed", "-1"), UsageError, "--seed"),
        (("--run", "-1"), UsageError, "--run"),
        (("--run", str(2**31)), UsageError, "--run"),
        (("--energy", "60:20"), UsageError, "60:20"),
        (("--energy", "0"), UsageError, "above 0"),
        (("--energy", "nan"), UsageError, "nan"),
        (("--energy", "much"), UsageError, "much"),
        (("--pileup", "1.5"), UsageError, "--pileup"),
        (("--device", "abacus"), UsageError, "abacus"),
        (("--dead-list", "nowhere.txt"), ConditionsError, "nowhere.txt"),
        (("--out", "."), UsageError, "directory"),
        (("--out", "events.txt"), UsageError, ".root"),
        (("--out", "nowhere/run.root"), FileError, "nowhere"),
    ],
)
def test_bad_arguments_get_one_sentence(
    arguments: tuple[str, ...], error: type[XecError], words: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = _run("--events", "2", "--out", "run.root", *arguments)
    assert isinstance(result.exception, error)
    assert words in str(result.exception)
    assert str(result.exception).endswith(".")
    assert "\n" not in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_channel_in_the_dead_list_is_named(tmp_path: Path) -> None:
    listed = tmp_path / "dead.txt"
    listed.write_text("4760\n")
    result = _run("--events", "2", "--out", str(tmp_path / "x.root"), "--dead-list", str(listed))
    assert isinstance(result.exception, ConditionsError)
    assert "4760" in str(result.exception)


def test_cuda_is_refused_where_it_is_absent(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = _run("--events", "2", "--out", str(tmp_path / "x.root"), "--device", "cuda")
    assert isinstance(result.exception, UsageError)
    assert "cuda" in str(result.exception)


def test_energies_are_a_number_or_a_range() -> None:
    assert parse_energy("52.8") == (52.8, 52.8)
    assert parse_energy("20:60") == (20.0, 60.0)


def test_help_shows_an_example() -> None:
    result = _run("--help")
    assert result.exit_code == 0
    assert "Example: xec simulate" in result.output
    assert COMMAND.extra == "train"


def test_help_needs_no_torch() -> None:
    code = "import sys, xec.simulation.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_told_to_end_it_leaves_no_half_file(tmp_path) -> None:
    """As batch systems do: SIGTERM, and what was written so far goes with the process."""
    arguments = ["simulate", "--events", "1000000", "--out", str(tmp_path / "run.root")]
    with subprocess.Popen([sys.executable, "-c", MAIN, *arguments], stderr=subprocess.PIPE) as run:
        while not list(tmp_path.iterdir()):  # a hidden file grows beside the one to come
            assert run.poll() is None
            time.sleep(0.02)
        run.send_signal(signal.SIGTERM)
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM
    assert b"Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
