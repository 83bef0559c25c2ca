"""`xec evaluate`: the report's files, and what it says where something lacks."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import build_stub_model, write_model
from support_evaluate import Run, command_line, simulate, whole, without_truth, write_events
from xec.conditions.dead_list import DeadList, write_dead_list
from xec.detector.geometry import parametric

EVENTS = 130
VOID = {"meta", "img", "br", "hr", "link"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("evaluate") / "model_repository"
    write_model(build_stub_model({"geometry_hash": parametric().hash}), repository)
    return repository / "reconstruct"


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("events") / "simulated.root", EVENTS, 12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "report"


@pytest.fixture
def xec_evaluate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, folder: Path
) -> Run:
    """The command with the model, the report's folder and the network alone."""
    call = command_line(monkeypatch, capsys)

    def evaluate(*arguments: object) -> Any:
        return call("--model", model, "--report", folder, "--no-baselines", *arguments)

    return evaluate


def content_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return content


class Page(HTMLParser):
    """Tags that were opened and closed, addresses, and text."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.source = (folder / "report.html").read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def figures(page: Page) -> list[str]:
    return re.findall(r'<figure id="([^"]+)"', page.source)


def test_the_page_needs_nothing_beside_itself(
    xec_evaluate: Run, simulated: Path, folder: Path
) -> None:
    chosen = ("--baselines", "--no-local-fit")
    assert xec_evaluate("--data", simulated, "--mode", "pseudo", *chosen).code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json"]
    page = Page(folder)
    assert page.open == []
    assert any(name.startswith("resolution") for name in figures(page))
    assert all(one.startswith("data:image/svg+xml;base64,") for one in page.addresses)
    assert "url(" not in page.source
    assert "@import" not in page.source
    assert "<script" not in page.source
    assert 'name="viewport"' in page.source
    assert "@media print" in page.source
    for address in page.addresses:
        svg = base64.b64decode(address.partition(",")[2]).decode()
        assert re.findall(r'href="(?!#)([^"]*)"', svg) == []
        assert "synthetic events" in svg  # as a comment beside the drawn glyphs


def test_page_and_json_tell_the_same(xec_evaluate: Run, simulated: Path, folder: Path) -> None:
    done = xec_evaluate("--data", simulated, "--mode", "pseudo", "--events", 30)
    page, content = Page(folder), content_of(folder)
    row = content["filling"][0]
    assert row["method"] == "this network"
    assert f"{row['mae']:.1f}"[:4] in page.text
    for quantity in ("energy", "u", "w (depth)", "θ"):
        assert quantity in page.text
    for note in content["notes"]:
        assert note in page.text
    assert "synthetic: simulated events, not data" in page.text
    worst = content["worst"][0]
    assert f"--event {worst['event']}" in page.text
    assert "30 synthetic events" in done.out


def test_every_method_is_timed(xec_evaluate: Run, simulated: Path, folder: Path) -> None:
    chosen = ("--events", 15, "--baselines")
    xec_evaluate("--data", simulated, "--mode", "artificial", *chosen)
    cost = {row["method"]: row for row in content_of(folder)["cost"]}
    assert cost.keys() == {
        "this network",
        "neighbour average",
        "solid angle",
        "local fit",
        "conventional",
    }
    for row in cost.values():
        assert row["events_per_second"] == pytest.approx(15 / row["seconds"])


def test_without_baselines_only_the_network_is_there(
    xec_evaluate: Run, simulated: Path, folder: Path
) -> None:
    chosen = ("--events", 30)
    assert xec_evaluate("--data", simulated, "--mode", "pseudo", *chosen).code == 0
    content = content_of(folder)
    for part in ("filling", "resolution", "distances", "cost"):
        assert {row["method"] for row in content[part]} == {"this network"}


@pytest.mark.parametrize(
    ("pattern", "dead"),
    [("singles", 88), ("boards", 80), ("row", 44), ("five-percent", 238), ("typical", 88)],
)
def test_drawn_lists_are_applied(
    xec_evaluate: Run, simulated: Path, folder: Path, pattern: str, dead: int
) -> None:
    chosen = ("--dead-pattern", pattern, "--events", 10)
    assert xec_evaluate("--data", simulated, "--mode", "pseudo", *chosen).code == 0
    content = content_of(folder)
    assert content["masked_per_event"] == dead
    assert content["events_read"] == content["events_used"] == 10


def test_a_list_of_ones_own_is_applied(
    xec_evaluate: Run, simulated: Path, folder: Path, tmp_path: Path
) -> None:
    write_dead_list(tmp_path / "dead.txt", DeadList.of([1, 44, 4700]))
    chosen = ("--dead-list", tmp_path / "dead.txt", "--events", 10)
    assert xec_evaluate("--data", simulated, "--mode", "pseudo", *chosen).code == 0
    content = content_of(folder)
    assert content["masked_per_event"] == 3
    assert "dead.txt" in content["masking"]
    # In the other modes they are dead as well, and not asked for.
    assert xec_evaluate("--data", simulated, "--mode", "artificial", *chosen).code == 0
    assert content_of(folder)["masked_per_event"] == 15


def test_front_uses_the_events_that_serve_it(
    xec_evaluate: Run, simulated: Path, folder: Path
) -> None:
    assert xec_evaluate("--data", simulated, "--mode", "front").code == 0
    content = content_of(folder)
    assert 0 < content["events_used"] < EVENTS
    assert content["masked_per_event"] == 1
    assert any("do not serve this mode" in note for note in content["notes"])
    assert {row["group"] for row in content["filling"] if row["grouping"] == "face"} == {"inner"}


def test_too_few_events_make_no_empty_pictures(
    xec_evaluate: Run, simulated: Path, folder: Path
) -> None:
    xec_evaluate("--data", simulated, "--mode", "pseudo", "--events", 40)
    some, content = figures(Page(folder)), content_of(folder)
    assert content["resolution"]
    assert content["bins"] == []
    assert any("There are not two bins of 50 events" in note for note in content["notes"])
    assert not any(name.startswith("resolution") for name in some)
    xec_evaluate("--data", simulated, "--mode", "pseudo", "--events", 5)
    page, content = Page(folder), content_of(folder)
    assert content["resolution"] == []
    assert any("5 events with truth are fewer than the 20" in n for n in content["notes"])
    assert "The gamma" not in page.text
    assert "errors" not in figures(page)


@pytest.fixture
def data(simulated: Path, tmp_path: Path) -> Path:
    """The simulated events as data: no truth, and nobody knows what dead sensors would read."""
    chunk = whole(simulated)
    return write_events(tmp_path / "data.root", without_truth(chunk.events), chunk.dead)


@pytest.mark.parametrize("mode", ["artificial", "pseudo"])
def test_data_without_truth_says_so(xec_evaluate: Run, data: Path, folder: Path, mode: str) -> None:
    done = xec_evaluate("--data", data, "--mode", mode, "--events", 15)
    assert done.code == 0
    page, content = Page(folder), content_of(folder)
    assert content["synthetic"] is False
    assert content["resolution"] == []
    assert any("These files hold no truth" in note for note in content["notes"])
    assert "no truth" in page.text
    assert "no truth" in done.out
    assert "synthetic" not in page.text
    assert content["filling"][0]["sensors"] >= 15 * 15


def test_patterns_of_names_are_expanded(
    xec_evaluate: Run, tmp_path: Path, data: Path, folder: Path
) -> None:
    for seed, name in enumerate(("b.root", "a.root")):
        simulate(tmp_path / name, 20, seed)
    pattern = tmp_path / "[ab].root"
    done = xec_evaluate("--data", pattern, "--data", data, "--mode", "artificial", "--events", 50)
    assert done.code == 0
    content = content_of(folder)
    read = [(Path(file["path"]).name, file["events"]) for file in content["data"]]
    assert read == [("a.root", 20), ("b.root", 20), ("data.root", EVENTS)]
    assert content["events_read"] == 50
    assert any("Some files hold no truth" in note for note in content["notes"])
    assert content["resolution"][0]["events"] == 40


def test_names_of_files_are_text_and_not_markup(
    xec_evaluate: Run, simulated: Path, tmp_path: Path, folder: Path
) -> None:
    path = tmp_path / "a <b>&.root"
    path.write_bytes(simulated.read_bytes())
    assert xec_evaluate("--data", path, "--mode", "pseudo", "--events", 5).code == 0
    page = Page(folder)
    assert page.open == []
    assert "a <b>&.root" in page.text
    assert "<b>" not in page.source


def test_quiet_prints_nothing(xec_evaluate: Run, simulated: Path, folder: Path) -> None:
    done = xec_evaluate("--data", simulated, "--mode", "pseudo", "--events", 5, "--quiet")
    assert (done.code, done.out, done.error) == (0, "", "")
    assert (folder / "report.html").exists()


def test_equal_seeds_give_equal_reports(xec_evaluate: Run, simulated: Path, folder: Path) -> None:
    def figures_of(seed: int) -> dict[str, Any]:
        arguments = ("--mode", "artificial", "--events", 15, "--seed", seed)
        assert xec_evaluate("--data", simulated, *arguments).code == 0
        return {name: part for name, part in content_of(folder).items() if name != "cost"}

    first = figures_of(3)
    assert figures_of(3) == first
    assert figures_of(4)["filling"] != first["filling"]
    assert np.isfinite(first["filling"][0]["mae"])
