"""The base class of all values that one task passes to another, as JSON through XCom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from include.coding.errors import PlanError


class Handoff:
    """A dataclass whose fields are plain values or other dataclasses, none of them a secret."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return TypeAdapter(type(self)).dump_python(self, mode="json")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the dataclass that :meth:`to_dict` was called on.

        :raises PlanError: a field is missing or has the wrong type
        """
        try:
            return TypeAdapter(cls).validate_python(data)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise PlanError(
                f"{cls.__name__} is invalid: {problems}. Correct the param, or clear the task that wrote it"
            ) from None
