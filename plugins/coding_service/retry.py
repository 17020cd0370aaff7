"""How Airflow retries a task that raised one of our errors."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy

from coding_service.errors import ExpiredError, FinalError, QuotaExceededError, RetryableError

#: A retry is not made earlier than this after the first attempt; each later one twice as late, up to the maximum.
#: Otherwise a service that always asks for a second would use up the attempts of hours within a minute.
FIRST_DELAY_S, MAX_DELAY_S = 30.0, 1800.0


class CodingServiceRetryPolicy(RetryPolicy):
    """Retries retryable errors, not before the time that the service asks for, and fails at once on others of ours.

    The task's `retries` still limit the attempts. While the quota of calls is used up, a retry shows every hour
    whether calls are accepted again; the last one is made when they certainly are. An expired grant, link or output
    is not retried, because the task that raises the error has already tried a new one.

    :param final: further errors that are not retryable
    """

    def __init__(self, final: tuple[type[Exception], ...] = ()) -> None:
        self.final: tuple[type[Exception], ...] = (FinalError, ExpiredError, *final)

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Any = None
    ) -> RetryDecision:
        if isinstance(exception, RetryableError):
            seconds = exception.retry_after
            if isinstance(exception, QuotaExceededError) and try_number >= max_tries:
                seconds = exception.ends_after
            delay = None if seconds is None else timedelta(seconds=max(seconds + 1, growing_delay(try_number)))
            return RetryDecision.retry(delay, reason=f"{type(exception).__name__}: retryable")
        if isinstance(exception, self.final):
            return RetryDecision.fail(reason=f"{type(exception).__name__}: not retryable")
        return RetryDecision.default()


def growing_delay(try_number: int) -> float:
    """Return the minimum number of seconds between this attempt (1 is the first) and the next."""
    return float(min(FIRST_DELAY_S * 2 ** min(try_number - 1, 30), MAX_DELAY_S))
