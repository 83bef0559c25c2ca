"""The dashboard, the rules and the table of metrics name what a real server shows, and no more.

Prometheus's own `promtool` checks the expressions and runs the unit tests of the alerts. It comes
with Debian's package `prometheus`; root gets it by .ci/databases.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import random_events
from support_telemetry import Page, call_in_every_way, measured, scrape

ROOT = Path(__file__).resolve().parents[1]
RULES = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "xec.json"
TARGET_LABELS = {"job", "instance", "le"}
"""Those that Prometheus adds, and the one of buckets."""


@pytest.fixture(scope="module")
def page(stub_repository: Path) -> Page:
    """The metrics of a server that has handled calls of every kind."""

    async def read() -> Page:
        async with measured(stub_repository) as service:
            await call_in_every_way(service, random_events(3))
            return await scrape(service.server)

    return asyncio.run(read())


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run([ROOT / ".ci" / "databases"], check=True, capture_output=True)
        found = shutil.which("promtool")
    if found is None:
        reason = "promtool is not installed (apt-get install prometheus)"
        if os.environ.get("XEC_REQUIRE_DATABASES"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def rules(name: str) -> list[dict[str, Any]]:
    content = yaml.safe_load((RULES / name).read_text(encoding="utf-8"))
    return [rule for group in content["groups"] for rule in group["rules"]]


RECORDED = {rule["record"]: rule["expr"] for rule in rules("recording.yml")}


def panels() -> list[dict[str, Any]]:
    content = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [panel for panel in content["panels"] if panel.get("targets")]


def expressions() -> Iterator[tuple[str, str]]:
    """Each expression of the files, and where it stands."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for rule in rules("alerts.yml"):
        yield rule["alert"], rule["expr"]
    yield from RECORDED.items()


SELECTOR = re.compile(r"(?<![\w:])((?:xec|process)[\w:]*|up)(\{[^}]*\})?")
BY = re.compile(r"by \(([^)]*)\)")


def unknown(expression: str, page: Page) -> set[str]:
    """Metrics, labels and values of labels in an expression that the page does not have."""
    wrong: set[str] = set()
    labels = set(TARGET_LABELS)
    bare = re.sub(r"\"[^\"]*\"", '""', expression)
    for name, selector in SELECTOR.findall(expression):
        if name in RECORDED:
            labels |= {label for found in BY.findall(RECORDED[name]) for label in words(found)}
        elif name in page.names:
            labels |= page.labels(name)
            wrong |= {
                f"{name}{{{label}={value}}}"
                for label, operator, value in re.findall(r'(\w+)(=~|=|!=)"([^"]*)"', selector)
                if label not in TARGET_LABELS and not has(page, name, label, operator, value)
            }
        elif name != "up":
            wrong.add(name)
    used = {label for found in BY.findall(bare) for label in words(found)}
    used |= set(re.findall(r"(\w+)(?:=~|!=|=)\"", bare))
    return wrong | (used - labels)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def has(page: Page, name: str, label: str, operator: str, value: str) -> bool:
    if operator != "=":
        return label in page.labels(name)
    # A fall-back answers in another test.
    return label == "fallback" or bool(page.of(name, **{label: value}))


def test_every_expression_names_what_is_exported(page: Page) -> None:
    found = {where: wrong for where, text in expressions() if (wrong := unknown(text, page))}
    assert found == {}
    assert len(list(expressions())) > 60


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("rate(xec_call_total[5m])", {"xec_call_total"}),
        ("sum by (mehtod) (rate(xec_calls_total[5m]))", {"mehtod"}),
        ('xec_events_total{fate="lost"}', {"xec_events_total{fate=lost}"}),
        ('xec_events_total{lane="online"}', {"xec_events_total{lane=online}", "lane"}),
        ("sum by (face) (xec:queue:fullness)", {"face"}),
    ],
)
def test_a_name_that_is_not_exported_would_be_seen(
    page: Page, expression: str, wrong: set[str]
) -> None:
    assert unknown(expression, page) == wrong


def test_everything_that_is_exported_can_be_looked_at(page: Page) -> None:
    used = {name for _, text in expressions() for name, _ in SELECTOR.findall(text)}
    base = {re.sub(r"_(bucket|count|sum)$", "", name) for name in used}
    shown = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in page.names}
    shown = {name for name in shown if f"{name}_total" not in page.names}
    left = {"process_start_time_seconds", "process_virtual_memory_bytes"}
    assert shown - base == left | {"xec_conditions_away_since_seconds"}


def check(promtool: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [promtool, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_rules_are_rules(promtool: str) -> None:
    done = check(promtool, "check", "rules", RULES / "recording.yml", RULES / "alerts.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_expressions_of_the_dashboard_are_promql(promtool: str, tmp_path: Path) -> None:
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    assert check_expressions(promtool, tmp_path, found) == 0
    assert check_expressions(promtool, tmp_path, [*found, "sum by (job (xec_serving)"]) != 0


def check_expressions(promtool: str, folder: Path, found: list[str]) -> int:
    plain = [
        text.replace("$__rate_interval", "1m").replace("$job", "xec").replace("$instance", ".+")
        for text in found
    ]
    listed = [{"record": f"panel:{i}", "expr": text} for i, text in enumerate(plain)]
    file = folder / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": listed}]}))
    return check(promtool, "check", "rules", file).returncode


def test_every_alert_fires_and_is_quiet_as_it_should(promtool: str) -> None:
    done = check(promtool, "test", "rules", RULES / "alerts_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    tests = yaml.safe_load((RULES / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in rules("alerts.yml")}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names


@pytest.mark.parametrize("spoiled", ["({}) and on () (vector(0) > 1)", "({}) or vector(1)"])
def test_alerts_that_never_or_always_fire_would_be_seen(
    promtool: str, tmp_path: Path, spoiled: str
) -> None:
    shutil.copytree(RULES, tmp_path, dirs_exist_ok=True)
    content = yaml.safe_load((tmp_path / "alerts.yml").read_text(encoding="utf-8"))
    listed = [rule for group in content["groups"] for rule in group["rules"]]
    for rule in listed:
        rule["expr"] = spoiled.format(rule["expr"])
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(content))
    done = check(promtool, "test", "rules", tmp_path / "alerts_test.yml")
    assert done.returncode != 0
    failed = set(re.findall(r"alertname: (\w+)", done.stdout + done.stderr))
    assert failed == {rule["alert"] for rule in listed}


def test_the_table_of_metrics_is_complete(page: Page) -> None:
    text = (ROOT / "docs" / "telemetry.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| ([^|]*) \|", text, re.MULTILINE))
    families = {
        re.sub(r"_(bucket|count|sum|created)$", "", sample.name): set(sample.labels) - {"le"}
        for sample in page.samples
        if not sample.name.endswith("_created") and not sample.name.startswith("process_")
    }
    told = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows.items()}
    assert told == families


def test_alerts_are_explained() -> None:
    text = (ROOT / "docs" / "telemetry.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(Xec\w+)` \|", text, re.MULTILINE)) == {
        rule["alert"] for rule in rules("alerts.yml")
    }


def test_the_dashboard_is_laid_out() -> None:
    content = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert len({panel["id"] for panel in content["panels"]}) == len(content["panels"])
    cells: set[tuple[int, int]] = set()
    for panel in content["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        cells |= own
    variables = {variable["name"] for variable in content["templating"]["list"]}
    used = set(re.findall(r"\$(\w+)", " ".join(t["expr"] for p in panels() for t in p["targets"])))
    assert used - {"__rate_interval"} <= variables
