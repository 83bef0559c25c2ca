"""The spool on a disk that fails, is killed or loses its power at every single operation."""

from __future__ import annotations

import sys
from collections.abc import Callable
from random import Random

import pytest

import support_sizes as sizes
from support_memory_disk import Fault, Killed, MemoryDisk, PowerCut, at, at_each, broken, no_space
from support_spool import RUN, SPOOL, Claims, ids, missing, survive
from xec_client.daq.spool.files import publish
from xec_client.daq.spool.ids import EventId

EVENTS = ids(26)


def walk(faults: Callable[[int], Fault], power: bool, seed: int = 0) -> tuple[int, list[str]]:
    """Put the fault at operation 1, 2, ... until it is not reached: how many, and what was lost.

    Args:
        faults: the fault for each number.
        power: the power is cut at the end; then only what was called durable is claimed.
        seed: of what a power cut leaves.
    """
    wrong: list[str] = []
    number = 0
    while True:
        number += 1
        disk, claims = MemoryDisk(1000 * seed + number), Claims()
        disk.fault = faults(number)
        survive(disk, claims, EVENTS)
        reached = number <= len(disk.log)
        if power:
            disk.cut_power()
        claimed = claims.durable if power else claims.accepted
        wrong += [f"{number}: {fault}" for fault in missing(disk, claims, claimed)]
        if not reached:
            return number - 1, wrong


def test_a_kill_at_any_operation_loses_no_accepted_event() -> None:
    walked, wrong = walk(lambda n: at(n, Killed), power=False)
    assert wrong == []
    assert walked > 70


@pytest.mark.parametrize("seed", range(3))
def test_a_power_cut_at_any_operation_loses_no_durable_event(seed: int) -> None:
    walked, wrong = walk(lambda n: at(n, PowerCut), power=True, seed=seed)
    assert wrong == []
    assert walked > 70


@pytest.mark.parametrize("error", [no_space, broken])
@pytest.mark.parametrize("times", [1, 2, 5])
@pytest.mark.parametrize("power", [False, True], ids=["kill", "power cut"])
def test_an_error_at_any_operation_loses_nothing(
    error: Callable[[], BaseException], times: int, power: bool
) -> None:
    walked, wrong = walk(lambda n: at(n, error, times), power=power)
    assert wrong == []
    assert walked > 70


@pytest.mark.parametrize("operation", ["fsync", "write", "fsync folder", "rename", "create"])
@pytest.mark.parametrize("power", [False, True], ids=["kill", "power cut"])
def test_one_kind_of_operation_fails_in_series(operation: str, power: bool) -> None:
    """Such as fsync that fails again when the events are written anew."""
    for times in (2, 3):
        _, wrong = walk(lambda n, t=times: at_each(operation, n, broken, t), power=power)  # type: ignore[misc]
        assert wrong == []


def test_a_second_fault_during_recovery_loses_nothing() -> None:
    """The power is cut while a spool that lost its power is being opened, at any operation."""
    wrong: list[str] = []
    for first in range(20, 110, 9):
        number, reached = 0, True
        while reached:
            number += 1
            disk, claims = MemoryDisk(first), Claims()
            disk.fault = at(first, PowerCut)
            survive(disk, claims, EVENTS)
            before = len(disk.log)
            disk.fault = at(number, PowerCut)
            survive(disk, claims, [])
            reached = number <= len(disk.log) - before
            wrong += [f"{first}, {number}: {w}" for w in missing(disk, claims, claims.durable)]
    assert wrong == []


def walk_publish(seed: int) -> list[str]:
    """Cut the power at every operation of `publish`: the name must mean the whole content."""
    wrong = []
    for number in range(1, 20):
        disk = MemoryDisk(100 * seed + number)
        disk.make_folder(SPOOL)
        publish(disk, SPOOL / "x", b"old content")
        disk.operations, done = 0, False
        disk.fault = at(number, PowerCut)
        try:
            publish(disk, SPOOL / "x", b"new content, longer")
            done = True
        except PowerCut:
            pass
        disk.cut_power()
        found = disk.read(SPOOL / "x") if "x" in disk.list(SPOOL) else b""
        allowed = [b"new content, longer"] if done else [b"old content", b"new content, longer"]
        if found not in allowed:
            wrong.append(f"{number}: {found!r}")
    return wrong


def test_a_published_name_means_the_whole_content() -> None:
    assert [walk_publish(seed) for seed in range(5)] == [[]] * 5


def many_lives(seed: int) -> list[str]:
    """Several lives with errors here and there, each ended by a kill or a power cut."""
    random = Random(seed)
    disk, claims = MemoryDisk(seed), Claims()
    first = 1
    for _ in range(random.randrange(2, 6)):
        end = random.randrange(5, 160)
        ending = random.choice([Killed, PowerCut])
        rate = random.choice([0.0, 0.02, 0.1, 0.3])

        def fault(
            _: str, number: int, end: int = end, ending: type = ending, rate: float = rate
        ) -> BaseException | None:
            if number >= end:
                return ending()  # type: ignore[no-any-return]
            return random.choice([broken, no_space])() if random.random() < rate else None

        disk.fault = fault
        events = [EventId(RUN, event) for event in range(first, first + 40)]
        survive(disk, claims, events)
        first += 40
    return missing(disk, claims, claims.accepted)


def lossy_lives(seeds: range) -> dict[int, list[str]]:
    return {seed: wrong for seed in seeds if (wrong := many_lives(seed))}


def test_many_lives_with_many_faults_lose_nothing() -> None:
    assert lossy_lives(range(150)) == {}


@pytest.mark.faults
def test_very_many_lives_with_many_faults_lose_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    seeds = range(1000, 1000 + sizes.of(1_500, 12_000))
    lossy = lossy_lives(seeds)
    with capsys.disabled():
        sys.stdout.write(f"\nspool: {len(lossy)} of {len(seeds)} series of faults with loss\n")
    assert lossy == {}


def test_the_walk_sees_what_is_lost() -> None:
    """Control: what is only accepted does not survive a power cut, and the walk says so."""
    lost = 0
    for seed in range(10):
        disk, claims = MemoryDisk(seed), Claims()
        disk.fault = at(60, Killed)
        survive(disk, claims, EVENTS)
        disk.cut_power()
        lost += len(missing(disk, claims, claims.accepted)) > 0
    assert lost > 0
