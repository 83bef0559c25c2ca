"""`xec conditions`: what it records and shows, and its answers to what cannot be followed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from support_conditions import address_of
from support_databases import PASSWORD, MariaDB, PostgreSQL
from support_upstream import Experiment
from xec.cli import build_app
from xec.conditions.address import CONDITIONS_VARIABLE, UPSTREAM_VARIABLE
from xec.conditions.dead_list import DeadList
from xec.conditions.intervals import Tag
from xec.conditions.store import ConditionsStore
from xec.errors import (
    ConditionsError,
    ConditionsUnavailable,
    RunAfterLastInterval,
    UnknownList,
    UnknownRun,
    UsageError,
    XecError,
)

MAIN = "from xec.cli import main; main()"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and no databases in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in (CONDITIONS_VARIABLE, UPSTREAM_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(), ["conditions", *arguments])


def words(text: str) -> str:
    """A table's text without its spacing."""
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


def done(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def refused(kind: type[XecError], *arguments: str) -> str:
    result = run(*arguments)
    assert type(result.exception) is kind, result.output + repr(result.exception)
    return str(result.exception)


def imported(text: str, *arguments: str) -> str:
    Path("dead.txt").write_text(text)
    return done("import", "dead.txt", "--why", "a board was replaced", *arguments)


def test_a_list_is_recorded_shown_and_written_again(here: Path) -> None:
    said = imported("17 # weak\n4759\n300\n301\n302\n", "--first-run", "100", "--last-run", "199")
    assert said == "Revision 1 (OFFLINE) in conditions.sqlite: runs 100 to 199, 1 list.\n"
    dead = DeadList.of((17, 300, 301, 302, 4759))
    shown = words(done("show", "150"))
    assert f"list {dead.list_id}" in shown
    assert "dead 5 of 4760: inner 4, outer 1" in shown
    assert "interval runs 100 to 199" in shown
    assert "why a board was replaced" in shown
    assert "source dead.txt" in shown
    assert shown.endswith("channels: 17, 300-302, 4759")
    assert dead.list_id in done("export", "--run", "150", "--out", "again.txt")
    assert "# OFFLINE, run 150, as of revision 1\n" in (here / "again.txt").read_text()
    again = done("import", "again.txt", "--why", "again", "--first-run", "100", "--last-run", "199")
    assert again == "Nothing to do: conditions.sqlite says so already (OFFLINE).\n"


def test_a_table_goes_out_and_into_another_database(here: Path) -> None:
    imported(
        "first_run last_run channels\n100 199 17,300-302\n300 - none\n250 260 unknown\n",
        "--author",
        "night shift",
    )
    imported("first_run last_run channels\n150 150 4\n", "--tag", "OFFLINE")
    intervals = done("show")
    for line in ("OFFLINE as of revision 2", "100 to 149", "151 to 199", "300 and later"):
        assert line in intervals
    assert done("export", "--out", "all.txt") == (
        "all.txt: 4 intervals, OFFLINE as of revision 2.\n"
    )
    done("import", "all.txt", "--why", "copy", "--database", "other.sqlite", "--tag", "ONLINE")
    lines = {}
    for name, tag in (("conditions", Tag.OFFLINE), ("other", Tag.ONLINE)):
        with ConditionsStore(address_of(here / f"{name}.sqlite")) as store:
            timeline, _ = store.timeline(tag)
        lines[name] = [(segment.runs, segment.list_id) for segment in timeline.segments]
    assert lines["conditions"] == lines["other"]
    done("export", "--out", "old.txt", "--as-of", "1")
    assert "100 199 17,300-302" in (here / "old.txt").read_text()


def test_history_says_everything_and_shows_it_as_it_is(here: Path) -> None:
    imported("17\n", "--first-run", "100", "--author", "[red]crew[/red]")
    imported("first_run last_run channels\n5 6 unknown\n1 2 none\n3 3 1\n", "--tag", "ONLINE")
    text = done("history")
    assert "[red]crew[/red]" in text
    assert text.index("ONLINE") < text.index("OFFLINE")
    assert "runs 5 to 6: withdrawn" in text
    assert "a board was replaced (dead.txt)" in text
    assert "ONLINE" not in done("history", "--tag", "OFFLINE").replace("OFFLINE", "")
    only = done("history", "--run", "5")
    assert "OFFLINE" not in only
    assert "withdrawn" in only


def test_diff_of_runs_revisions_tags_ids_and_files(here: Path) -> None:
    imported("17\n18\n", "--first-run", "100")
    imported("17\n19\n20\n21\n", "--first-run", "200")
    imported("17\n", "--first-run", "100", "--tag", "ONLINE")
    (here / "new.txt").write_text("17\n18\n4759\n")
    same = DeadList.of((17, 18)).list_id

    def told(one: str, other: str) -> list[str]:
        rows = done("diff", one, other).splitlines()
        return [" ".join(row.split()) for row in rows if " only " in row or "both " in row]

    assert told("100", "200") == ["100 only 1 18", "200 only 3 19-21", "both 1"]
    assert told("200@1", "200@2") == ["200@1 only 1 18", "200@2 only 3 19-21", "both 1"]
    assert told("OFFLINE:100", "ONLINE:100")[1] == "ONLINE:100 only 0 none"
    assert told("100", "new.txt") == ["100 only 0 none", "new.txt only 1 4759", "both 2"]
    assert done("diff", "100", same) == f"100 and {same} are the same list, {same}.\n"
    assert "revisions are 1 to 3" in refused(ConditionsError, "diff", "100@9", "200")
    assert "does not exist" in refused(ConditionsError, "diff", "100", "absent.txt")
    assert "No dead-channel list" in refused(UnknownList, "diff", "100", "sha256:0000")


def test_unknown_runs_are_errors(here: Path) -> None:
    imported("17\n", "--first-run", "100", "--last-run", "199")
    imported("17\n", "--first-run", "300", "--last-run", "399")
    assert "gap" in refused(UnknownRun, "show", "250")
    assert "after run 399" in refused(RunAfterLastInterval, "show", "400")
    assert "gap" in refused(UnknownRun, "export", "--run", "250", "--out", "x.txt")
    assert "knows no ONLINE list" in refused(ConditionsError, "show", "--tag", "ONLINE")
    assert "knows no ONLINE" in refused(ConditionsError, "export", "--out", "x", "--tag", "ONLINE")
    assert not (here / "x.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dead.txt"], "--first-run is missing"),
        (["dead.txt", "--last-run", "9"], "--first-run is missing"),
        (["dead.txt", "--first-run", "9", "--last-run", "8"], "comes before --first-run 9"),
        (["table.txt", "--first-run", "9"], "holds intervals of its own"),
        ([], "a FILE, or --upstream"),
        (["dead.txt", "--upstream"], "a FILE, or --upstream"),
        (["--upstream"], f"set {UPSTREAM_VARIABLE} to mysql://"),
        (["dead.txt", "--first-run", "9", "--database", "mysql://x/y"], "no database of the kind"),
    ],
)
def test_imports_that_contradict_themselves(here: Path, arguments: list[str], message: str) -> None:
    (here / "dead.txt").write_text("17\n")
    (here / "table.txt").write_text("first_run last_run channels\n1 2 none\n")
    assert message in refused(UsageError, "import", *arguments, "--why", "x")
    assert not (here / "conditions.sqlite").exists()


def test_moments_that_are_none(here: Path) -> None:
    imported("17\n", "--first-run", "100")
    for text in ("yesterday", "2026-01-01", "2026-01-01T00:00:00"):
        assert "neither a revision number nor a time" in refused(
            UsageError, "show", "100", "--as-of", text
        )
    assert "nor for any other" in refused(
        UnknownRun, "show", "100", "--as-of", "2020-01-01T00:00:00Z"
    )
    assert "does not exist" in refused(ConditionsUnavailable, "show", "--database", "absent.sqlite")
    assert "needs reason" in refused(
        ConditionsError, "import", "dead.txt", "--why", " ", "--first-run", "1"
    )


def test_the_experiments_lists_go_to_postgresql(
    postgresql: PostgreSQL, mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment(mariadb)
    experiment.fill()
    monkeypatch.setenv(CONDITIONS_VARIABLE, postgresql.new_database())
    monkeypatch.setenv(UPSTREAM_VARIABLE, mariadb.url(experiment.name))
    said = done("import", "--upstream", "--why", "first import")
    assert "10 runs with a list, 3 lists" in said
    assert "4 runs lead to no list" in said
    assert "Revision 1 (OFFLINE) in postgresql://xec@127.0.0.1" in said
    origin = f"source mysql://reader@127.0.0.1:{mariadb.port}/{experiment.name}"
    assert origin in words(done("show", "18"))
    assert "Nothing to do" in done("import", "--upstream", "--why", "again")
    assert "run 15" in refused(UnknownRun, "show", "15")
    limited = done("import", "--upstream", "--why", "x", "--first-run", "14", "--last-run", "14")
    assert "1 runs with a list" in limited
    for text in (said, limited, done("history")):
        assert PASSWORD not in text


def test_a_password_in_an_argument_is_refused(here: Path) -> None:
    for option in ("--database", "--upstream-database"):
        kind = "postgresql" if option == "--database" else "mysql"
        text = refused(
            UsageError, "import", "--why", "x", "--upstream", option, f"{kind}://a:hunter2@db/meg"
        )
        assert option in text
        assert "hunter2" not in text


def test_known_errors_are_a_sentence_and_an_exit_code(here: Path) -> None:
    environment = {**os.environ, CONDITIONS_VARIABLE: "postgresql://a:hunter2@127.0.0.1:1/meg"}
    told = subprocess.run(
        [sys.executable, "-c", MAIN, "conditions", "show", "5"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert told.returncode == 4
    assert told.stdout == ""
    assert told.stderr == (
        "xec: The conditions database postgresql://a@127.0.0.1:1/meg cannot be reached: "
        "Connection refused.\n"
    )


def test_without_its_extra_it_says_what_to_install() -> None:
    """Server and client are installed without it; a list in a file is all they need then."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('sqlalchemy', 'alembic', 'psycopg')));"
        "import xec.conditions.dead_list, xec_server.app, xec_client;" + MAIN
    )
    told = subprocess.run(
        [sys.executable, "-c", code, "conditions", "show", "5"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 2, told.stderr
    assert "xec conditions needs sqlalchemy, alembic, psycopg" in told.stderr
    assert "pip install 'xec-reconstruct[conditions]'" in told.stderr


@pytest.mark.parametrize("command", ["import", "show", "diff", "history", "export"])
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    assert f"Example: xec conditions {command}" in done(command, "--help")


def test_the_tag_is_written_as_one_likes(tmp_path: Path) -> None:
    """`xec serve --tag online` is: both commands take either."""
    for tag in ("online", "ONLINE"):
        refused = CliRunner().invoke(
            build_app(),
            ["conditions", "show", "5", "--tag", tag, "--database", str(tmp_path / "none.sqlite")],
        )
        assert isinstance(refused.exception, ConditionsUnavailable), refused.output
