"""Training batches, simulated sources, the thread that reads ahead, and what users write."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from io_samples import random_events, write_events
from support_training import reading_threads, until
from xec.detector.geometry import parametric
from xec.errors import FileError, UsageError
from xec.io.root import EventFile
from xec.io.root_writer import RootEventWriter
from xec.simulation.event_file import to_events
from xec.simulation.generator import Generator, SimulatedBatch
from xec_training.data.batch import TrainingBatch
from xec_training.data.files import FileSource
from xec_training.data.open import matching_files, open_source
from xec_training.data.prefetch import Prefetcher
from xec_training.data.simulated import (
    MAX_RANKS,
    SimulatedSource,
    signal_simulation,
    stream_seed,
    training_simulation,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def simulated() -> SimulatedBatch:
    return Generator(training_simulation(), parametric(), CPU, 3).sample(24)


@pytest.fixture(scope="module")
def batch(simulated: SimulatedBatch) -> TrainingBatch:
    return TrainingBatch.from_simulated(simulated)


def same(a: TrainingBatch, b: TrainingBatch) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def source(
    events: int | None = 50, seed: int = 1, rank: int = 0, world: int = 1, **more: str
) -> SimulatedSource:
    return SimulatedSource(
        training_simulation(), parametric(), CPU, seed, 20, events, rank, world, **more
    )


def test_simulated_batches_hold_the_simulation(
    simulated: SimulatedBatch, batch: TrainingBatch
) -> None:
    known = simulated.npho_valid
    assert torch.equal(batch.npho[known], simulated.npho[known])
    assert (batch.npho[~known] == 0).all()
    assert (simulated.npho[~known] != 0).any()  # control: there was something to leave out
    assert torch.equal(batch.light, simulated.light)
    assert (batch.npho_valid & batch.dead).any()  # dead sensors are known
    assert batch.has_truth.all()
    assert (batch.weight == 1).all()
    assert torch.equal(batch.uvw, simulated.uvw)


@pytest.fixture(scope="module")
def from_file(simulated: SimulatedBatch, tmp_path_factory: pytest.TempPathFactory) -> TrainingBatch:
    path = tmp_path_factory.mktemp("batch") / "a.root"
    with RootEventWriter(path, geometry_hash="g", synthetic=True) as writer:
        writer.write(to_events(simulated, 1, 0), simulated.dead.numpy(), simulated.npho.numpy())
    with EventFile(path) as file:
        return TrainingBatch.concatenate([TrainingBatch.from_chunk(c) for c in file.chunks(9)])


def test_events_come_back_from_a_file(batch: TrainingBatch, from_file: TrainingBatch) -> None:
    """The simulation and its file agree but for what a file cannot hold."""
    both = batch.npho_valid
    assert torch.equal(from_file.npho[both], batch.npho[both])
    assert torch.equal(from_file.npho_valid, both | batch.dead)
    assert torch.equal(from_file.dead, batch.dead)
    assert torch.equal(from_file.time_valid, batch.time_valid & ~batch.dead)
    timed = from_file.time_valid
    assert torch.allclose(from_file.time[timed], batch.time[timed], atol=1e-4)
    assert torch.equal(from_file.light, from_file.npho)
    assert not torch.equal(batch.light, batch.npho)  # control
    for name in ("energy", "gamma_time", "uvw", "angle"):
        assert torch.allclose(getattr(from_file, name), getattr(batch, name), rtol=1e-6), name
    assert from_file.has_truth.all()


def test_without_reference_and_truth_nothing_is_invented(tmp_path: Path) -> None:
    events = random_events(5, truth=False)
    dead = torch.zeros(4760, dtype=torch.bool)
    dead[100:200] = True
    with RootEventWriter(tmp_path / "a.root", geometry_hash="g", synthetic=False) as writer:
        writer.write(events, dead.numpy())
    with EventFile(tmp_path / "a.root") as file:
        batch = TrainingBatch.from_chunk(next(file.chunks(5)))
    assert torch.equal(batch.dead, dead.expand(5, -1))
    assert torch.equal(batch.npho_valid, torch.from_numpy(events.npho_valid) & ~dead)
    assert not batch.has_truth.any()
    assert (batch.energy == 0).all()
    assert batch.uvw.shape == (5, 3)
    assert batch.angle.shape == (5, 2)


def test_no_marker_and_no_nan_is_in_a_batch(batch: TrainingBatch, from_file: TrainingBatch) -> None:
    for one in (batch, from_file):
        for field in fields(one):
            value = getattr(one, field.name).float()
            assert value.isfinite().all(), field.name
            assert (value.abs() < 1e9).all(), field.name
        assert (one.npho[~one.npho_valid] == 0).all()
        assert (one.time[~one.time_valid] == 0).all()


def test_slices_indices_and_concatenation_agree(batch: TrainingBatch) -> None:
    parts = [batch[:5], batch[5:6], batch[6:]]
    assert [len(part) for part in parts] == [5, 1, 18]
    assert same(TrainingBatch.concatenate(parts), batch)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    assert same(batch[order][order.argsort()], batch)
    assert not same(batch[order], batch)
    assert same(batch.to(CPU), batch)


def test_an_epoch_of_simulated_events_ends_with_the_smaller_batch() -> None:
    one = source(50)
    assert one.batches_per_epoch == 3
    assert one.events_per_epoch == 50
    assert [len(one.next_batch()) for _ in range(6)] == [20, 20, 10, 20, 20, 10]
    endless = source(None)
    assert endless.batches_per_epoch is None
    assert endless.events_per_epoch is None
    assert len(endless.next_batch()) == 20


def test_each_epoch_has_fresh_events() -> None:
    one = source(20)
    assert not torch.equal(one.next_batch().energy, one.next_batch().energy)


def test_seeds_ranks_and_parts_see_other_events_in_equally_many_batches() -> None:
    makers = [
        source(50, 1, 0, 3),
        source(50, 1, 1, 3),
        source(50, 1, 2, 3),
        source(50, 2, 0, 3),
        source(50, 1, 0, 3, part="validation"),
    ]
    assert {m.batches_per_epoch for m in makers} == {1}
    assert {m.events_per_epoch for m in makers} == {51}
    energies = torch.cat([m.next_batch().energy for m in makers])
    assert len(energies.unique()) == len(energies) == 5 * 17
    again = source(50, 1, 0, 3).next_batch().energy
    assert torch.equal(again, energies[:17])  # control: equal seeds, equal events


def test_stream_seeds_of_neighbours_never_collide() -> None:
    """In the 32 bits that torch uses on a CPU."""
    ranks = (0, 1, 2, MAX_RANKS - 1)
    seeds = [*range(200), 2**20 - 1]
    parts = ("train", "validation")
    found = {stream_seed(s, r, p) % 2**32 for s in seeds for r in ranks for p in parts}
    assert len(found) == len(seeds) * len(ranks) * len(parts)
    collide = {(s + r) % 2**32 for s in seeds for r in ranks}
    assert len(collide) < len(seeds) * len(ranks)  # control: adding them would


@pytest.mark.parametrize("taken", [0, 1, 2, 3, 4])
def test_a_simulated_source_goes_on_where_it_was(taken: int) -> None:
    first = source(50)
    for _ in range(taken):
        first.next_batch()
    state = first.state_dict()
    expected = [first.next_batch() for _ in range(4)]
    resumed = source(50)
    resumed.load_state_dict(state)
    assert all(same(resumed.next_batch(), batch) for batch in expected)
    late = source(50)
    late.next_batch()
    assert taken == 1 or not same(late.next_batch(), expected[0])


def test_a_state_of_another_source_is_refused() -> None:
    state = source(50).state_dict()
    with pytest.raises(UsageError, match="its seed was 1 and is now 2"):
        source(50, seed=2).load_state_dict(state)
    with pytest.raises(UsageError, match="its rank was 0"):
        source(50, rank=1, world=2).load_state_dict(state)


def test_a_pass_gives_the_same_simulated_events_each_time() -> None:
    one = source(50)
    first = list(one.batches())
    one.next_batch()
    assert [len(b) for b in first] == [20, 20, 10]
    assert all(same(a, b) for a, b in zip(first, one.batches(), strict=True))
    with pytest.raises(UsageError, match="sim:2000"):
        next(source(None).batches())


def test_energies_of_training_and_signal() -> None:
    def drawn(config: object) -> torch.Tensor:
        return Generator(config, parametric(), CPU, 0).sample(64).energy  # type: ignore[arg-type]

    assert drawn(training_simulation()).min() < 20
    assert drawn(training_simulation((30.0, 40.0))).min() >= 30
    assert (drawn(signal_simulation()) == 52.8).all()


def test_a_description_is_fit_for_json() -> None:
    text = json.dumps(source().description)
    assert '"energy": [12.0, 62.0]' in text


# --- the thread that reads ahead


def test_items_come_in_order_and_end() -> None:
    before = set(threading.enumerate())
    assert list(Prefetcher(iter(range(100)), 3)) == list(range(100))
    until(lambda: reading_threads(before) == 0)


def test_at_most_so_many_items_are_made_ahead() -> None:
    made = 0
    full = threading.Event()

    def numbers() -> Iterator[int]:
        nonlocal made
        while True:
            made += 1
            if made == ahead + 1 + taken:
                full.set()
            yield made

    ahead, taken = 4, 0
    items = Prefetcher(numbers(), ahead)
    assert full.wait(10)  # four wait and one is in hand
    for taken in range(1, 20):
        next(items)
        assert made <= taken + ahead + 1
    items.close()


def test_an_error_is_raised_as_it_is_after_the_items_before_it() -> None:
    error = FileError("a.root is damaged")

    def failing() -> Iterator[int]:
        yield 1
        raise error

    items = Prefetcher(failing(), 3)
    assert next(items) == 1
    for _ in range(2):
        with pytest.raises(FileError) as caught:
            next(items)
        assert caught.value is error


def test_closing_ends_the_thread_and_what_it_held() -> None:
    before = set(threading.enumerate())
    closed = threading.Event()

    def held() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    items = Prefetcher(held(), 2)
    next(items)
    assert reading_threads(before) == 1
    items.close()
    assert closed.is_set()
    assert reading_threads(before) == 0
    with pytest.raises(StopIteration):
        next(items)
    items.close()


def test_a_forgotten_prefetcher_ends_its_thread() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 1

    items = Prefetcher(endless(), 2)
    next(items)
    thread, gone = items._thread, weakref.ref(items)
    del items
    gc.collect()
    assert gone() is None
    thread.join(10)
    assert not thread.is_alive()


# --- what users write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    (root / "more").mkdir()
    for name in ("b.root", "a.root", "more/c.root"):
        write_events(root / name, random_events(4))
    (root / "odd[1].root").write_bytes((root / "a.root").read_bytes())
    return root


def test_patterns_are_sorted_and_files_taken_once(folder: Path) -> None:
    def names(*patterns: str) -> list[str]:
        found = matching_files([f"{folder}/{pattern}" for pattern in patterns])
        return [path.relative_to(folder).as_posix() for path in found]

    assert names("b.root", "?.root", "more/../a.root") == ["a.root", "b.root"]
    assert names("**/c.root", "a.root") == ["a.root", "more/c.root"]
    assert names("odd[1].root") == ["odd[1].root"]
    with pytest.raises(FileError, match=r"No file matches .*x\*\.root"):
        names("a.root", "x*.root")


def opened(data: str | list[str], **more: object) -> object:
    settings = {"geometry": parametric(), "device": CPU, "seed": 0, "batch_size": 2}
    return open_source(data, **{**settings, **more})  # type: ignore[arg-type]


def test_names_open_the_sources_they_name(folder: Path) -> None:
    endless, counted = opened("sim:"), opened(["sim:2000"])
    assert isinstance(endless, SimulatedSource)
    assert isinstance(counted, SimulatedSource)
    assert endless.events_per_epoch is None
    assert counted.events_per_epoch == 2000
    with pytest.raises(FileError, match="made with the geometry geometry"):
        opened(f"{folder}/*.root")


def test_files_open_with_their_geometry(tmp_path: Path) -> None:
    path = tmp_path / "a.root"
    with RootEventWriter(path, geometry_hash=parametric().hash, synthetic=True) as writer:
        writer.write(random_events(6))
    opening = opened(str(path), validation_share=0.0)
    assert isinstance(opening, FileSource)
    assert opening.synthetic
    assert opening.events_per_epoch == 6


@pytest.mark.parametrize("data", ["sim:abc", "sim:0", "sim:-3", "sim:2.5", "sim:²", "simx:", []])
def test_senseless_data_is_named(data: str | list[str]) -> None:
    word = "No file matches simx:" if data == "simx:" else str(data or "No data")
    with pytest.raises((UsageError, FileError), match=word.replace("²", ".")):
        opened(data)


def test_simulated_energies_can_be_chosen() -> None:
    chosen = opened("sim:4", energy=(30.0, 31.0))
    assert isinstance(chosen, SimulatedSource)
    batches = list(chosen.batches())
    assert all(30 <= value <= 31 for batch in batches for value in batch.energy.tolist())
    energy, angle = chosen.truth()
    assert energy.min() >= 30
    assert energy.max() <= 31
    assert angle.shape == (len(energy), 2)


def test_simulation_stands_alone(folder: Path) -> None:
    with pytest.raises(UsageError, match="stands alone"):
        opened(["sim:10", f"{folder}/a.root"])
