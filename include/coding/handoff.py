"""The base class of all values that one task passes to another, as JSON through XCom, and the types of their fields.

People with an ordinary role of Airflow can edit XComs. So nothing that comes from one is used before
:meth:`Handoff.from_dict` has checked every field of it, and a field without a bound or a form does not exist.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)

from include.coding.errors import PlanError

#: Key of the validation context: URI of the folder of the run that reads the value.
_FOLDER = "folder"
#: Maximum number of problems that a message lists, and of characters of the name of a field there.
_MAX_PROBLEMS, _MAX_NAME_CHARACTERS = 5, 80
#: Names within the folder of a run: a file, or a file in the folder of an operation. None begins with a dot.
_NAME = "[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
_RUN_FILE = re.compile(rf"({_NAME}/)?{_NAME}")
#: Names of input files, which end with the beginning of the SHA-256 of their content.
_INPUT_FILE = re.compile(r"part-[0-9]{4,6}-[0-9a-f]{12}\.jsonl|piece-[0-9a-f]{16}\.jsonl")


def find_run_file(uri: str, folder: str) -> str:
    """Return the name of a file within the folder of a run.

    :param folder: URI of the folder
    :raises ValueError: the URI is not that of a file there
    """
    name = uri.removeprefix(f"{folder}/")
    if name == uri or not _RUN_FILE.fullmatch(name):
        raise ValueError("it is not a file in the folder of this run")
    return name


def _check_day(value: str) -> str:
    try:  # the Coding page checks thousands of days
        is_day = date.fromisoformat(value).isoformat() == value
    except ValueError:
        is_day = False
    if not is_day:
        raise ValueError("it is not a date such as 2026-10-31")
    return value


def _check_moment(value: str) -> str:
    try:
        datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("it is not a date with a time") from None  # whose message would have the value
    return value


def _check_run_file(uri: str, info: ValidationInfo) -> str:
    if info.context is not None:
        find_run_file(uri, info.context[_FOLDER])
    return uri


def _check_input_file(uri: str, info: ValidationInfo) -> str:
    _check_run_file(uri, info)
    if not _INPUT_FILE.fullmatch(uri.rpartition("/")[2]):
        raise ValueError("it does not have the name of an input file")
    return uri


#: Texts: a sentence for people, a name or a key, the key of a run, and the source or a column as a person names it.
Text = Annotated[str, StringConstraints(max_length=20_000)]
ShortText = Annotated[str, StringConstraints(max_length=200)]
RunId = Annotated[str, StringConstraints(min_length=1, max_length=501)]
SourceName = Annotated[str, StringConstraints(max_length=2_000, pattern=r"^[^\x00-\x1f\x7f]+$")]
#: uriName of a classification, GUID of a model or an operation, and an id of an operation as part of a file name.
Topic = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._~-]{0,99}$")]
Guid = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{8}(-?[0-9A-Fa-f]{4}){3}-?[0-9A-Fa-f]{12}$")]
PlainId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,100}$")]
#: A state of an operation, or why the wait for it ended.
Word = Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,40}$")]
#: Name of a schema of the warehouse. PostgreSQL cuts longer ones off.
SchemaName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
#: A date and a point in time, ISO 8601.
Day = Annotated[str, StringConstraints(max_length=10), AfterValidator(_check_day)]
Moment = Annotated[str, StringConstraints(max_length=40), AfterValidator(_check_moment)]
#: Numbers: of records, bytes or the like; of any kind; of a part or a piece; of seconds; with decimal places.
Count = Annotated[int, Field(ge=0, le=10**15)]
WholeNumber = Annotated[int, Field(ge=-(10**15), le=10**15)]
PartNumber = Annotated[int, Field(ge=0, le=1_000_000)]
Seconds = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
Number = Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)]
#: URIs of files of the run that reads them: of any, and of an input file, the only kind that is ever sent.
RunFile = Annotated[str, StringConstraints(max_length=2_000), AfterValidator(_check_run_file)]
InputFile = Annotated[str, StringConstraints(max_length=2_000), AfterValidator(_check_input_file)]


class Handoff:
    """A dataclass whose fields are plain values or other dataclasses, none of them a secret."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    #: Fields that earlier versions wrote. They are ignored, so that a run can continue after an update.
    OBSOLETE_FIELDS: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    @functools.cache  # it takes a hundred times as long to make as to use
    def _make_adapter(cls) -> TypeAdapter[Any]:
        return TypeAdapter(cls)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return self._make_adapter().dump_python(self, mode="json")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, task: str | None = None, folder: str | None = None) -> Self:
        """Return the dataclass that :meth:`to_dict` was called on.

        :param task: id of the task that wrote the data; None if it is from the form
        :param folder: URI of the folder of the run, which contains all of its files; None: they are not compared
        :raises PlanError: a field is missing, unknown, or has a value that it cannot have
        """
        remedy = f"Clear the task {task!r} to compute it again" if task else "Correct the param"
        if isinstance(data, Mapping):
            data = {name: value for name, value in data.items() if name not in cls.OBSOLETE_FIELDS}
        try:
            return cls._make_adapter().validate_python(data, context=None if folder is None else {_FOLDER: folder})
        except ValidationError as error:
            problems = [_describe_problem(item) for item in error.errors(include_input=False)]
            more = f"; and {len(problems) - _MAX_PROBLEMS} more" if len(problems) > _MAX_PROBLEMS else ""
            raise PlanError(
                f"{cls.__name__} is invalid: {'; '.join(problems[:_MAX_PROBLEMS])}{more}. {remedy}"
            ) from None
        except PlanError as error:  # of a check of several fields together
            raise PlanError(f"{error}. {remedy}" if task else str(error)) from None


def _describe_problem(item: Mapping[str, Any]) -> str:
    """Return the name of a field and what is wrong with it, without its value."""
    name = ".".join(map(str, item["loc"]))
    label = "".join(character if character.isprintable() else "?" for character in name[:_MAX_NAME_CHARACTERS])
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{label}: {message}" if label else message
