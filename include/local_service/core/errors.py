"""The reasons why the service refuses a request. The HTTP side maps each to a status and a message."""

from __future__ import annotations


class ServiceError(Exception):
    """A request that the service refuses; the class names the reason."""


class AccessDeniedError(ServiceError):
    """The token is missing, wrong or expired."""


class UnknownClientError(ServiceError):
    """No client has this id and secret."""


class TooManyRequestsError(ServiceError):
    """The client sends calls too quickly.

    :param retry_after: seconds to wait before the next call.
    """

    def __init__(self, retry_after: int = 1) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


class LimitExceededError(ServiceError):
    """The client has used all its calls for the day."""


class InvalidBodyError(ServiceError):
    """The body of the request does not fit the endpoint."""


class MalformedRecordError(ServiceError):
    """A record of a synchronous request does not fit the model's input format."""


class UnknownTopicError(ServiceError):
    """There is no such topic."""


class UnknownModelError(ServiceError):
    """There is no such model."""


class ModelTopicMismatchError(ServiceError):
    """The model belongs to another topic."""


class UnknownOperationError(ServiceError):
    """The client has no such operation under this topic."""


class NoModelsError(ServiceError):
    """The topic has no models."""


class RequestFailedError(ServiceError):
    """The service failed to perform the request."""
