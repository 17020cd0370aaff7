"""How Airflow retries a task that raised one of our errors."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy

from coding_service.errors import ExpiredError, FinalError, RetryableError


class CodingServiceRetryPolicy(RetryPolicy):
    """Retries retryable errors after the time that the service asks for, and fails at once on other errors of ours.

    The task's `retries` still limit the attempts. An expired grant, link or output is not retried, because the task
    that raises the error has already tried a new one.

    :param final: further errors that are not retryable
    """

    def __init__(self, final: tuple[type[Exception], ...] = ()) -> None:
        self.final: tuple[type[Exception], ...] = (FinalError, ExpiredError, *final)

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Any = None
    ) -> RetryDecision:
        if isinstance(exception, RetryableError):
            seconds = exception.retry_after
            delay = None if seconds is None else timedelta(seconds=seconds + 1)
            return RetryDecision.retry(delay, reason=f"{type(exception).__name__}: retryable")
        if isinstance(exception, self.final):
            return RetryDecision.fail(reason=f"{type(exception).__name__}: not retryable")
        return RetryDecision.default()
