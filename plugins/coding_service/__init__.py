"""The WoAG Occupation Coding Service in Airflow: batch coding as tasks.

The names are imported when they are used: Airflow imports this package for :mod:`coding_service.provider_info` while
it loads its own configuration, and hooks and operators need a complete Airflow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coding_service.hooks import CodingServiceAsyncHook, CodingServiceHook
    from coding_service.operators import (
        CodingServiceCreateOperator,
        CodingServiceDownloadOperator,
        CodingServiceOperator,
        CodingServiceUploadOperator,
    )
    from coding_service.retry import CodingServiceRetryPolicy
    from coding_service.sensors import BatchCodeSensor
    from coding_service.triggers import BatchCodeTrigger

__all__ = [
    "BatchCodeSensor",
    "BatchCodeTrigger",
    "CodingServiceAsyncHook",
    "CodingServiceCreateOperator",
    "CodingServiceDownloadOperator",
    "CodingServiceHook",
    "CodingServiceOperator",
    "CodingServiceRetryPolicy",
    "CodingServiceUploadOperator",
]

_MODULES = {
    "BatchCodeSensor": "sensors",
    "BatchCodeTrigger": "triggers",
    "CodingServiceAsyncHook": "hooks",
    "CodingServiceCreateOperator": "operators",
    "CodingServiceDownloadOperator": "operators",
    "CodingServiceHook": "hooks",
    "CodingServiceOperator": "operators",
    "CodingServiceRetryPolicy": "retry",
    "CodingServiceUploadOperator": "operators",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
