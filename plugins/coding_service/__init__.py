"""The WoAG Occupation Coding Service in Airflow: batch coding as tasks."""

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
