"""Events and reconstructions to and from messages of `xec.v1`, without loss.

Arrays of sensors travel as little-endian float32 bytes, validity as bits, least significant
first. What a sender left in an invalid reading is dropped here: it decodes to 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from xec.detector.channels import N_CHANNELS
from xec.errors import InvalidEvent, Violation
from xec.event import (
    BoolArray,
    Event,
    Flag,
    FloatArray,
    GammaEstimate,
    Reconstruction,
    Recovered,
)
from xec.lineage import Provenance
from xec.wire.limits import MAX_VIOLATIONS
from xec.wire.v1 import reconstruction_pb2 as pb

ARRAY_BYTES: Final = 4 * N_CHANNELS
MASK_BYTES: Final = N_CHANNELS // 8  # without a rest: no bit is left over

_FLOAT32: Final = np.dtype("<f4")
_CONTENTS: Final = ("npho", "time", "npho_valid", "time_valid")
_ALL_VALID: Final = b"\xff" * MASK_BYTES
_FLAGS: Final = {
    "outside_fiducial": Flag.OUTSIDE_FIDUCIAL,
    "outside_domain": Flag.OUTSIDE_DOMAIN,
    "too_much_dead_light": Flag.TOO_MUCH_DEAD_LIGHT,
}
_PROVENANCE: Final = tuple(Provenance.__dataclass_fields__)


def encode_array(values: FloatArray) -> bytes:
    """Little-endian float32 bytes of (4760,) values."""
    return np.ascontiguousarray(values, dtype=_FLOAT32).tobytes()


def encode_mask(mask: BoolArray) -> bytes:
    """The bits of a (4760,) mask, least significant first, 595 bytes."""
    return np.packbits(mask, bitorder="little").tobytes()


def event_to_proto(event: Event) -> pb.Event:
    """The message of one event."""
    return pb.Event(
        run=event.run,
        event=event.event,
        npho=encode_array(event.npho),
        time=encode_array(event.time),
        npho_valid=encode_mask(event.npho_valid),
        time_valid=encode_mask(event.time_valid),
    )


def _length_violations(contents: Mapping[str, bytes]) -> tuple[Violation, ...]:
    violations = []
    for name in ("npho", "time"):
        length = len(contents[name])
        if length != ARRAY_BYTES:
            text = f"{length} bytes; {N_CHANNELS} float32 values take {ARRAY_BYTES}."
            violations.append(Violation(name, text))
    for name in ("npho_valid", "time_valid"):
        length = len(contents[name])
        if length not in (0, MASK_BYTES):
            text = f"{length} bytes; {N_CHANNELS} bits take {MASK_BYTES}, or 0 for all valid."
            violations.append(Violation(name, text))
    return tuple(violations)


def event_from_proto(message: pb.Event, dead: BoolArray | None = None) -> Event:
    """The event in a message; invalid readings become 0.

    Valid readings are passed as they are: whether they are finite is for the receiver to check.
    Counts and times are decoded together, by half as many calls of NumPy.

    Args:
        message: of the schema.
        dead: (4760,) sensors that are invalid whatever the message says; None: there are none.

    Raises:
        InvalidEvent: an array or a mask has the wrong length; its violations name which.
    """
    contents = {name: getattr(message, name) for name in _CONTENTS}  # each access copies
    violations = _length_violations(contents)
    if violations:
        raise InvalidEvent(
            f"Event {message.event} of run {message.run} has arrays of the wrong length.",
            violations,
        )
    npho_valid, time_valid = (contents[name] or _ALL_VALID for name in _CONTENTS[2:])
    values = np.frombuffer(contents["npho"] + contents["time"], dtype=_FLOAT32)
    bits = np.frombuffer(npho_valid + time_valid, dtype=np.uint8)
    valid = np.unpackbits(bits, bitorder="little").view(np.bool_).reshape(2, N_CHANNELS)
    if dead is not None:
        valid &= ~dead
    npho, time = np.where(valid, values.reshape(2, N_CHANNELS), np.float32(0))
    return Event(message.run, message.event, npho, time, *valid)


def dead_list_of_channels(dead: BoolArray) -> pb.DeadList:
    """A dead list that carries its channels: those of the (4760,) mask.

    With no channel it says that nothing is dead beyond what each event marks as invalid.
    """
    channels = pb.DeadList.Channels(id=np.flatnonzero(dead).tolist())
    return pb.DeadList(channels=channels)


def dead_mask_of_channels(ids: Sequence[int]) -> BoolArray:
    """The (4760,) mask of the given channel ids; an id may occur twice.

    Raises:
        InvalidEvent: more ids than sensors, or ids that no sensor has; at most
            `MAX_VIOLATIONS` of them are listed.
    """
    if len(ids) > N_CHANNELS:
        text = f"{len(ids)} ids for {N_CHANNELS} sensors."
        raise InvalidEvent(f"The dead list has {text}", (Violation("channels.id", text),))
    channels = np.fromiter(ids, dtype=np.int64, count=len(ids))
    unknown = np.flatnonzero((channels < 0) | (channels >= N_CHANNELS))
    if len(unknown):
        raise InvalidEvent(
            f"The dead list names unknown channels; ids go from 0 to {N_CHANNELS - 1}.",
            tuple(
                Violation(f"channels.id[{place}]", f"There is no channel {channels[place]}.")
                for place in unknown[:MAX_VIOLATIONS]
            ),
            len(unknown),
        )
    mask = np.zeros(N_CHANNELS, dtype=np.bool_)
    mask[channels] = True
    return mask


def provenance_to_proto(provenance: Provenance) -> pb.Provenance:
    """The message of a provenance."""
    return pb.Provenance(**provenance.as_dict())


def provenance_from_proto(message: pb.Provenance) -> Provenance:
    """The provenance in a message."""
    return Provenance(**{name: getattr(message, name) for name in _PROVENANCE})


def _estimate_to_proto(estimate: GammaEstimate) -> pb.Estimate:
    return pb.Estimate(
        mean=estimate.mean.tolist(),
        sigma=estimate.sigma.tolist(),
        low=estimate.low.tolist(),
        high=estimate.high.tolist(),
    )


def _floats(values: Iterable[float]) -> FloatArray:
    return np.fromiter(values, dtype=np.float32)


def _estimate_from_proto(message: pb.Estimate) -> GammaEstimate:
    return GammaEstimate(
        _floats(message.mean), _floats(message.sigma), _floats(message.low), _floats(message.high)
    )


def _recovered_to_proto(recovered: Recovered) -> pb.RecoveredSensors:
    return pb.RecoveredSensors(
        channel=recovered.channel.tolist(),
        npho=recovered.npho.tolist(),
        npho_sigma=recovered.npho_sigma.tolist(),
        time=recovered.time.tolist(),
        time_sigma=recovered.time_sigma.tolist(),
        status=recovered.status.tolist(),
    )


def _recovered_from_proto(message: pb.RecoveredSensors) -> Recovered:
    return Recovered(
        channel=np.fromiter(message.channel, dtype=np.int32),
        npho=_floats(message.npho),
        npho_sigma=_floats(message.npho_sigma),
        time=_floats(message.time),
        time_sigma=_floats(message.time_sigma),
        status=np.fromiter(message.status, dtype=np.uint8),
    )


def reconstruction_to_proto(reconstruction: Reconstruction) -> pb.ReconstructResponse:
    """The answer to one event, without timings."""
    flags = {name: bool(reconstruction.flags & flag) for name, flag in _FLAGS.items()}
    return pb.ReconstructResponse(
        run=reconstruction.run,
        event=reconstruction.event,
        energy=_estimate_to_proto(reconstruction.energy),
        gamma_time=_estimate_to_proto(reconstruction.gamma_time),
        uvw=_estimate_to_proto(reconstruction.uvw),
        angle=_estimate_to_proto(reconstruction.angle),
        recovered=_recovered_to_proto(reconstruction.recovered),
        flags=pb.Flags(**flags),
        provenance=provenance_to_proto(reconstruction.provenance),
    )


def reconstruction_from_proto(message: pb.ReconstructResponse) -> Reconstruction:
    """The reconstruction in an answer."""
    flags = Flag.NONE
    for name, flag in _FLAGS.items():
        if getattr(message.flags, name):
            flags |= flag
    return Reconstruction(
        run=message.run,
        event=message.event,
        energy=_estimate_from_proto(message.energy),
        gamma_time=_estimate_from_proto(message.gamma_time),
        uvw=_estimate_from_proto(message.uvw),
        angle=_estimate_from_proto(message.angle),
        recovered=_recovered_from_proto(message.recovered),
        flags=flags,
        provenance=provenance_from_proto(message.provenance),
    )
