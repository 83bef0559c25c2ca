from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Lane(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LANE_UNSPECIFIED: _ClassVar[Lane]
    LANE_ONLINE: _ClassVar[Lane]
    LANE_OFFLINE: _ClassVar[Lane]

class RecoveryStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RECOVERY_STATUS_UNSPECIFIED: _ClassVar[RecoveryStatus]
    RECOVERY_STATUS_INPAINTED: _ClassVar[RecoveryStatus]
    RECOVERY_STATUS_BASELINE: _ClassVar[RecoveryStatus]
    RECOVERY_STATUS_REFUSED: _ClassVar[RecoveryStatus]
LANE_UNSPECIFIED: Lane
LANE_ONLINE: Lane
LANE_OFFLINE: Lane
RECOVERY_STATUS_UNSPECIFIED: RecoveryStatus
RECOVERY_STATUS_INPAINTED: RecoveryStatus
RECOVERY_STATUS_BASELINE: RecoveryStatus
RECOVERY_STATUS_REFUSED: RecoveryStatus

class Event(_message.Message):
    __slots__ = ("run", "event", "npho", "time", "npho_valid", "time_valid")
    RUN_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    NPHO_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    NPHO_VALID_FIELD_NUMBER: _ClassVar[int]
    TIME_VALID_FIELD_NUMBER: _ClassVar[int]
    run: int
    event: int
    npho: bytes
    time: bytes
    npho_valid: bytes
    time_valid: bytes
    def __init__(self, run: _Optional[int] = ..., event: _Optional[int] = ..., npho: _Optional[bytes] = ..., time: _Optional[bytes] = ..., npho_valid: _Optional[bytes] = ..., time_valid: _Optional[bytes] = ...) -> None: ...

class DeadList(_message.Message):
    __slots__ = ("resolve", "list_id", "channels")
    class Resolve(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class Channels(_message.Message):
        __slots__ = ("id",)
        ID_FIELD_NUMBER: _ClassVar[int]
        id: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, id: _Optional[_Iterable[int]] = ...) -> None: ...
    RESOLVE_FIELD_NUMBER: _ClassVar[int]
    LIST_ID_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    resolve: DeadList.Resolve
    list_id: str
    channels: DeadList.Channels
    def __init__(self, resolve: _Optional[_Union[DeadList.Resolve, _Mapping]] = ..., list_id: _Optional[str] = ..., channels: _Optional[_Union[DeadList.Channels, _Mapping]] = ...) -> None: ...

class ReconstructRequest(_message.Message):
    __slots__ = ("event", "dead_list", "model_version", "lane")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    DEAD_LIST_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    event: Event
    dead_list: DeadList
    model_version: str
    lane: Lane
    def __init__(self, event: _Optional[_Union[Event, _Mapping]] = ..., dead_list: _Optional[_Union[DeadList, _Mapping]] = ..., model_version: _Optional[str] = ..., lane: _Optional[_Union[Lane, str]] = ...) -> None: ...

class ReconstructBatchRequest(_message.Message):
    __slots__ = ("events", "dead_list", "model_version", "lane")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    DEAD_LIST_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    dead_list: DeadList
    model_version: str
    lane: Lane
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., dead_list: _Optional[_Union[DeadList, _Mapping]] = ..., model_version: _Optional[str] = ..., lane: _Optional[_Union[Lane, str]] = ...) -> None: ...

class RecoveredSensors(_message.Message):
    __slots__ = ("channel", "npho", "npho_sigma", "time", "time_sigma", "status")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    NPHO_FIELD_NUMBER: _ClassVar[int]
    NPHO_SIGMA_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    TIME_SIGMA_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    channel: _containers.RepeatedScalarFieldContainer[int]
    npho: _containers.RepeatedScalarFieldContainer[float]
    npho_sigma: _containers.RepeatedScalarFieldContainer[float]
    time: _containers.RepeatedScalarFieldContainer[float]
    time_sigma: _containers.RepeatedScalarFieldContainer[float]
    status: _containers.RepeatedScalarFieldContainer[RecoveryStatus]
    def __init__(self, channel: _Optional[_Iterable[int]] = ..., npho: _Optional[_Iterable[float]] = ..., npho_sigma: _Optional[_Iterable[float]] = ..., time: _Optional[_Iterable[float]] = ..., time_sigma: _Optional[_Iterable[float]] = ..., status: _Optional[_Iterable[_Union[RecoveryStatus, str]]] = ...) -> None: ...

class Estimate(_message.Message):
    __slots__ = ("mean", "sigma", "low", "high")
    MEAN_FIELD_NUMBER: _ClassVar[int]
    SIGMA_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    mean: _containers.RepeatedScalarFieldContainer[float]
    sigma: _containers.RepeatedScalarFieldContainer[float]
    low: _containers.RepeatedScalarFieldContainer[float]
    high: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, mean: _Optional[_Iterable[float]] = ..., sigma: _Optional[_Iterable[float]] = ..., low: _Optional[_Iterable[float]] = ..., high: _Optional[_Iterable[float]] = ...) -> None: ...

class Flags(_message.Message):
    __slots__ = ("outside_fiducial", "outside_domain", "too_much_dead_light")
    OUTSIDE_FIDUCIAL_FIELD_NUMBER: _ClassVar[int]
    OUTSIDE_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    TOO_MUCH_DEAD_LIGHT_FIELD_NUMBER: _ClassVar[int]
    outside_fiducial: bool
    outside_domain: bool
    too_much_dead_light: bool
    def __init__(self, outside_fiducial: bool = ..., outside_domain: bool = ..., too_much_dead_light: bool = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("model_name", "model_version", "model_sha256", "geometry_hash", "dead_list_id", "software_version", "engine", "dead_list_revision", "dead_list_stale_since")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    GEOMETRY_HASH_FIELD_NUMBER: _ClassVar[int]
    DEAD_LIST_ID_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    DEAD_LIST_REVISION_FIELD_NUMBER: _ClassVar[int]
    DEAD_LIST_STALE_SINCE_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    model_sha256: str
    geometry_hash: str
    dead_list_id: str
    software_version: str
    engine: str
    dead_list_revision: str
    dead_list_stale_since: str
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., model_sha256: _Optional[str] = ..., geometry_hash: _Optional[str] = ..., dead_list_id: _Optional[str] = ..., software_version: _Optional[str] = ..., engine: _Optional[str] = ..., dead_list_revision: _Optional[str] = ..., dead_list_stale_since: _Optional[str] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue_seconds", "compute_seconds", "batch_size")
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    queue_seconds: float
    compute_seconds: float
    batch_size: int
    def __init__(self, queue_seconds: _Optional[float] = ..., compute_seconds: _Optional[float] = ..., batch_size: _Optional[int] = ...) -> None: ...

class ReconstructResponse(_message.Message):
    __slots__ = ("run", "event", "recovered", "energy", "gamma_time", "uvw", "angle", "flags", "provenance", "timings")
    RUN_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    RECOVERED_FIELD_NUMBER: _ClassVar[int]
    ENERGY_FIELD_NUMBER: _ClassVar[int]
    GAMMA_TIME_FIELD_NUMBER: _ClassVar[int]
    UVW_FIELD_NUMBER: _ClassVar[int]
    ANGLE_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    run: int
    event: int
    recovered: RecoveredSensors
    energy: Estimate
    gamma_time: Estimate
    uvw: Estimate
    angle: Estimate
    flags: Flags
    provenance: Provenance
    timings: Timings
    def __init__(self, run: _Optional[int] = ..., event: _Optional[int] = ..., recovered: _Optional[_Union[RecoveredSensors, _Mapping]] = ..., energy: _Optional[_Union[Estimate, _Mapping]] = ..., gamma_time: _Optional[_Union[Estimate, _Mapping]] = ..., uvw: _Optional[_Union[Estimate, _Mapping]] = ..., angle: _Optional[_Union[Estimate, _Mapping]] = ..., flags: _Optional[_Union[Flags, _Mapping]] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class ReconstructBatchResponse(_message.Message):
    __slots__ = ("responses",)
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[ReconstructResponse]
    def __init__(self, responses: _Optional[_Iterable[_Union[ReconstructResponse, _Mapping]]] = ...) -> None: ...

class StreamRequest(_message.Message):
    __slots__ = ("open", "event", "acknowledgement")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGEMENT_FIELD_NUMBER: _ClassVar[int]
    open: StreamOpen
    event: StreamEvent
    acknowledgement: StreamAcknowledgement
    def __init__(self, open: _Optional[_Union[StreamOpen, _Mapping]] = ..., event: _Optional[_Union[StreamEvent, _Mapping]] = ..., acknowledgement: _Optional[_Union[StreamAcknowledgement, _Mapping]] = ...) -> None: ...

class StreamOpen(_message.Message):
    __slots__ = ("dead_list", "model_version", "lane", "window", "acknowledges")
    DEAD_LIST_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGES_FIELD_NUMBER: _ClassVar[int]
    dead_list: DeadList
    model_version: str
    lane: Lane
    window: int
    acknowledges: bool
    def __init__(self, dead_list: _Optional[_Union[DeadList, _Mapping]] = ..., model_version: _Optional[str] = ..., lane: _Optional[_Union[Lane, str]] = ..., window: _Optional[int] = ..., acknowledges: bool = ...) -> None: ...

class StreamEvent(_message.Message):
    __slots__ = ("id", "event", "timeout")
    ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    id: int
    event: Event
    timeout: float
    def __init__(self, id: _Optional[int] = ..., event: _Optional[_Union[Event, _Mapping]] = ..., timeout: _Optional[float] = ...) -> None: ...

class StreamAcknowledgement(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, id: _Optional[_Iterable[int]] = ...) -> None: ...

class StreamResponse(_message.Message):
    __slots__ = ("opened", "answer")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    opened: StreamOpened
    answer: StreamAnswer
    def __init__(self, opened: _Optional[_Union[StreamOpened, _Mapping]] = ..., answer: _Optional[_Union[StreamAnswer, _Mapping]] = ...) -> None: ...

class StreamOpened(_message.Message):
    __slots__ = ("window",)
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    window: int
    def __init__(self, window: _Optional[int] = ...) -> None: ...

class StreamAnswer(_message.Message):
    __slots__ = ("id", "run", "event", "response", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: int
    run: int
    event: int
    response: ReconstructResponse
    error: EventError
    def __init__(self, id: _Optional[int] = ..., run: _Optional[int] = ..., event: _Optional[int] = ..., response: _Optional[_Union[ReconstructResponse, _Mapping]] = ..., error: _Optional[_Union[EventError, _Mapping]] = ...) -> None: ...

class EventError(_message.Message):
    __slots__ = ("code", "reason", "message", "violations", "retry_delay")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    RETRY_DELAY_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    violations: _containers.RepeatedCompositeFieldContainer[FieldViolation]
    retry_delay: float
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., violations: _Optional[_Iterable[_Union[FieldViolation, _Mapping]]] = ..., retry_delay: _Optional[float] = ...) -> None: ...

class FieldViolation(_message.Message):
    __slots__ = ("field", "description")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    field: str
    description: str
    def __init__(self, field: _Optional[str] = ..., description: _Optional[str] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("provenance", "contract_version", "dead_channels", "metadata", "dead_lists")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_VERSION_FIELD_NUMBER: _ClassVar[int]
    DEAD_CHANNELS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    DEAD_LISTS_FIELD_NUMBER: _ClassVar[int]
    provenance: Provenance
    contract_version: str
    dead_channels: int
    metadata: _containers.ScalarMap[str, str]
    dead_lists: str
    def __init__(self, provenance: _Optional[_Union[Provenance, _Mapping]] = ..., contract_version: _Optional[str] = ..., dead_channels: _Optional[int] = ..., metadata: _Optional[_Mapping[str, str]] = ..., dead_lists: _Optional[str] = ...) -> None: ...
