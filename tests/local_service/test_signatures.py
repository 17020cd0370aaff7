"""Presigned URLs, compared with botocore and with the example that AWS publishes."""

from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from include.local_service.core.clients import AccessKeys
from include.local_service.http.signing import SignedRequest, Signer
from include.local_service.http.storage_errors import StorageError

SIGNER = Signer(AccessKeys("LOCAL0123456789", "a secret+/="), "ap-southeast-2")
HEADERS = {
    "x-amz-server-side-encryption": "aws:kms",
    "x-amz-server-side-encryption-aws-kms-key-id": "arn:aws:kms:ap-southeast-2:0:key/1",
}


def sign_with_botocore(method="PUT", headers=HEADERS, expires=900, path="/bucket/input/a.jsonl", signer=SIGNER):
    request = AWSRequest(method, f"http://127.0.0.1:8070{path}", headers=headers)
    credentials = Credentials(signer.keys.access_key, signer.keys.secret_key)
    S3SigV4QueryAuth(credentials, "s3", signer.region, expires=expires).add_auth(request)
    return request.url


def make_signed_request(url, method="PUT", headers=HEADERS):
    place = urlsplit(url)
    sent = (("host", place.netloc), *headers.items())
    return SignedRequest(method, place.path, place.query, sent)


def now():
    return datetime.now(UTC).timestamp()


def refusal(request, at=None, signer=SIGNER):
    with pytest.raises(StorageError) as caught:
        signer.verify(request, at or now())
    return caught.value.code, caught.value.message


def test_the_example_that_aws_publishes_is_accepted():
    signer = Signer(AccessKeys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"), "us-east-1")
    query = (
        "X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )
    request = SignedRequest("GET", "/test.txt", query, (("host", "examplebucket.s3.amazonaws.com"),))
    moment = datetime(2013, 5, 24, 12, tzinfo=UTC).timestamp()
    signer.verify(request, moment)
    with pytest.raises(StorageError, match="SignatureDoesNotMatch"):
        signer.verify(replace(request, path="/test.tx"), moment)


def test_a_url_signed_by_botocore_is_accepted():
    path = "/bucket/input/a%20b%2Bc~d.jsonl"
    SIGNER.verify(make_signed_request(sign_with_botocore()), now())
    SIGNER.verify(make_signed_request(sign_with_botocore(path=path)), now())
    SIGNER.verify(make_signed_request(sign_with_botocore("GET", {}), "GET", {}), now())
    with pytest.raises(StorageError, match="SignatureDoesNotMatch"):
        SIGNER.verify(make_signed_request(sign_with_botocore("GET", {}), "PUT", {}), now())


def test_the_signature_equals_that_of_botocore():
    theirs = sign_with_botocore()
    stamp = theirs.partition("X-Amz-Date=")[2][:16]
    at = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    ours = SIGNER.presign(
        "PUT", "http://127.0.0.1:8070", "/bucket/input/a.jsonl", now=at, expires_in=900, headers=HEADERS
    )
    assert set(urlsplit(ours).query.split("&")) == set(urlsplit(theirs).query.split("&"))


@pytest.mark.parametrize(
    "make_request",  # signed when the test runs, because the URL expires
    [
        lambda: make_signed_request(sign_with_botocore(), method="GET"),
        lambda: make_signed_request(
            sign_with_botocore(), headers={**HEADERS, "x-amz-server-side-encryption": "AES256"}
        ),
        lambda: make_signed_request(sign_with_botocore(), headers={}),
        lambda: make_signed_request(sign_with_botocore().replace("/input/", "/output/")),
        lambda: make_signed_request(sign_with_botocore() + "&versionId=1"),
        lambda: make_signed_request(sign_with_botocore().replace("X-Amz-Expires=900", "X-Amz-Expires=901")),
        lambda: make_signed_request(sign_with_botocore().replace("127.0.0.1", "localhost")),
        lambda: make_signed_request(sign_with_botocore().replace("%2F", "/")),
        lambda: make_signed_request(sign_with_botocore().replace("a.jsonl", "%61.jsonl")),
        lambda: make_signed_request(sign_with_botocore()[:-1] + "\u00e9"),
    ],
)
def test_a_changed_request_does_not_match_its_signature(make_request):
    assert refusal(make_request())[0] == "SignatureDoesNotMatch"


def test_another_secret_does_not_match_and_another_key_is_unknown():
    other = Signer(replace(SIGNER.keys, secret_key="another secret"), SIGNER.region)
    assert refusal(make_signed_request(sign_with_botocore(signer=other)))[0] == "SignatureDoesNotMatch"
    other = Signer(replace(SIGNER.keys, access_key="LOCAL9999999999"), SIGNER.region)
    assert refusal(make_signed_request(sign_with_botocore(signer=other)))[0] == "InvalidAccessKeyId"


def test_a_url_is_valid_until_it_expires():
    request = make_signed_request(sign_with_botocore(expires=900))
    SIGNER.verify(request, now() + 890)
    assert refusal(request, now() + 900) == ("AccessDenied", "Request has expired")


def test_a_url_from_the_future_is_not_yet_valid():
    assert refusal(make_signed_request(sign_with_botocore()), now() - 1000) == (
        "AccessDenied",
        "Request is not yet valid",
    )


def test_an_amazon_header_that_was_not_signed_is_refused():
    request = make_signed_request(sign_with_botocore("PUT", {}), headers=HEADERS)
    message = "There were headers present in the request which were not signed"
    assert refusal(request) == ("AccessDenied", message)


def test_an_authorization_header_in_addition_to_the_signature_is_refused():
    request = make_signed_request(sign_with_botocore(), headers={**HEADERS, "authorization": "token"})
    assert refusal(request)[0] == "InvalidArgument"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("X-Amz-Expires=900", "X-Amz-Expires=604801"),
        ("X-Amz-Expires=900", "X-Amz-Expires=-1"),
        ("X-Amz-Expires=900", "X-Amz-Expires=soon"),
        ("X-Amz-Expires=900&", ""),
        ("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"),
        ("ap-southeast-2", "us-east-1"),
        ("X-Amz-Date=2", "X-Amz-Date=x"),
    ],
)
def test_invalid_parameters_have_their_own_error_code(old, new):
    url = sign_with_botocore()
    assert old in url
    assert refusal(make_signed_request(url.replace(old, new)))[0] == "AuthorizationQueryParametersError"


def test_a_request_without_any_signature_is_denied():
    assert refusal(SignedRequest("GET", "/bucket/x", "", (("host", "h"),))) == ("AccessDenied", "Access Denied")


def test_the_secret_key_is_not_shown():
    assert SIGNER.keys.secret_key not in repr(SIGNER)
