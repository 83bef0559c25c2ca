"""A spool's life on a disk that fails, and what it claimed meanwhile."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from support_memory_disk import Killed, MemoryDisk, PowerCut
from xec_client.daq.spool.contents import read_contents
from xec_client.daq.spool.ids import EventId
from xec_client.daq.spool.settings import SpoolSettings, SyncPolicy
from xec_client.daq.spool.store import Store

SPOOL = Path("/disk/spool")
SMALL = SpoolSettings(
    max_bytes=1 << 20,
    segment_bytes=1024,
    memory_events=16,
    memory_bytes=1 << 16,
    sync=SyncPolicy(events=3, seconds=1e6, size=1 << 20),
    gap_slots=8,
    retry_seconds=0.01,
)
RUN = 7


def payload_of(event_id: EventId, least: int = 20) -> bytes:
    """Bytes that belong to this event alone, of a length that varies."""
    seed = hashlib.sha256(f"{event_id.run}/{event_id.event}".encode()).digest()
    return (seed * (1 + least // len(seed) + seed[0] % 3))[: least + seed[1] % 97]


def digest_of(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def ids(count: int, run: int = RUN) -> list[EventId]:
    return [EventId(run, event) for event in range(1, count + 1)]


@dataclass
class Claims:
    """What the spool said, and what the sink holds."""

    accepted: dict[EventId, None] = field(default_factory=dict)  # to survive a kill
    durable: dict[EventId, None] = field(default_factory=dict)  # to survive a power cut
    sequences: dict[int, EventId] = field(default_factory=dict)
    delivered: list[EventId] = field(default_factory=list)
    results: dict[EventId, bytes] = field(default_factory=dict)
    altered: list[EventId] = field(default_factory=list)
    unmarked: list[EventId] = field(default_factory=list)
    store: Store | None = None

    def note_watermarks(self) -> None:
        """What the spool claims at this moment, also amidst an operation."""
        if self.store is None:
            return
        marks = self.store.watermarks
        for sequence, event_id in self.sequences.items():
            if sequence <= marks.accepted:
                self.accepted[event_id] = None
            if sequence <= marks.durable:
                self.durable[event_id] = None

    def note_power_cut(self) -> None:
        """What was not durable is not claimed any more."""
        self.accepted = dict(self.durable)

    def deliver(self, store: Store, limit: int, reject: bool = False) -> int:
        """A consumer with a durable sink: take, keep, acknowledge (or reject every fifth)."""
        batch = store.take(limit)
        for spooled in batch:
            self.delivered.append(spooled.id)
            if spooled.payload != payload_of(spooled.id):
                self.altered.append(spooled.id)
            if spooled.id in self.results and not spooled.repeated:
                self.unmarked.append(spooled.id)
        good = [s.id for s in batch if not (reject and s.id.event % 5 == 0)]
        self.results.update({s.id: s.payload for s in batch if s.id in good})
        store.acknowledge(good)
        store.reject([s.id for s in batch if s.id not in good], "every fifth")
        return len(batch)


def open_store(disk: MemoryDisk, settings: SpoolSettings = SMALL) -> Store:
    disk.make_folder(SPOOL.parent)
    disk.make_folder(SPOOL)
    return Store(disk, SPOOL, settings)


def live(disk: MemoryDisk, claims: Claims, events: Iterable[EventId]) -> None:
    """Write, sync by the policy, consume now and then; errors of the disk are tried again."""
    claims.store = None
    claims.sequences.clear()
    store = claims.store = open_store(disk)
    if store.watermarks.durable == store.watermarks.accepted:
        claims.durable = dict(claims.accepted)
    for event_id in events:
        for _ in range(6):
            claims.sequences[store.watermarks.accepted + 1] = event_id
            try:
                store.append(event_id, payload_of(event_id), 1.0)
                break
            except OSError:
                continue
        else:
            continue
        try:
            if store.is_due():
                store.sync()
        except OSError:
            pass
        claims.note_watermarks()
        if event_id.event % 7 == 0:
            try:
                claims.deliver(store, 4, reject=True)
            except OSError:
                store.rewind()
    store.close()


def survive(disk: MemoryDisk, claims: Claims, events: Iterable[EventId], retries: int = 8) -> bool:
    """One life that may end at any operation; True: it came to its end."""
    try:
        for _ in range(retries):
            try:
                live(disk, claims, events)
            except OSError:
                continue  # it could not be opened
            return True
    except Killed:
        claims.note_watermarks()
        disk.end_process()
    except PowerCut:
        claims.note_watermarks()
        claims.note_power_cut()
        disk.cut_power()
    else:
        disk.end_process()
    return False


def missing(disk: MemoryDisk, claims: Claims, claimed: Iterable[EventId]) -> list[str]:
    """What a last, undisturbed life does not bring out of what was claimed; empty: all is well."""
    disk.end_process()
    store = open_store(disk)
    while claims.deliver(store, 10):
        pass
    store.close()
    rejected = {rejection.id for rejection in read_contents(SPOOL, disk).rejected}
    faults = [f"{i} lost" for i in claimed if i not in claims.results and i not in rejected]
    faults += [f"{event_id} altered" for event_id in claims.altered]
    faults += [f"{event_id} delivered twice without a mark" for event_id in claims.unmarked]
    return faults
