"""How a data acquisition client does, as a line for people and as metrics for Prometheus.

The law of the spool holds for both: offered + carried = results + rejected + damaged + spooled +
in memory + gaps; what it leaves over is shown, and is a defect.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from xec_client.daq.spool.accounting import Accounting

_PREFIX = "xec_daq"


@dataclass(frozen=True, slots=True)
class State:
    """Everything worth knowing at one moment.

    Args:
        accounting: of the spool, since this process began.
        written: events in the part that is being written; they count as spooled.
        repeated: events of the source that were known already.
        parts: published by this process.
        models: changes of model, dead list or software.
        run: that is being forwarded, or None.
        away: why the server does not answer, or empty.
        away_seconds: for how long.
        output: why results cannot be written, or empty.
        disk: why the spool cannot be written, or empty.
        held: runs that wait until the server knows them.
    """

    accounting: Accounting
    written: int = 0
    repeated: int = 0
    parts: int = 0
    models: int = 0
    run: int | None = None
    away: str = ""
    away_seconds: float = 0.0
    output: str = ""
    disk: str = ""
    held: tuple[int, ...] = ()

    @property
    def left(self) -> int:
        """Events without a durable result that are not on record as lost."""
        return self.accounting.spooled + self.accounting.in_memory

    @property
    def line(self) -> str:
        """One line."""
        return "; ".join([self._counts, *self._troubles])

    @property
    def _counts(self) -> str:
        a = self.accounting
        run = "" if self.run is None else f"run {self.run}: "
        # Rounded down: 100 % means all.
        percent = int(1000 * a.analysed) / 10
        return (
            f"{run}analysed {percent:.1f} % of {a.offered + a.carried} events: {a.results} results "
            f"in {self.parts} parts, {a.rejected} rejected, {a.damaged} damaged, {self.left} "
            f"waiting ({self.written} of them answered), {sum(a.gaps.values())} not kept"
        )

    @property
    def _troubles(self) -> Iterator[str]:
        if self.accounting.unaccounted:
            yield f"{self.accounting.unaccounted} NOT ACCOUNTED FOR, a defect to report"
        if self.repeated:
            yield f"{self.repeated} were known already"
        if self.models:
            yield f"the server changed its model {self.models} times"
        for gap, count in sorted(self.accounting.gaps.items()):
            if count:
                yield f"{count} not kept as {gap.name.lower().replace('_', ' ')}"
        if self.held:
            yield f"events of run {', '.join(map(str, self.held))} wait until the server knows it"
        if self.away:
            yield f"no answer for {self.away_seconds:.0f} s: {self.away}"
        if self.output:
            yield f"results cannot be written: {self.output}"
        if self.disk:
            yield f"the spool's disk refuses: {self.disk}"

    @property
    def metrics(self) -> str:
        """Prometheus's text format."""
        return "".join(f"{line}\n" for line in self._metric_lines())

    def _metric_lines(self) -> Iterator[str]:
        a = self.accounting
        states = {
            "offered": a.offered,
            "carried": a.carried,
            "result": a.results,
            "rejected": a.rejected,
            "damaged": a.damaged,
            "repeated": self.repeated,
        }
        yield f"# HELP {_PREFIX}_events_total Events since the start, by what became of them."
        yield f"# TYPE {_PREFIX}_events_total counter"
        for name, count in states.items():
            yield f'{_PREFIX}_events_total{{state="{name}"}} {count}'
        yield f"# HELP {_PREFIX}_gaps_total Events that were not kept, by reason."
        yield f"# TYPE {_PREFIX}_gaps_total counter"
        for reason, count in sorted(a.gaps.items()):
            yield f'{_PREFIX}_gaps_total{{reason="{reason.name.lower()}"}} {count}'
        gauges = {
            "waiting": ("Events that wait in spool and memory.", self.left),
            "unaccounted": ("What the law of accounting leaves over; not 0 is a defect.", _u(a)),
            "analysed_ratio": ("Results per event.", a.analysed),
            "server_up": ("Whether the server answers.", int(not self.away)),
            "output_up": ("Whether results can be written.", int(not self.output)),
            "disk_up": ("Whether the spool can be written.", int(not self.disk)),
            "held_runs": ("Runs that the server does not know yet.", len(self.held)),
            "parts": ("Parts published since the start.", self.parts),
            "model_changes": ("Changes of the answers' provenance.", self.models),
        }
        for name, (meaning, value) in gauges.items():
            yield f"# HELP {_PREFIX}_{name} {meaning}"
            yield f"# TYPE {_PREFIX}_{name} gauge"
            yield f"{_PREFIX}_{name} {value:g}"


def _u(accounting: Accounting) -> int:
    return accounting.unaccounted


def write_metrics(path: Path, state: State) -> None:
    """Replace a file for the textfile collector of Prometheus's node exporter.

    A disk that refuses costs the metrics, not the events.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_text(state.metrics, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
