"""Users of a reconstruction server for locust: data acquisition, analysts, reprocessing.

Run from the root of the repository, with a server on the given address:

    locust -f loadtest/locustfile.py --headless -H 127.0.0.1:50051 -u 6 -r 6 -t 30s --html load.html

See docs/loadtest.md.
"""

from __future__ import annotations

import gc
import logging
import random
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

# Before any channel: gRPC's core waits in C, which would hold up all users but one.
import grpc.experimental.gevent
from locust import User, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import WorkerRunner

from xec.errors import XecError
from xec.event import Event
from xec_client import Client
from xec_client.errors import ClientError
from xec_client.retry import NO_RETRY
from xec_loadtest.arrivals import Pacer, poisson_gaps
from xec_loadtest.events import SAMPLE, load_events
from xec_loadtest.thresholds import Row, Thresholds, checks
from xec_loadtest.unloaded import median_latency

grpc.experimental.gevent.init_gevent()

BATCH: Final = 64
SINGLE, STREAM, BATCHES = "Reconstruct", "ReconstructStream", f"ReconstructBatch of {BATCH}"
LOG: Final = logging.getLogger("xec.loadtest")
UNLOADED: list[float] = []
"""Milliseconds, one for each run of this process."""


def add_options(parser: LocustArgumentParser) -> None:
    """What our users can be told; each also by a variable of the environment."""
    group = parser.add_argument_group("XEC Reconstruct")

    def add(name: str, default: Any, text: str) -> None:
        variable = f"XEC_LOAD_{name.upper().replace('-', '_')}"
        kind = type(default)
        group.add_argument(f"--{name}", type=kind, default=default, env_var=variable, help=text)

    add("events", str(SAMPLE), "ROOT file with events to send.")
    add("daq-rate", 30.0, "Events/s of each data acquisition, Poisson.")
    add("single-rate", 5.0, "Requests/s of each analyst, Poisson.")
    add("stream-seconds", 10.0, "A data acquisition opens a new stream after so long.")
    add("batch-pause", 0.5, "Seconds between two batches of a reprocessing job.")
    add("most-failures", 0.01, "Share of the requests that may fail.")
    add("most-p50", 5.0, "Online p50, in medians of the unloaded server.")
    add("most-p99", 25.0, "Online p99, in medians of the unloaded server.")


def prepare(environment: Environment, **_: Any) -> None:
    """Read the events, once for all users of this process, and measure the unloaded server."""
    options = environment.parsed_options
    assert options is not None
    try:
        Sender.sample = load_events(options.events)
        # The reader's threads are greenlets here, which cannot be joined when the process ends.
        gc.collect()
        if options.headless:
            measure_unloaded(environment)
    except XecError as error:
        LOG.error(error)
        sys.exit(error.exit_code)


def prepare_again(environment: Environment, **_: Any) -> None:
    """Measure the server that was named on locust's page."""
    options = environment.parsed_options
    assert options is not None
    if not options.headless:
        try:
            measure_unloaded(environment)
        except XecError as error:
            LOG.error(error)


def measure_unloaded(environment: Environment) -> None:
    """What latencies are compared with, before the users come; a worker leaves it to the master.

    Raises:
        XecError: there is no address, or no server.
    """
    if not isinstance(environment.runner, WorkerRunner):
        with Client(environment.host or "", retry=NO_RETRY) as client:
            UNLOADED.append(1e3 * median_latency(client, Sender.sample))


class Sender(User):
    """Somebody with a connection of their own. Latency counts from the intended time."""

    abstract = True
    sample: list[Event]

    def on_start(self) -> None:
        """Connect."""
        self.options = self.environment.parsed_options
        self.client = Client(self.environment.host or "", retry=NO_RETRY)

    def on_stop(self) -> None:
        """Disconnect."""
        self.client.close()

    def report(self, name: str, due: float, error: ClientError | None = None) -> None:
        """One request has ended that was due then."""
        self.environment.events.request.fire(
            request_type="grpc",
            name=name,
            response_time=1e3 * (time.perf_counter() - due),
            response_length=0,
            exception=error,
            context={},
        )


class Analyst(Sender):
    """Sends single events, online, at random times."""

    weight = 4

    def on_start(self) -> None:
        """Begin to count the time."""
        super().on_start()
        self.pacer = Pacer(poisson_gaps(self.options.single_rate), time.perf_counter)

    def wait_time(self) -> float:
        """Until the next event is due, which does not depend on the last answer."""
        return self.pacer.next_wait()

    @task
    def reconstruct(self) -> None:
        """One event."""
        error = None
        try:
            self.client.reconstruct(random.choice(self.sample), ())
        except ClientError as caught:
            error = caught
        self.report(SINGLE, self.pacer.due, error)


class DataAcquisition(Sender):
    """Sends events through a stream, online, as triggers come."""

    wait_time = constant(0.5)

    @task
    def take_data(self) -> None:
        """One stream."""
        due: list[float] = []
        try:
            for streamed in self.client.stream(self.triggers(due), ()):
                self.report(STREAM, due[streamed.place], streamed.error)
        except ClientError as error:
            for place in [lost.place for lost in error.unanswered] or [-1]:
                self.report(STREAM, due[place] if due else time.perf_counter(), error)

    def triggers(self, due: list[float]) -> Iterator[Event]:
        """Events at the times of a Poisson process; the times go to `due`."""
        pacer = Pacer(poisson_gaps(self.options.daq_rate), time.perf_counter)
        end = pacer.due + self.options.stream_seconds
        while pacer.due < end:
            time.sleep(pacer.next_wait())
            due.append(pacer.due)
            yield random.choice(self.sample)


class Reprocessing(Sender):
    """Sends batches, offline, one after the other."""

    def on_start(self) -> None:
        """Collect a batch."""
        super().on_start()
        self.batch = random.choices(self.sample, k=BATCH)

    def wait_time(self) -> float:
        """A pause."""
        return float(self.options.batch_pause)

    @task
    def reconstruct_batch(self) -> None:
        """One batch."""
        start, error = time.perf_counter(), None
        try:
            self.client.reconstruct_batch(self.batch, ())
        except ClientError as caught:
            error = caught
        self.report(BATCHES, start, error)


def judge(environment: Environment, **_: Any) -> None:
    """Compare with the thresholds; the exit code is 1 where one is broken."""
    if isinstance(environment.runner, WorkerRunner):
        return
    options = environment.parsed_options
    assert options is not None
    rows = [
        Row(
            entry.name,
            entry.name != BATCHES,
            entry.num_requests,
            entry.num_failures,
            entry.get_response_time_percentile(0.5),
            entry.get_response_time_percentile(0.99),
        )
        for entry in environment.stats.entries.values()
    ]
    thresholds = Thresholds(options.most_failures, options.most_p50, options.most_p99)
    found = list(checks(rows, UNLOADED[-1] if UNLOADED else float("nan"), thresholds))
    for check in found:
        LOG.log(
            logging.INFO if check.passed else logging.ERROR,
            "%s %s",
            "passed" if check.passed else "BROKEN",
            check.sentence,
        )
    environment.process_exit_code = 0 if all(check.passed for check in found) else 1


for hook, listener in (
    (events.init_command_line_parser, add_options),
    (events.init, prepare),
    (events.test_start, prepare_again),
    (events.quitting, judge),
):
    hook.add_listener(listener)  # type: ignore[no-untyped-call]
