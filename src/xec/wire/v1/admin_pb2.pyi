from xec.wire.v1 import reconstruction_pb2 as _reconstruction_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReloadRequest(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class ReloadResponse(_message.Message):
    __slots__ = ("provenance", "changed")
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    provenance: _reconstruction_pb2.Provenance
    changed: bool
    def __init__(self, provenance: _Optional[_Union[_reconstruction_pb2.Provenance, _Mapping]] = ..., changed: bool = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("grace",)
    GRACE_FIELD_NUMBER: _ClassVar[int]
    grace: float
    def __init__(self, grace: _Optional[float] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("cut_off",)
    CUT_OFF_FIELD_NUMBER: _ClassVar[int]
    cut_off: int
    def __init__(self, cut_off: _Optional[int] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("provenance", "uptime_seconds", "events", "waiting", "streams", "draining", "serving", "conditions", "swaps", "models_open", "address")
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    UPTIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    SWAPS_FIELD_NUMBER: _ClassVar[int]
    MODELS_OPEN_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    provenance: _reconstruction_pb2.Provenance
    uptime_seconds: float
    events: EventCounts
    waiting: int
    streams: int
    draining: bool
    serving: bool
    conditions: str
    swaps: int
    models_open: int
    address: str
    def __init__(self, provenance: _Optional[_Union[_reconstruction_pb2.Provenance, _Mapping]] = ..., uptime_seconds: _Optional[float] = ..., events: _Optional[_Union[EventCounts, _Mapping]] = ..., waiting: _Optional[int] = ..., streams: _Optional[int] = ..., draining: bool = ..., serving: bool = ..., conditions: _Optional[str] = ..., swaps: _Optional[int] = ..., models_open: _Optional[int] = ..., address: _Optional[str] = ...) -> None: ...

class EventCounts(_message.Message):
    __slots__ = ("accepted", "refused", "computed", "failed", "expired", "abandoned")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    ABANDONED_FIELD_NUMBER: _ClassVar[int]
    accepted: int
    refused: int
    computed: int
    failed: int
    expired: int
    abandoned: int
    def __init__(self, accepted: _Optional[int] = ..., refused: _Optional[int] = ..., computed: _Optional[int] = ..., failed: _Optional[int] = ..., expired: _Optional[int] = ..., abandoned: _Optional[int] = ...) -> None: ...
