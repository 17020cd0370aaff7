"""The class of an error tells what to do next, and its message contains no secret."""

import pickle

import pytest

from coding_service import errors
from coding_service.errors import CodingServiceError, ExpiredError, FinalError, RetryableError, redact

SIGNATURE = "X-Amz-Signature=5ec4e7"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        (f"see https://s3/in/a.jsonl?{SIGNATURE} now", "see https://s3/in/a.jsonl?*** now"),
        (f"http://s3/a?{SIGNATURE}", "http://s3/a?***"),
        (f"HTTPS://S3/a?{SIGNATURE}", "HTTPS://S3/a?***"),
        (f"Https://s3/a?x=1&{SIGNATURE}", "Https://s3/a?***"),
        (f"https://s3/a?{SIGNATURE} and https://s3/b?{SIGNATURE}", "https://s3/a?*** and https://s3/b?***"),
        (f"'https://s3/a?{SIGNATURE}', \"https://s3/b?{SIGNATURE}\"", "'https://s3/a?***', \"https://s3/b?***\""),
        (f"line 1\nhttps://s3/a?{SIGNATURE}\nline 3", "line 1https://s3/a?*** 3"),
        ("https://s3/a without a query", "https://s3/a without a query"),
        ("why? because", "why? because"),
    ],
)
def test_the_query_of_every_url_is_removed(text, redacted):
    assert redact(text) == redacted


def test_the_query_of_a_url_inside_xml_or_json_is_removed():
    assert SIGNATURE not in redact(f"<Url>https://s3/a?{SIGNATURE}</Url>")
    assert SIGNATURE not in redact(f'{{"url": "https://s3/a?{SIGNATURE}"}}')


@pytest.mark.parametrize("name", [name for name in dir(errors) if name.endswith("Error")])
def test_no_error_contains_the_query_of_a_url(name):
    error = getattr(errors, name)(f"PUT https://s3/a?{SIGNATURE} failed", status_code=500)
    assert "https://s3/a?***" in str(error)
    for text in (str(error), repr(error), f"{error.args}"):
        assert SIGNATURE not in text


def test_every_error_is_retryable_final_or_expired_and_nothing_else():
    kinds = (RetryableError, FinalError, ExpiredError)
    classes = [
        one
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, CodingServiceError) and one not in (CodingServiceError, *kinds)
    ]
    assert len(classes) == 22
    for one in classes:
        assert sum(issubclass(one, kind) for kind in kinds) == 1, one


def test_the_tree_in_the_module_docstring_names_every_error():
    for name, one in vars(errors).items():
        if isinstance(one, type) and issubclass(one, CodingServiceError):
            assert name in errors.__doc__


def test_status_code_and_retry_after_are_attributes():
    error = errors.TooManyRequestsError("slowly", status_code=429, retry_after=7.0)
    assert (error.status_code, error.retry_after) == (429, 7.0)
    assert errors.NotFoundError("gone").status_code is None


def test_an_error_can_be_pickled():
    error = pickle.loads(pickle.dumps(errors.TooManyRequestsError("slowly", status_code=429, retry_after=7.0)))
    assert (type(error), str(error), error.retry_after) == (errors.TooManyRequestsError, "slowly", 7.0)
