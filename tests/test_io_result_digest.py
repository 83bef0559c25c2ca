"""The digest of results: equal for equal content, whatever the bytes of the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from io_samples import random_answers, random_events
from xec.errors import FileError
from xec.event import Event, EventBatch, Flag, Reconstruction
from xec.io.result_digest import Content, content_of
from xec.io.results import open_result_writer

Answers = list[Reconstruction]
SUFFIXES = (".parquet", ".root")


@pytest.fixture(scope="module")
def batch() -> EventBatch:
    return random_events(70, truth=False)


@pytest.fixture(scope="module")
def results(batch: EventBatch) -> Answers:
    return list(random_answers(batch))


def written(
    path: Path, batch: EventBatch, results: Answers, step: int = 70, source: str = "x.root"
) -> Path:
    with open_result_writer(path, source=source, synthetic=True) as writer:
        for first in range(0, len(results), step):
            writer.write(batch[first : first + step], results[first : first + step])
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_content_has_the_same_digest(
    batch: EventBatch, results: Answers, tmp_path: Path, suffix: str
) -> None:
    one = written(tmp_path / f"one{suffix}", batch, results)
    two = written(tmp_path / f"two{suffix}", batch, results, step=9)
    assert content_of(one) == content_of(two)
    assert content_of(one).rows == len(results)
    if suffix == ".root":
        assert one.read_bytes() != two.read_bytes()  # a UUID and times


def test_the_cut_into_row_groups_does_not_matter(
    batch: EventBatch, results: Answers, tmp_path: Path
) -> None:
    one = written(tmp_path / "one.parquet", batch, results)
    two = tmp_path / "two.parquet"
    with pq.ParquetFile(one) as file:
        table = file.read().replace_schema_metadata(file.metadata.metadata)
    pq.write_table(table, two, row_group_size=7, compression="none")
    assert pq.read_metadata(two).num_row_groups > pq.read_metadata(one).num_row_groups
    assert content_of(two) == content_of(one)


def first_changed(results: Answers, **changes: object) -> Answers:
    return [replace(results[0], **changes), *results[1:]]  # type: ignore[arg-type]


CHANGES: dict[str, Callable[[Answers], Answers]] = {
    "energy": lambda r: first_changed(
        r, energy=replace(r[0].energy, mean=np.nextafter(r[0].energy.mean, np.float32(1e9)))
    ),
    "flags": lambda r: first_changed(r, flags=r[0].flags ^ Flag.OUTSIDE_DOMAIN),
    "recovered": lambda r: first_changed(
        r, recovered=replace(r[0].recovered, npho=r[0].recovered.npho + np.float32(1))
    ),
    "provenance": lambda r: [
        replace(a, provenance=replace(a.provenance, dead_list_id="other")) for a in r
    ],
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", CHANGES)
def test_any_change_of_content_changes_it(
    batch: EventBatch, results: Answers, tmp_path: Path, suffix: str, name: str
) -> None:
    one = written(tmp_path / f"one{suffix}", batch, results)
    two = written(tmp_path / f"two{suffix}", batch, CHANGES[name](results))
    assert content_of(one).sha256 != content_of(two).sha256


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_order_rows_and_source_count(
    batch: EventBatch, results: Answers, tmp_path: Path, suffix: str
) -> None:
    variants = {
        "all": (batch, results, "x.root"),
        "fewer": (batch[:69], results[:69], "x.root"),
        "none": (batch[:0], [], "x.root"),
        "other source": (batch, results, "y.root"),
        "reversed": (_reversed(batch), results[::-1], "x.root"),
    }
    found: dict[str, Content] = {
        name: content_of(written(tmp_path / f"{name}{suffix}", b, r, source=s))
        for name, (b, r, s) in variants.items()
    }
    assert len({content.sha256 for content in found.values()}) == len(variants)
    assert found["none"].rows == 0


def _reversed(batch: EventBatch) -> EventBatch:
    events: list[Event] = list(batch)
    return EventBatch.stack(events[::-1])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_not_whole_or_not_ours(
    batch: EventBatch, results: Answers, tmp_path: Path, suffix: str
) -> None:
    one = written(tmp_path / f"one{suffix}", batch, results)
    one.write_bytes(one.read_bytes()[:-100])
    for path in (one, tmp_path / f"none{suffix}"):
        with pytest.raises(FileError):
            content_of(path)
