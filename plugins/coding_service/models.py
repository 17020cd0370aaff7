"""What the service speaks of: topics, models, operations, upload grants. Frozen, parsed and validated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

from coding_service.errors import ProtocolError


def _text(data: Mapping[str, Any], name: str, what: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value:
        raise ProtocolError(f"{what} has no {name!r} (members: {sorted(data)}); expected a non-empty string")
    return value


def _optional_text(data: Mapping[str, Any], name: str) -> str | None:
    value = data.get(name)
    return None if value in (None, "") else str(value)


def _object(data: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise ProtocolError(f"{what} is a JSON {type(data).__name__}; expected an object")
    return data


@dataclass(frozen=True)
class Topic:
    """A classification that the service codes to (contract 3.1)."""

    uri_name: str
    full_name: str

    @classmethod
    def from_json(cls, data: Any) -> Self:
        data = _object(data, "a topic")
        uri_name = _text(data, "uriName", "a topic")
        return cls(uri_name, _optional_text(data, "fullName") or uri_name)


@dataclass(frozen=True)
class Model:
    """A model of a topic (contract 3.2). `version` is a number to compare, None if it is not one."""

    model_id: str
    version: float | None = None
    input_format: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Any) -> Self:
        data = _object(data, "a model")
        version = data.get("modelVersion")
        fields = data.get("inputFormat")
        return cls(
            model_id=_text(data, "modelId", "a model"),
            version=float(version) if isinstance(version, int | float) else None,
            input_format=tuple(map(str, fields)) if isinstance(fields, list) else (),
        )


class OperationStatus(StrEnum):
    """States of an operation (contract 2.9 and 5)."""

    AWAITING_INPUT = "awaiting_input"
    IN_PROGRESS = "in_progress"
    COMPLETE = "complete"
    TIMED_OUT = "timed_out"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        return self not in (OperationStatus.AWAITING_INPUT, OperationStatus.IN_PROGRESS)

    @property
    def is_successful(self) -> bool:
        return self is OperationStatus.COMPLETE


@dataclass(frozen=True)
class Operation:
    """The state of one operation (contract 2.9). The links are secrets and stay out of `repr`."""

    operation_id: str
    status: OperationStatus
    output_url: str | None = field(default=None, repr=False)
    metadata_url: str | None = field(default=None, repr=False)
    error: str | None = None

    @classmethod
    def from_json(cls, operation_id: str, data: Any) -> Self:
        data = _object(data, f"the status of operation {operation_id!r}")
        value = _text(data, "operationStatus", f"the status of operation {operation_id!r}")
        try:
            status = OperationStatus(value)
        except ValueError:
            raise ProtocolError(
                f"operation {operation_id!r} has the unknown status {value!r}; known: {[*map(str, OperationStatus)]}"
            ) from None
        return cls(
            operation_id=operation_id,
            status=status,
            output_url=_optional_text(data, "responseDownloadUrl"),
            metadata_url=_optional_text(data, "metadataDownloadUrl"),
            error=_optional_text(data, "error"),
        )

    @property
    def is_usable(self) -> bool:
        """Whether this operation can still deliver: it is on its way, or its output is there to download."""
        return bool(self.output_url) if self.status.is_successful else not self.status.is_terminal


@dataclass(frozen=True)
class UploadGrant:
    """What create hands out (contract 2.7): the right to upload one input file. URL and key are secrets."""

    operation_id: str
    url: str = field(repr=False)
    kms_key_arn: str = field(repr=False)

    @classmethod
    def from_json(cls, data: Any) -> Self:
        what = "the answer to a batch-code request"
        data = _object(data, what)
        return cls(
            operation_id=_text(data, "operationId", what),
            url=_text(data, "requestUploadUrl", what),
            kms_key_arn=_text(data, "bucketKmsKeyArn", what),
        )

    def as_dict(self) -> dict[str, str]:
        return asdict(self)
