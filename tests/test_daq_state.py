"""The line and the metrics of `xec daq`: counts, troubles, and what the law leaves over."""

from __future__ import annotations

import re
from pathlib import Path

from xec_client.daq.breaker import BackOff, Breaker
from xec_client.daq.spool.accounting import Accounting
from xec_client.daq.spool.gap_table import GapReason
from xec_client.daq.state import State, write_metrics


def accounting(**changes: int) -> Accounting:
    gaps = {GapReason.SPOOL_FULL: 3, GapReason.LOST_IN_MEMORY: 0}
    counts = {
        "offered": 2000,
        "carried": 10,
        "results": 1990,
        "rejected": 4,
        "damaged": 1,
        "spooled": 7,
        "in_memory": 5,
    }
    return Accounting(gaps=gaps, **{**counts, **changes})


def test_the_line_says_all_that_matters() -> None:
    state = State(accounting(), written=2, parts=3, run=407)
    assert state.line == (
        "run 407: analysed 99.0 % of 2010 events: 1990 results in 3 parts, 4 rejected, 1 damaged, "
        "12 waiting (2 of them answered), 3 not kept; 3 not kept as spool full"
    )
    state = State(accounting(), away="gone", away_seconds=61.2, output="full", held=(5, 6))
    for words in ("no answer for 61 s: gone", "written: full", "run 5, 6 wait"):
        assert words in state.line


def test_a_hundred_percent_means_all() -> None:
    nearly = accounting(offered=1999, results=1999, carried=1, rejected=1, spooled=0, in_memory=0)
    assert "analysed 99.9 %" in State(nearly).line


def test_what_the_law_leaves_over_is_shouted() -> None:
    assert "ACCOUNTED" not in State(accounting()).line
    broken = State(accounting(results=1989))
    assert "1 NOT ACCOUNTED FOR" in broken.line
    assert "xec_daq_unaccounted 1\n" in broken.metrics


def test_metrics_are_in_prometheus_format(tmp_path: Path) -> None:
    path = tmp_path / "xec.prom"
    write_metrics(path, State(accounting(), away="gone"))
    for line in path.read_text().splitlines():
        assert re.fullmatch(
            r'# (HELP|TYPE) xec_daq_\w+ .+|xec_daq_\w+(\{\w+="\w+"\})? [\d.e+-]+', line
        ), line
    assert "xec_daq_server_up 0\n" in path.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["xec.prom"]
    write_metrics(tmp_path / "nowhere" / "xec.prom", State(accounting()))  # costs nothing


def test_waits_grow_to_their_limit_and_end_with_an_answer() -> None:
    breaker = Breaker(BackOff(0.1, 2, 1.0, 0.0, 3))
    waits = []
    for number in range(6):
        breaker.failed("away", 100.0 + number)
        waits.append(round(breaker.wait(100.0 + number), 6))
        assert breaker.is_open == (number >= 2)
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert breaker.since == 100.0
    breaker.failed("full", 200.0, retry_after=7.0)
    assert breaker.wait(200.0) == 8.0
    breaker.succeeded()
    assert (breaker.wait(0.0), breaker.is_open, breaker.reason) == (0.0, False, "")
