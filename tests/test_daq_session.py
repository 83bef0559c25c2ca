"""A session of `xec daq`: what a source need not offer again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import random_events
from support_daq import Folders
from xec.errors import FileError
from xec_client.daq.payload import Parcel, pack, pack_unreadable
from xec_client.daq.session import Ending, Manner, Places, Session
from xec_client.daq.source import Sample
from xec_client.daq.spool import EventId, SpoolSettings
from xec_client.daq.spool.contents import read_contents

NOBODY = "127.0.0.1:1"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(NOBODY, Folders(tmp_path).spool, Folders(tmp_path).out)


@pytest.fixture
def manner(tmp_path: Path) -> Manner:
    return Manner(spool=SpoolSettings(handover=tmp_path), grace=0.0, report_seconds=1e6)


class Broken:
    """A source that gives some events and then fails."""

    name, patient, geometry_hash, notes = "broken", True, None, ()

    def samples(self, stopped: Any) -> Iterator[Sample]:
        yield Sample(EventId(1000, 50), pack_unreadable("no banks"))
        for event in random_events(3):
            yield Sample(EventId(event.run, event.event), pack(Parcel(event, None, True)))
        raise FileError("The file is damaged.")


def _has_judged(session: Session) -> bool:
    """Whether the event that is none was rejected, now or in an earlier life."""
    assert session.intake is not None
    return session.state.accounting.rejected + session.intake.repeated > 0


def one_life(source: Any, places: Places, manner: Manner) -> Session:
    """Until the source has been read; the server is never there."""
    session = Session(source, places, manner)
    ending = Ending()
    if session.intake is not None:
        session.intake.start()
        until = time.monotonic() + 60
        while not (session.intake.is_done and _has_judged(session)):
            session.forwarder.step(0.01)
            assert time.monotonic() < until
    ending.request()
    session.close(lambda line: None)
    return session


def test_what_waits_in_the_spool_or_was_rejected_is_not_offered_again(
    places: Places, manner: Manner
) -> None:
    first = one_life(Broken(), places, manner)
    assert first.intake is not None
    assert first.intake.repeated == 0
    assert str(first.intake.error) == "The file is damaged."
    contents = read_contents(places.spool)
    assert (len(contents.spooled), len(contents.rejected)) == (3, 1)
    second = one_life(Broken(), places, manner)
    assert second.intake is not None
    assert second.intake.repeated == 4
    state = second.state
    assert (state.accounting.offered, state.accounting.carried, state.left) == (0, 3, 3)
    assert state.accounting.unaccounted == 0
