"""How `xec daq` refuses: one sentence and an exit code, before anything is touched."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from support_daq import events_of, midas_file
from support_midas import put, small_run
from xec import cli
from xec.errors import UsageError
from xec.io.midas.layout import BankType
from xec_client.daq.command import parse_bank

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    entry = EntryPoint("daq", "xec_client.daq.command:COMMAND", cli.GROUP)
    monkeypatch.setattr(cli, "entry_points", lambda **_: [entry])
    places = ["--server", "127.0.0.1:1", "--spool", tmp_path / "spool", "--out", tmp_path / "out"]

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["xec", "daq", *map(str, [*places, *arguments])])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


REFUSED = [
    (("--replay", "a.mid", "--follow", "b.mid"), 2, "--replay and --follow contradict"),
    (("--follow", "b.mid", "--rate", "3"), 2, "--rate and --seed belong to --replay"),
    (("--replay", "a.mid", "--rate", "-1"), 2, "positive number of events per second"),
    (("--follow", "b.root"), 2, "only these can be followed"),
    (("--replay", "a.mid", "--npho-bank", "XNPH:FLAOT"), 2, "no bank type 'FLAOT'"),
    (("--replay", "a.mid", "--npho-bank", "XNPH:INT"), 2, "must be FLOAT or DOUBLE"),
    (("--replay", "a.mid", "--time-bank", "TOOLONG"), 2, "four characters"),
    (("--replay", "a.mid", "--format", "csv"), 2, "parquet or root files, not csv"),
    (("--live", "SYSTEM"), 2, "MIDASSYS/python"),
    (("--replay", "-"), 2, "what a pipe gave once"),
    (("--replay", "none.root"), 3, "none.root does not exist"),
    (("--dead-list", "none.txt"), 4, "none.txt"),
    (("--replay", "a.mid", "--time-unit", "nan"), 2, "unit of time is a positive number"),
    (("--metrics-file", "/"), 3, "it is a directory"),
    (("--metrics-file", "/dev/null"), 3, "it is a device"),
    (("--metrics-file", "nowhere/xec.prom"), 3, "directory nowhere does not exist"),
    (("--server", "nowhere"), 2, "no server's address"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), REFUSED, ids=[r[2] for r in REFUSED])
def test_refusals(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, words: str
) -> None:
    monkeypatch.setitem(sys.modules, "midas", None)
    found, _, error = run(*arguments)
    assert (found, error.count("\n")) == (code, 1), error
    assert error.startswith("xec: ")
    assert words in error


@pytest.mark.parametrize(
    ("name", "words"),
    [("gone.mid", "does not exist"), ("foreign.mid", "not a MIDAS file"), ("run1.mid", "ids 1")],
)
def test_a_source_that_is_none_ends_with_its_sentence(
    run: Run, tmp_path: Path, name: str, words: str
) -> None:
    put(tmp_path / "foreign.mid", b"something else entirely")
    put(tmp_path / "run1.mid", small_run())
    code, _, error = run("--replay", tmp_path / name)
    assert (code, error.count("\n")) == (3, 1), error
    assert words in error


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("xec-reprocess.json", "is an output folder of xec reprocess"),
        ("lineage.json", "is a lineage of xec reprocess"),
        ("spool.id", "is a spool"),
    ],
)
def test_an_output_folder_of_others_is_refused(
    run: Run, tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("{}")
    found, _, error = run()
    assert (found, error.count("\n")) == (2, 1), error
    assert words in error
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_a_file_is_no_spool(run: Run, tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"precious")
    code, _, said = run()
    assert (code, said) == (
        3,
        f"xec: The spool {tmp_path / 'spool'} cannot be opened: it is no folder.\n",
    )


def test_nothing_to_do_is_done(run: Run) -> None:
    code, out, error = run()
    assert (code, error) == (0, "")
    assert "analysed 100.0 % of 0 events" in out


def test_help_has_an_example(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert "Example: xec daq --replay" in out


def test_a_damaged_spool_or_output_is_named(run: Run, tmp_path: Path) -> None:
    midas_file(tmp_path / "run00001.mid", events_of(1, 1))
    (tmp_path / "out").mkdir()
    part = tmp_path / "out" / "run00001-000001.parquet"
    part.write_bytes(b"PAR1")
    code, _, error = run("--replay", tmp_path / "run00001.mid")
    assert (code, error.count("\n")) == (3, 1), error
    assert part.name in error
    part.unlink()
    (tmp_path / "spool" / "spool.id").write_text("x")
    code, _, error = run()
    assert code == 3
    assert "spool.id is damaged" in error


def test_banks_by_their_text() -> None:
    assert parse_bank("ABCD").type is BankType.FLOAT
    assert parse_bank("ABCD:DOUBLE").type is BankType.DOUBLE
    with pytest.raises(UsageError, match="four characters"):
        parse_bank(":FLOAT")
