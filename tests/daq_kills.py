"""Forwarder and server, real processes, killed at random moments: what the checker says in the end.

Run: python tests/daq_kills.py FOLDER KILLS SEED; counts the kills of forwarder and server together.

Run after run is replayed. A life of the forwarder is ended by a kill after a random time, and it
is started again, until the run is through. Meanwhile the server is killed and started again, with
the other one of two models each time.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from random import Random

from conftest import build_stub_model, write_model
from support_daq import (
    Folders,
    ServerProcess,
    digests_of,
    events_of,
    ledger_of,
    midas_file,
    other_model,
)
from support_forks import Forks, forking
from xec.io.parquet_read import describe_results, read_results
from xec_client.daq.parts import ids_in
from xec_client.daq.spool.check import Verdict, check
from xec_client.daq.spool.contents import read_contents
from xec_client.daq.spool.ids import EventId

EVENTS_PER_RUN = 150
LONGEST_LIFE = 1.0  # s
MANNER = ("--rate", "150", "--part-seconds", "0.1", "--batch-size", "8", "--quiet")


class Killer:
    """Kills the server now and then and starts the other model in its place."""

    def __init__(self, folder: Path, seed: int) -> None:
        write_model(build_stub_model(), folder / "one")
        self._models = [folder / "one", other_model(folder / "other")]
        self.server = ServerProcess(self._models[0])
        self.kills = 0
        self._random = Random(seed)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(0.5 + 3 * self._random.random()):
            self.server.kill()
            self.kills += 1
            self.server.start(self._models[self.kills % 2])

    def stop(self) -> None:
        self._end.set()
        self._thread.join()


def replay(
    forks: Forks, folders: Folders, source: Path, address: str, random: Random, most: int
) -> int:
    """Forward a run, killed at most so often: the kills."""
    arguments = ["daq", "--replay", source, *MANNER, *folders.arguments(address)]
    kills = 0
    while kills < most:
        process = forks.start(*arguments)
        if not forks.killed(process, random.random() * LONGEST_LIFE):
            return kills
        kills += 1
    return kills


def kill_many(forks: Forks, folder: Path, kills: int, seed: int) -> tuple[Verdict, int, int]:
    """The verdict, and the kills of forwarder and server."""
    random, folders = Random(seed), Folders(folder)
    ledger: dict[EventId, str] = {}
    killer, mine, run = Killer(folder, seed + 1), 0, 0
    try:
        while mine + killer.kills < kills:
            run += 1
            batch = events_of(run, EVENTS_PER_RUN, seed=run)
            ledger |= ledger_of(batch)
            source = midas_file(folder / f"run{run:05d}.mid", batch)
            mine += replay(forks, folders, source, killer.server.address, random, 12)
            # What the last kill left of this run comes from the file once more.
            last = ["daq", "--replay", source, "--quiet", *folders.arguments(killer.server.address)]
            assert forks.ended(*last) == 0, forks.printed
            source.unlink()
    finally:
        killer.stop()
        killer.server.stop()
    versions = [{p.model_version for p in describe_results(p).provenances} for p in folders.parts]
    assert all(len(one) == 1 for one in versions), "two models in one part"
    return verdict_of_parts(folders, ledger), mine, killer.kills


def verdict_of_parts(folders: Folders, ledger: dict[EventId, str]) -> Verdict:
    """As `support_daq.judged`, a part at a time."""
    results = [pair for path in folders.parts for pair in digests_of(ledger, read_results(path))]
    ids = [event_id for path in folders.parts for event_id in ids_in(path)]
    assert sorted(ids) == sorted(event_id for event_id, _ in results)
    return check(ledger, results, read_contents(folders.spool))


if __name__ == "__main__":
    place, count, first_seed = sys.argv[1:]
    with forking(Path(place)) as calls:
        verdict, of_forwarder, of_server = kill_many(
            calls, Path(place), int(count), int(first_seed)
        )
    line = f"{of_forwarder} kills of the forwarder, {of_server} of the server: {verdict}\n"
    sys.stdout.write(line)
    sys.exit(0 if verdict.is_clean else 1)
