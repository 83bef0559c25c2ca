"""Against MIDAS's own Python module, where that is installed ($MIDASSYS/python)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support_midas import banks_of_every_type, put, read_all
from xec.io.midas.layout import BankKind, BankType, ByteOrder
from xec.io.midas.writer import Label, Layout, MidasWriter

file_reader = pytest.importorskip("midas.file_reader", reason="comes with MIDAS only")


@pytest.mark.parametrize("suffix", [".mid", ".mid.lz4", ".mid.gz"])
@pytest.mark.parametrize("kind", list(BankKind))
def test_its_reader_reads_our_files(kind: BankKind, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"run00407{suffix}"
    # Its reader stops at types without a size, and knows types up to LINK in older versions.
    sent = [
        [bank for bank in banks_of_every_type(ByteOrder.LITTLE, seed) if bank.code < 12]
        for seed in range(4)
    ]
    with MidasWriter(path, 407, layout=Layout(kind), odb=b'{"Runinfo": {}}') as writer:
        for serial, banks in enumerate(sent):
            writer.write(Label(serial, 3, 9, 77), banks)
    read = [(event.header, dict(event.banks)) for event in file_reader.MidasFile(str(path))]
    assert read[0][0].is_bor_event()
    assert read[0][0].serial_number == 407
    assert read[-1][0].is_eor_event()
    for (header, theirs), banks in zip(read[1:-1], sent, strict=True):
        assert (header.event_id, header.trigger_mask, header.timestamp) == (3, 9, 77)
        assert list(theirs) == [bank.name for bank in banks]
        for bank in banks:
            values = bank.array()
            if bank.type is BankType.BOOL:
                values = values != 0
            np.testing.assert_array_equal(
                np.array(theirs[bank.name].data, dtype=values.dtype), values
            )


@pytest.mark.parametrize("kind", [(False, False), (True, False), (True, True)])
def test_we_read_what_it_packs(kind: tuple[bool, bool], tmp_path: Path) -> None:
    import midas.event

    import midas

    raw = b""
    for serial in range(5):
        event = midas.event.Event(bank32=kind[0], align64=kind[1])
        event.header.event_id, event.header.serial_number = 1, serial
        event.create_bank("FLOT", midas.TID_FLOAT, [0.5 * n for n in range(serial)])
        event.create_bank("WORD", midas.TID_WORD, list(range(serial + 1)))
        raw += bytes(event.pack().raw)
    events, end = read_all(put(tmp_path / "run1.mid", raw))
    assert end.complete
    assert len(events) == 5
    for serial, got in enumerate(events):
        floats, words = got.banks()
        assert floats.array().tolist() == [0.5 * n for n in range(serial)]
        assert words.array().tolist() == list(range(serial + 1))
