"""A source, a spool and a consumer in one process, which is killed at a random moment, many times.

Run: python tests/spool_lives.py FOLDER KILLS SEED [DEFECT]; prints the checker's verdict.

The source writes each event's digest into its own ledger before it hands the event over; when it
comes back it hands the last one over again, for it does not know whether that had been done. The
sink keeps each result once by (run, event). SIGKILL leaves the page cache, so nothing is synced.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from support_spool import digest_of, payload_of
from xec_client.daq.spool.check import Verdict, check, read_ledger
from xec_client.daq.spool.contents import read_contents
from xec_client.daq.spool.ids import EventId
from xec_client.daq.spool.settings import SpoolSettings, SyncPolicy
from xec_client.daq.spool.spool import Spool
from xec_client.daq.spool.store import Spooled

EVENTS_PER_RUN = 400
LONGEST_LIFE = 0.15  # s


class Sink:
    """Results, each once, as lines ``run event digest``."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)
        whole = path.read_bytes().rpartition(b"\n")
        os.ftruncate(self.fd, len(whole[0]) + len(whole[1]))
        os.lseek(self.fd, 0, os.SEEK_END)
        self.seen = set(read_ledger(path))

    def keep(self, events: list[Spooled]) -> None:
        fresh = {e.id: e.payload for e in events if e.id not in self.seen}
        lines = [f"{i.run} {i.event} {digest_of(payload)}\n" for i, payload in fresh.items()]
        os.write(self.fd, "".join(lines).encode())
        self.seen.update(fresh)


def last_of(ledger: Path) -> EventId:
    if not ledger.exists():
        return EventId(1, 0)
    with ledger.open("rb") as file:
        file.seek(max(ledger.stat().st_size - 300, 0))
        lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
    if not lines:
        return EventId(1, 0)
    run, event, _ = lines[-1].split()
    return EventId(int(run), int(event))


def produce(spool: Spool, ledger: Path, random: Random) -> None:
    """Hand events over, in bursts, until the end of the process."""
    fd = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    run, event = last_of(ledger)
    if event:
        spool.offer(EventId(run, event), payload_of(EventId(run, event)))
    while True:
        for _ in range(random.randrange(1, 16)):
            run, event = (run, event + 1) if event < EVENTS_PER_RUN else (run + 1, 1)
            payload = payload_of(EventId(run, event))
            os.write(fd, f"{run} {event} {digest_of(payload)}\n".encode())
            spool.offer(EventId(run, event), payload)
        time.sleep(random.random() * 0.006)


def consume(spool: Spool, sink: Sink, random: Random, defect: str) -> bool:
    """One turn of the consumer; False: there was nothing."""
    taken = spool.take(16, 0.02)
    bad = [e for e in taken if e.id.event % 23 == 0]
    good = [e for e in taken if e.id.event % 23]
    if defect == "acknowledged early":
        spool.acknowledge(e.id for e in good)
        time.sleep(0.02)
    sink.keep(good)
    spool.acknowledge(e.id for e in good)
    spool.reject((e.id for e in bad), "every 23rd")
    if random.random() < 0.05:
        spool.rewind()
    if random.random() < 0.1:
        time.sleep(random.random() * 0.01)
    return bool(taken)


def open_spool(folder: Path) -> Spool:
    settings = SpoolSettings(
        max_bytes=96 << 10,
        segment_bytes=8 << 10,
        memory_events=64,
        sync=SyncPolicy(events=8, seconds=0.01),
        gap_slots=512,
        retry_seconds=0.005,
        handover=folder,
    )
    return Spool(folder / "spool", settings)


def end_process(failure: threading.ExceptHookArgs) -> None:
    """A thread that failed ends the life, which the test then sees."""
    sys.stderr.write(f"{failure}\n")
    os._exit(1)


def live(folder: Path, seed: int, defect: str) -> None:
    """A life that only a kill ends."""
    random = Random(seed)
    if defect == "hand-over not noted":
        from xec_client.daq.spool.handover import Handover

        Handover.note = lambda *_: None  # type: ignore[method-assign]
    spool = open_spool(folder)
    sink = Sink(folder / "results")
    source = (spool, folder / "ledger", Random(seed + 1))
    threading.excepthook = end_process
    threading.Thread(target=produce, args=source, daemon=True).start()
    while True:
        consume(spool, sink, random, defect)


def finish(folder: Path) -> None:
    """The last life: what is in the spool is brought to the sink, as far as it gets."""
    spool = open_spool(folder)
    sink = Sink(folder / "results")
    last = last_of(folder / "ledger")
    if last.event:
        spool.offer(last, payload_of(last))
    while consume(spool, sink, Random(1), "") or spool.accounting().spooled:
        pass
    assert spool.accounting().unaccounted == 0
    spool.close()


def in_child(work: Callable[[], None], after: float | None) -> int:
    """Run `work` in a process of its own, killed `after` seconds; its wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_many(folder: Path, kills: int, seed: int, defect: str = "") -> Verdict:
    """Lives that end by a kill, and a last one that does not: what the checker says."""
    random = Random(seed)
    for number in range(kills):
        after = random.random() * LONGEST_LIFE
        status = in_child(lambda n=number: live(folder, seed + n, defect), after)  # type: ignore[misc]
        assert status == -signal.SIGKILL, f"life {number} ended by itself: {status}"
    status = in_child(lambda: finish(folder), None)
    assert status == 0, f"the last life ended with {status}"
    offered = read_ledger(folder / "ledger")
    lines = (folder / "results").read_text().splitlines()
    results = [(EventId(int(r), int(e)), digest) for r, e, digest in map(str.split, lines)]
    return check(offered, results, read_contents(folder / "spool"))


if __name__ == "__main__":
    place, count, first_seed, *name = sys.argv[1:]
    verdict = kill_many(Path(place), int(count), int(first_seed), *name)
    sys.stdout.write(f"{verdict}\n")
    sys.exit(0 if verdict.is_clean else 1)
