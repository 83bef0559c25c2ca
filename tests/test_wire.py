"""The wire format: no loss, the contract's names, and generated code that is current."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from grpc_tools import protoc
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import xec
from xec.contract import GAMMA_ESTIMATES, INPUTS, SENSOR_ESTIMATES
from xec.detector.channels import N_CHANNELS
from xec.errors import InvalidEvent
from xec.event import (
    Event,
    EventBatch,
    Flag,
    GammaEstimate,
    Reconstruction,
    Recovered,
    RecoveryStatus,
)
from xec.lineage import Provenance
from xec.wire import codec
from xec.wire.limits import MAX_EVENTS_PER_BATCH, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES
from xec.wire.v1 import reconstruction_pb2 as pb

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    same_form = left.dtype == right.dtype and left.shape == right.shape
    return same_form and left.tobytes() == right.tobytes()


@st.composite
def events_of_the_contract(draw: st.DrawFn) -> Event:
    """Random masks, and values with a few arbitrary floats among them."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    npho_valid, time_valid = random.random((2, N_CHANNELS)) < draw(st.floats(0, 1))
    some = draw(npst.arrays(np.float32, 16, elements=FLOATS))
    npho, time = random.choice(some, (2, N_CHANNELS)).astype(np.float32)
    return Event(
        run=draw(INT64),
        event=draw(INT64),
        npho=np.where(npho_valid, npho, np.float32(0)),
        time=np.where(time_valid, time, np.float32(0)),
        npho_valid=npho_valid,
        time_valid=time_valid,
    )


@given(events_of_the_contract())
def test_an_event_survives_the_wire_bit_for_bit(event: Event) -> None:
    content = codec.event_to_proto(event).SerializeToString()
    back = codec.event_from_proto(pb.Event.FromString(content))
    assert (back.run, back.event) == (event.run, event.event)
    for name in ("npho", "time", "npho_valid", "time_valid"):
        assert same_bits(getattr(back, name), getattr(event, name)), name


def test_the_layout_is_that_of_the_schema(events: Callable[..., EventBatch]) -> None:
    """Against the schema's words, by `struct` and integer arithmetic instead of NumPy."""
    event = next(iter(events(1)))
    message = codec.event_to_proto(event)
    assert struct.unpack(f"<{N_CHANNELS}f", message.npho) == tuple(event.npho.tolist())
    bits = int.from_bytes(message.time_valid, "little")
    assert len(message.time_valid) == 595
    assert [bool(bits >> channel & 1) for channel in range(N_CHANNELS)] == event.time_valid.tolist()


def test_what_an_invalid_reading_holds_is_dropped(events: Callable[..., EventBatch]) -> None:
    event = next(iter(events(1)))
    message = codec.event_to_proto(event)
    dirty = np.where(event.npho_valid, event.npho, np.float32(np.nan))
    message.npho = dirty.astype("<f4").tobytes()
    assert np.isnan(dirty).any()
    assert same_bits(codec.event_from_proto(message).npho, event.npho)


def test_without_masks_everything_is_valid() -> None:
    zeros = bytes(4 * N_CHANNELS)
    event = codec.event_from_proto(pb.Event(npho=zeros, time=zeros))
    assert event.npho_valid.all()
    assert event.time_valid.all()


@pytest.mark.parametrize("field", ["npho", "time", "npho_valid", "time_valid"])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_wrong_length_names_its_field(
    field: str, change: int, events: Callable[..., EventBatch]
) -> None:
    message = codec.event_to_proto(next(iter(events(1))))
    content = getattr(message, field)
    setattr(message, field, content[:change] if change < 0 else content + b"\0")
    with pytest.raises(InvalidEvent) as caught:
        codec.event_from_proto(message)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_dead_channels_there_and_back() -> None:
    mask = np.zeros(N_CHANNELS, dtype=bool)
    mask[[0, 17, N_CHANNELS - 1]] = True
    message = codec.dead_list_of_channels(mask)
    assert list(message.channels.id) == [0, 17, N_CHANNELS - 1]
    assert same_bits(codec.dead_mask_of_channels(message.channels.id), mask)


def test_an_empty_dead_list_is_still_a_list() -> None:
    message = codec.dead_list_of_channels(np.zeros(N_CHANNELS, dtype=bool))
    back = pb.DeadList.FromString(message.SerializeToString())
    assert back.WhichOneof("source") == "channels"
    assert not codec.dead_mask_of_channels(back.channels.id).any()


def test_unknown_channels_are_counted_and_some_listed() -> None:
    ids = [3, *range(N_CHANNELS, N_CHANNELS + 40)]
    with pytest.raises(InvalidEvent) as caught:
        codec.dead_mask_of_channels(ids)
    assert caught.value.total == 40
    assert len(caught.value.violations) == 16
    assert caught.value.violations[0].field == "channels.id[1]"
    with pytest.raises(InvalidEvent, match="4761 ids"):
        codec.dead_mask_of_channels([0] * (N_CHANNELS + 1))


def _vectors(count: int) -> st.SearchStrategy[np.ndarray]:
    return npst.arrays(np.float32, count, elements=FLOATS)


def _gamma(count: int) -> st.SearchStrategy[GammaEstimate]:
    return st.builds(GammaEstimate, *[_vectors(count)] * 4)


@st.composite
def _recovered(draw: st.DrawFn) -> Recovered:
    channels = sorted(draw(st.sets(st.integers(0, N_CHANNELS - 1), max_size=20)))
    statuses = st.sampled_from([int(status) for status in RecoveryStatus])
    return Recovered(
        np.array(channels, dtype=np.int32),
        *(draw(_vectors(len(channels))) for _ in range(4)),
        draw(npst.arrays(np.uint8, len(channels), elements=statuses)),
    )


@given(
    st.builds(
        Reconstruction,
        run=INT64,
        event=INT64,
        energy=_gamma(1),
        gamma_time=_gamma(1),
        uvw=_gamma(3),
        angle=_gamma(2),
        recovered=_recovered(),
        flags=st.integers(0, sum(Flag)).map(Flag),
        provenance=st.builds(Provenance, *[st.text(max_size=8)] * 6),
    )
)
def test_a_reconstruction_survives_the_wire_bit_for_bit(sent: Reconstruction) -> None:
    content = codec.reconstruction_to_proto(sent).SerializeToString()
    back = codec.reconstruction_from_proto(pb.ReconstructResponse.FromString(content))
    for name in ("run", "event", "flags", "provenance"):
        assert getattr(back, name) == getattr(sent, name), name
    for group in ("energy", "gamma_time", "uvw", "angle", "recovered"):
        before, after = getattr(sent, group), getattr(back, group)
        for name in before.__dataclass_fields__:
            assert same_bits(getattr(after, name), getattr(before, name)), (group, name)


def test_field_names_and_units_follow_the_contract() -> None:
    event = pb.Event.DESCRIPTOR.fields_by_name
    for tensor in INPUTS:
        assert event[tensor.name].type == FieldDescriptor.TYPE_BYTES
    sensors = set(pb.RecoveredSensors.DESCRIPTOR.fields_by_name)
    for estimate in SENSOR_ESTIMATES:
        assert {estimate.name, estimate.sigma_name} <= sensors
    response = pb.ReconstructResponse.DESCRIPTOR.fields_by_name
    for estimate in GAMMA_ESTIMATES:
        assert response[estimate.name].message_type is pb.Estimate.DESCRIPTOR
    schema = (Path(xec.__file__).parent / "wire/v1/reconstruction.proto").read_text()
    for estimate in GAMMA_ESTIMATES:
        (line,) = [line for line in schema.splitlines() if f"Estimate {estimate.name} =" in line]
        assert f"// {estimate.unit}" in line


def test_enumerations_mean_the_same_on_both_sides() -> None:
    wire = {name.removeprefix("RECOVERY_STATUS_"): n for name, n in pb.RecoveryStatus.items()}
    assert wire == {"UNSPECIFIED": 0, **{status.name: int(status) for status in RecoveryStatus}}
    flags = {name.upper() for name in pb.Flags.DESCRIPTOR.fields_by_name}
    assert flags == {flag.name for flag in Flag}
    provenance = set(pb.Provenance.DESCRIPTOR.fields_by_name)
    assert provenance == set(Provenance.__dataclass_fields__)


def test_a_full_batch_fits_into_the_limits(events: Callable[..., EventBatch]) -> None:
    event = codec.event_to_proto(next(iter(events(1))))
    request = pb.ReconstructBatchRequest(events=[event] * MAX_EVENTS_PER_BATCH)
    request.dead_list.channels.id.extend(range(N_CHANNELS))
    assert request.ByteSize() < MAX_REQUEST_BYTES
    everything = Recovered(
        np.arange(N_CHANNELS, dtype=np.int32),
        *np.ones((4, N_CHANNELS), dtype=np.float32),
        np.ones(N_CHANNELS, dtype=np.uint8),
    )
    one = [GammaEstimate(*np.ones((4, width), dtype=np.float32)) for width in (1, 1, 3, 2)]
    provenance = Provenance(*["x" * 64] * 6)
    answer = codec.reconstruction_to_proto(
        Reconstruction(1, 1, *one, everything, Flag.NONE, provenance)
    )
    answers = pb.ReconstructBatchResponse(responses=[answer] * MAX_EVENTS_PER_BATCH)
    assert answers.ByteSize() < MAX_RESPONSE_BYTES


@pytest.mark.parametrize("schema", ["reconstruction", "admin"])
def test_the_generated_code_is_current(tmp_path: Path, schema: str) -> None:
    source = Path(xec.__file__).parents[1]
    name = f"xec/wire/v1/{schema}"
    out = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    assert protoc.main(["protoc", f"-I{source}", *out, f"{name}.proto"]) == 0
    for suffix in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py"):
        fresh = (tmp_path / f"{name}{suffix}").read_text()
        assert fresh == (source / f"{name}{suffix}").read_text(), f"{suffix}: run protoc again"
