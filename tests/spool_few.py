"""A few events through the spool, with every operation of the disk done; run under strace.

Run: python tests/spool_few.py FOLDER; prints `done`, or `refused` and a sentence. The ledger is the
source's own.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from spool_lives import Sink
from support_spool import digest_of, ids, payload_of
from xec.errors import XecError
from xec_client.daq.spool.settings import EVERY_EVENT, SpoolSettings
from xec_client.daq.spool.spool import Spool

EVENTS = ids(12)
MOST_SECONDS = 3.0  # until an event that is not accepted is left alone


def main(folder: Path) -> None:
    settings = SpoolSettings(
        max_bytes=8 << 10,
        segment_bytes=1 << 10,
        memory_events=4,
        sync=EVERY_EVENT,
        gap_slots=16,
        retry_seconds=0.005,
        handover=folder,
    )
    try:
        spool = Spool(folder / "spool", settings)
    except XecError as error:
        sys.stdout.write(f"refused {error}\n")
        return
    sink = Sink(folder / "results")
    ledger = os.open(folder / "ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for event_id in EVENTS:
        payload = payload_of(event_id)
        os.write(ledger, f"{event_id.run} {event_id.event} {digest_of(payload)}\n".encode())
        spool.offer(event_id, payload)
        end = time.monotonic() + MOST_SECONDS
        while spool.accounting().in_memory and time.monotonic() < end:
            time.sleep(0.001)
        if event_id.event % 4 == 0:
            taken = spool.take(3)
            sink.keep(taken[:2])
            spool.acknowledge(e.id for e in taken[:2])
            try:
                spool.reject((e.id for e in taken[2:]), "every third")
            except OSError:
                spool.rewind()
    assert spool.accounting().unaccounted == 0
    spool.close()
    assert spool.accounting().unaccounted == 0
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
