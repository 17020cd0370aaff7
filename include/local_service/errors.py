"""What the behaviour refuses.

ServiceError
├── AccessDeniedError          no token, or one that is wrong or expired
├── UnknownClientError         wrong client id or secret at the token endpoint
├── TooManyRequestsError       calls too close together
├── LimitExceededError         the day's calls are used up
├── InvalidBodyError           the body is not what the endpoint takes
├── MalformedRecordError       a record does not fit the model's format
├── UnknownTopicError
├── UnknownModelError
├── ModelTopicMismatchError    the model belongs to another topic
├── UnknownOperationError      no such operation of this client
├── NoModelsError              the topic has no models
└── RequestFailedError         the service itself failed
StorageError                   what the object storage refuses, with S3's error code
"""

from __future__ import annotations


class ServiceError(Exception):
    """A request that the service refuses; the class says why."""


class AccessDeniedError(ServiceError):
    """The token is missing, wrong or expired."""


class UnknownClientError(ServiceError):
    """No client has this id and secret."""


class TooManyRequestsError(ServiceError):
    """The client calls too fast.

    :param retry_after: seconds to wait before the next call.
    """

    def __init__(self, retry_after: int = 1) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


class LimitExceededError(ServiceError):
    """The client has used up its calls for the day."""


class InvalidBodyError(ServiceError):
    """The body of the request is not what the endpoint takes."""


class MalformedRecordError(ServiceError):
    """A record of a synchronous request does not fit the model's format."""


class UnknownTopicError(ServiceError):
    """There is no such topic."""


class UnknownModelError(ServiceError):
    """There is no such model."""


class ModelTopicMismatchError(ServiceError):
    """The model belongs to another topic."""


class UnknownOperationError(ServiceError):
    """This client has no such operation under this topic."""


class NoModelsError(ServiceError):
    """The topic has no models."""


class RequestFailedError(ServiceError):
    """The service failed to perform the request."""


class StorageError(Exception):
    """What the object storage refuses.

    :param code: S3's error code, such as ``AccessDenied``.
    :param message: S3's message.
    :param details: further elements of the error document.
    """

    def __init__(self, code: str, message: str, **details: str | int) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.details = details
