"""The class of an error determines how the task is retried."""

from datetime import timedelta

import pytest
from airflow.sdk.definitions.retry_policy import RetryAction

from coding_service import CodingServiceRetryPolicy, errors


def subclasses(base):
    return [
        one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, base) and one is not base
    ]


def decide(error, **options):
    return CodingServiceRetryPolicy(**options).evaluate(error, try_number=1, max_tries=3)


@pytest.mark.parametrize("error", subclasses(errors.RetryableError))
def test_a_retryable_error_is_retried_when_the_service_says(error):
    decision = decide(error("busy", retry_after=30))
    assert (decision.action, decision.retry_delay) == (RetryAction.RETRY, timedelta(seconds=31))
    assert error.__name__ in decision.reason


@pytest.mark.parametrize("error", subclasses(errors.RetryableError))
def test_a_retryable_error_without_retry_after_is_retried_after_the_delay_of_the_task(error):
    decision = decide(error("busy"))
    assert (decision.action, decision.retry_delay) == (RetryAction.RETRY, None)


@pytest.mark.parametrize("error", [*subclasses(errors.FinalError), *subclasses(errors.ExpiredError)])
def test_an_error_that_is_not_retryable_fails_at_once(error):
    decision = decide(error("no"))
    assert decision.action is RetryAction.FAIL
    assert error.__name__ in decision.reason


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), OSError("disk full"), KeyboardInterrupt()])
def test_the_decision_on_other_exceptions_is_left_to_airflow(error):
    assert decide(error).action is RetryAction.DEFAULT


@pytest.mark.parametrize(("try_number", "seconds"), [(1, 30), (2, 60), (3, 120), (6, 960), (7, 1800), (500, 1800)])
def test_a_short_retry_after_does_not_use_up_the_attempts(try_number, seconds):
    error = errors.ServiceUnavailableError("busy", retry_after=1)
    decision = CodingServiceRetryPolicy().evaluate(error, try_number, max_tries=600)
    assert decision.retry_delay == timedelta(seconds=seconds)


@pytest.mark.parametrize(("try_number", "hours"), [(1, 1), (2, 1), (3, 9)])
def test_a_used_up_quota_is_probed_by_all_retries_but_the_last(try_number, hours):
    error = errors.QuotaExceededError("no", retry_after=3600, ends_after=9 * 3600)
    decision = CodingServiceRetryPolicy().evaluate(error, try_number, max_tries=3)
    assert decision.retry_delay == timedelta(hours=hours, seconds=1)


def test_further_errors_can_be_final():
    assert decide(ValueError("x"), final=(ValueError,)).action is RetryAction.FAIL
    assert decide(KeyError("x"), final=(ValueError,)).action is RetryAction.DEFAULT


def test_the_reason_does_not_contain_the_message_of_the_error():
    assert "5ec4e7" not in decide(errors.TransferError("PUT https://s3/a?sig=5ec4e7")).reason
