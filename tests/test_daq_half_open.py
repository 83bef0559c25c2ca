"""`xec daq` behind a link that loses everything and tells nobody: half-open connections."""

from __future__ import annotations

from pathlib import Path

import pytest

import support_sizes as sizes
from support_daq import (
    Folders,
    ended,
    events_of,
    midas_file,
    server_process,
    spooled,
    verdict_of,
    wait_until,
    xec,
)
from support_slow_link import slow_link

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not sizes.IS_FULL, reason="two minutes: XEC_FAULTS=full make faults"),
]  # a dead connection is noticed after 40 s
EVENTS = 400
QUICK = ("--part-seconds", "0.3", "--report-seconds", "0.2")


@pytest.mark.parametrize("heals", [True, False], ids=["heals", "control: never heals"])
def test_a_connection_that_is_half_open_loses_nothing(
    stub_repository: Path, tmp_path: Path, heals: bool
) -> None:
    folders, batch = Folders(tmp_path), events_of(9, EVENTS)
    source = midas_file(tmp_path / "run00009.mid", batch)
    with server_process(stub_repository) as server:
        port = int(server.address.rpartition(":")[2])
        with slow_link(port) as link:
            place = folders.arguments(f"127.0.0.1:{link.port}")
            process = xec("daq", "--replay", source, "--rate", "100", *QUICK, *place)
            wait_until(lambda: folders.parts)
            link.loses = True
            wait_until(lambda: spooled(folders) > EVENTS // 4)
            if not heals:
                with pytest.raises(AssertionError):
                    wait_until(lambda: not spooled(folders), 20)
                process.kill()
                process.communicate()
                assert verdict_of(folders, batch).spooled > EVENTS // 4
                return
            link.loses = False
            status, out, error = ended(process)
    assert status == 0, error
    verdict = verdict_of(folders, batch)
    assert verdict.is_clean, str(verdict)
    assert verdict.results == EVENTS
    assert " 0 rejected, 0 damaged, 0 waiting" in out.splitlines()[-1]
