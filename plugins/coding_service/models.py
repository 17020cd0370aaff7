"""Frozen types: what the service answers, and what the operators pass from task to task."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from coding_service.errors import ProtocolError, UnknownStatusError
from coding_service.redaction import redact_foreign

#: Operations and models have GUIDs (docs/service-contract.md 2.7, 3.2). They become part of paths and file names.
GUID = re.compile(r"[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.IGNORECASE)
#: The name of a topic is part of paths (docs/service-contract.md 3.1).
TOPIC_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9._~-]{1,100}")
#: A value that is sent back in a header.
HEADER_VALUE = re.compile(r"[!-~](?:[ -~]{0,2046}[!-~])?")
SHA256 = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)
#: The URI of a file, without a segment that leads out of its folder.
FILE_URI = re.compile(r"(?:file|s3)://(?!.*(?:/|%2f)(?:\.|%2e){2}(?:/|%2f|$))[^\x00-\x1f\x7f]{1,4096}", re.IGNORECASE)
#: Maximum length of a link: that of a URL at AWS, with room to spare.
MAX_LINK_LENGTH = 16_384

log = logging.getLogger(__name__)


def check_guid(value: Any, name: str) -> str:
    """Return a GUID, in the case in which the service spells it.

    :param name: what it identifies, for the error message
    :raises ProtocolError: it is none, so that it could lead to another path
    """
    return _check_form(value, GUID, name, "expected a GUID")


def check_topic(value: Any) -> str:
    """Return the name of a topic.

    :raises ProtocolError: it is not a name that can be part of a path
    """
    return _check_form(value, TOPIC_NAME, "the topic", "expected letters, digits and .-_~, 100 at most")


def check_model(value: Any) -> str | None:
    """Return the GUID of a model; None for the latest one, which is also called `latest`.

    :raises ProtocolError: it is neither
    """
    return None if value in (None, "latest") else check_guid(value, "the model")


def check_file(value: Any, name: str) -> str:
    """Return the URI of a file that is named by its URI or by its absolute path on this machine.

    :param name: what the file is for, for the error message
    :raises ProtocolError: it is neither, or leads out of its folder
    """
    uri = PurePosixPath(value).as_uri() if isinstance(value, str) and value.startswith("/") else value
    return _check_form(uri, FILE_URI, name, "expected an absolute path, or a file:// or s3:// URI, without '..'")


def _check_form(value: Any, form: re.Pattern[str], name: str, expected: str) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        text = redact_foreign(value) if isinstance(value, str) else type(value).__name__
        raise ProtocolError(f"{name} is {text!r}; {expected}")
    return value


def _letters(name: str) -> str:
    """Return the letters of a name in lower case: two spellings of one name have the same."""
    return re.sub("[^a-z]", "", name.lower())


def _member(data: Mapping[str, Any], name: str) -> Any:
    """Return the value of a member, also if its name is spelled differently (docs/service-contract.md 10.7)."""
    if name in data:
        return data[name]
    others = [other for other in data if isinstance(other, str) and _letters(other) == _letters(name)]
    if len(others) != 1:
        return None
    log.warning("The service spells the field %r as %r", name, redact_foreign(others[0]))
    return data[others[0]]


def _text(data: Mapping[str, Any], name: str, source: str) -> str:
    value = _member(data, name)
    if not isinstance(value, str) or not value:
        members = redact_foreign(str(sorted(map(str, data))))
        raise ProtocolError(f"{source} has no {name!r} (members: {members}); expected a non-empty string")
    return value


def _optional_text(data: Mapping[str, Any], name: str) -> str | None:
    value = _member(data, name)
    return None if value in (None, "") else str(value)


def _optional_link(data: Mapping[str, Any], name: str) -> str | None:
    value = _optional_text(data, name)
    return None if value is None else _check_link(value, name)


def _check_link(value: str, name: str) -> str:
    """Return a link that is not too long; which hosts are allowed is checked where it is used."""
    if len(value) > MAX_LINK_LENGTH:
        raise ProtocolError(f"{name!r} has {len(value)} characters; expected a link")
    return value


def finite_number(value: Any) -> float | None:
    """Return a number; None for anything else, such as `true`, `NaN`, or a number too large to calculate with."""
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _object(data: Any, source: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise ProtocolError(f"{source} is a JSON {type(data).__name__}; expected an object")
    return data


class DictMixin:
    """A dataclass that can be converted to a dict of JSON values and back."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the fields from `data` and ignore its other members.

        :raises TypeError: a field that has no default is missing
        """
        names = [entry.name for entry in fields(cls)]  # type: ignore[arg-type]
        return cls(**{name: data[name] for name in names if name in data})


@dataclass(frozen=True)
class Topic:
    """A classification that the service codes to (docs/service-contract.md 3.1)."""

    uri_name: str
    full_name: str

    @classmethod
    def from_json(cls, data: Any) -> Self:
        data = _object(data, "a topic")
        uri_name = check_topic(_text(data, "uriName", "a topic"))
        return cls(uri_name, redact_foreign(_optional_text(data, "fullName") or uri_name))


@dataclass(frozen=True)
class Model:
    """A model of a topic (docs/service-contract.md 3.2). A `version` that is not a number is None."""

    model_id: str
    version: float | None = None
    input_format: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Any) -> Self:
        data = _object(data, "a model")
        fields = _member(data, "inputFormat")
        return cls(
            model_id=check_guid(_text(data, "modelId", "a model"), "the id of a model"),
            version=finite_number(_member(data, "modelVersion")),
            input_format=tuple(map(str, fields)) if isinstance(fields, list) else (),
        )


class OperationStatus(StrEnum):
    """States of an operation (docs/service-contract.md 2.9 and 5)."""

    AWAITING_INPUT = "awaiting_input"
    IN_PROGRESS = "in_progress"
    COMPLETE = "complete"
    TIMED_OUT = "timed_out"
    FAILED = "failed"

    @classmethod
    def from_text(cls, text: str) -> OperationStatus:
        """Read a status, also if it is spelled differently, as in `In Progress` (docs/service-contract.md 10.7).

        :raises ValueError: it is another word
        """
        try:
            return cls(text)
        except ValueError:
            letters = _letters(text).replace("completed", "complete")
            status = next((one for one in cls if _letters(one) == letters), None)
            if status is None:
                raise
        log.warning("The service spells the status %r as %r", str(status), redact_foreign(text))
        return status

    @property
    def is_terminal(self) -> bool:
        return self not in (OperationStatus.AWAITING_INPUT, OperationStatus.IN_PROGRESS)

    @property
    def is_successful(self) -> bool:
        return self is OperationStatus.COMPLETE


@dataclass(frozen=True)
class Operation:
    """The state of an operation (docs/service-contract.md 2.9). Its links are secrets, and its error can quote a
    text, so they are not part of its `repr`."""

    operation_id: str
    status: OperationStatus
    output_url: str | None = field(default=None, repr=False)
    metadata_url: str | None = field(default=None, repr=False)
    error: str | None = field(default=None, repr=False)

    @classmethod
    def from_json(cls, operation_id: str, data: Any) -> Self:
        operation_id = check_guid(operation_id, "the id of the operation")
        data = _object(data, f"the status of operation {operation_id!r}")
        value = _text(data, "operationStatus", f"the status of operation {operation_id!r}")
        try:
            status = OperationStatus.from_text(value)
        except ValueError:
            raise UnknownStatusError(
                f"operation {operation_id!r} has the unknown status {redact_foreign(value)!r}; known:"
                f" {[*map(str, OperationStatus)]}"
            ) from None
        output_url, metadata_url = (_optional_link(data, f"{name}DownloadUrl") for name in ("response", "metadata"))
        return cls(operation_id, status, output_url, metadata_url, _optional_text(data, "error"))

    @property
    def lacks_output(self) -> bool:
        """Whether the operation is complete without a link: its output is deleted, or is not offered yet."""
        return self.status.is_successful and not self.output_url


@dataclass(frozen=True)
class UploadGrant(DictMixin):
    """The right to upload one input file (docs/service-contract.md 2.7). URL and key are secrets.

    :param model_id: the model that the operation was opened for; None: the latest one
    """

    operation_id: str
    url: str = field(repr=False)
    kms_key_arn: str = field(repr=False)
    model_id: str | None = None

    @classmethod
    def from_json(cls, data: Any, model_id: str | None = None) -> Self:
        source = "the answer to a batch-code request"
        data = _object(data, source)
        names = ("operationId", "requestUploadUrl", "bucketKmsKeyArn")
        operation_id, url, key = (_text(data, name, source) for name in names)
        if not HEADER_VALUE.fullmatch(key):
            raise ProtocolError(
                f"'bucketKmsKeyArn' in {source} cannot be sent in a header; expected the ARN of a key"
            )
        check_guid(operation_id, f"the operation id in {source}")
        return cls(operation_id, _check_link(url, "requestUploadUrl"), key, model_id)

    @property
    def expiry_time(self) -> float | None:
        """When the URL expires, in seconds since the epoch, as it says itself; None if it does not."""
        query = parse_qs(urlsplit(self.url).query)
        try:
            signed_at = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            return signed_at.timestamp() + int(query["X-Amz-Expires"][0])
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True)
class Fingerprint(DictMixin):
    """The purpose of an operation: topic, model and input file. An operation is resumed only for an equal one.

    :param model_id: None: the latest model
    :param input_sha256: None: the step that opened the operation does not know the input file
    """

    topic: str
    model_id: str | None
    input_sha256: str | None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | str) -> Self:
        """Read a fingerprint. Version 0.1 stored it as the text "topic/model/sha256"."""
        return cls(*data.rsplit("/", 2)) if isinstance(data, str) else super().from_dict(data)


@dataclass(frozen=True)
class InputPart(DictMixin):
    """One input file, coded by one operation: the fields of a part that the operators use.

    :param model_id: GUID of the model; None: the latest one
    :param input_uri, sha256: the input file (JSONL; `file://` or `s3://`) and its hash, hexadecimal; empty and None
        for a step that does not use the file
    :param force_new: whether every attempt opens a new operation instead of resuming an earlier one
    :param expected_seconds: expected duration of the operation; None if unknown
    :param records: number of lines of the input file; None if unknown
    """

    topic: str
    model_id: str | None = None
    input_uri: str = ""
    sha256: str | None = None
    force_new: bool = False
    expected_seconds: float | None = None
    records: int | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a part from a hand-off, which users of Airflow can edit.

        :raises ProtocolError: a field is missing, or is not what it has to be
        """
        names = ("topic", "model_id", "input_uri", "sha256")
        if not all(name in data for name in names):
            raise ProtocolError(f"the part lacks a field; it needs {', '.join(names)}")
        part = super().from_dict(data)
        check_topic(part.topic)
        check_guid(part.model_id, "the model of the part")
        _check_form(part.sha256, SHA256, "the sha256 of the part", "expected 64 hexadecimal digits")
        _check_form(part.input_uri, FILE_URI, "the input file of the part", "expected a file:// or s3:// URI")
        for name in ("expected_seconds", "records"):
            value = getattr(part, name)
            if value is not None and (finite_number(value) is None or value < 0):
                raise ProtocolError(f"{name!r} of the part is {str(value)!r}; expected a number from 0, or none")
        if not isinstance(part.force_new, bool):
            raise ProtocolError(f"'force_new' of the part is {str(part.force_new)!r}; expected true or false")
        return part

    @property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint(self.topic, self.model_id, self.sha256)


@dataclass(frozen=True)
class DownloadResult(DictMixin):
    """The files of a complete operation, as the download step returns them.

    :param bytes, sha256, records: size, hexadecimal hash and number of lines of the output file
    """

    operation_id: str
    input_uri: str
    output_uri: str
    metadata_uri: str | None
    bytes: int
    sha256: str
    records: int
    fingerprint: Fingerprint

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        return super().from_dict({**data, "fingerprint": Fingerprint.from_dict(data["fingerprint"])})


@dataclass(frozen=True)
class OperationOutcome(DictMixin):
    """How an operation ended, or why the wait for it did.

    :param state: a :class:`coding_service.triggers.Reason`
    :param seconds: how long the wait took; None if an earlier attempt waited as well
    :param ended_at: when the wait ended, in seconds since the epoch: the operation ended before; None if unknown
    """

    operation_id: str
    state: str
    message: str
    seconds: float | None = None
    ended_at: float | None = None
