"""How Airflow retries a task of ours: as the error and the service say."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy

from coding_service.errors import ExpiredError, FinalError, RetryableError


class CodingServiceRetryPolicy(RetryPolicy):
    """Retries what may pass, after the time that the service asked for; fails at once what will not.

    A policy cannot give more tries than the task's `retries`. An expired grant, link or output is not retried as
    it is: the task that meets it has tried what a new grant or link can do.

    :param final: further errors that a repetition does not mend
    """

    def __init__(self, final: tuple[type[Exception], ...] = ()) -> None:
        self.final: tuple[type[Exception], ...] = (FinalError, ExpiredError, *final)

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Any = None
    ) -> RetryDecision:
        if isinstance(exception, RetryableError):
            seconds = exception.retry_after
            delay = None if seconds is None else timedelta(seconds=seconds + 1)
            return RetryDecision.retry(delay, reason=f"{type(exception).__name__}: may pass")
        if isinstance(exception, self.final):
            return RetryDecision.fail(reason=f"{type(exception).__name__}: a repetition does not mend this")
        return RetryDecision.default()
