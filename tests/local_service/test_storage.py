"""What the object storage answers on presigned URLs, over HTTP."""

import base64
import hashlib
import re
import socket
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from include.local_service.core.clients import REGION
from tests.local_service.conftest import SSE, SSE_KEY, make_input


def error(answer):
    text = answer if isinstance(answer, str) else answer.text
    status = int(text.split()[1]) if isinstance(answer, str) else answer.status_code
    assert '<?xml version="1.0" encoding="UTF-8"?>' in text
    assert "<RequestId>" in text
    return status, re.search("<Code>(.*)</Code>", text)[1]


def head_of(grant, *headers):
    place = urlsplit(grant["requestUploadUrl"])
    lines = [
        f"PUT {place.path}?{place.query} HTTP/1.1",
        f"Host: {place.netloc}",
        f"{SSE}: aws:kms",
        f"{SSE_KEY}: {grant['bucketKmsKeyArn']}",
        *headers,
    ]
    return "\n".join(lines)


def service_credentials(caller):
    keys = caller.service.service.access_keys
    return Credentials(keys.access_key, keys.secret_key)


def is_untouched(caller, grant):
    return caller.status(grant["operationId"]) == {"operationStatus": "awaiting_input"}


@pytest.fixture
def link(caller):
    return caller.wait_for(caller.submit(make_input(100)))["responseDownloadUrl"]


@pytest.mark.parametrize(
    "headers",
    [
        {SSE: None},
        {SSE_KEY: None},
        {SSE: None, SSE_KEY: None},
        {SSE: "AES256"},
        {SSE_KEY: "arn:aws:kms:ap-southeast-2:000000000000:key/other"},
    ],
)
def test_an_upload_needs_both_encryption_headers_with_the_values_given(caller, headers):
    grant = caller.create()
    assert error(caller.upload(grant, make_input(1), **headers)) == (403, "SignatureDoesNotMatch")
    assert is_untouched(caller, grant)


def test_a_url_that_was_signed_without_the_encryption_headers_is_denied(caller):
    grant = caller.create()
    request = AWSRequest("PUT", grant["requestUploadUrl"].partition("?")[0])
    S3SigV4QueryAuth(service_credentials(caller), "s3", REGION, expires=60).add_auth(request)
    assert error(caller.session.put(request.url, data="x")) == (403, "AccessDenied")
    assert is_untouched(caller, grant)


def test_an_unsigned_amazon_header_is_refused(caller):
    grant = caller.create()
    answer = caller.upload(grant, make_input(1), **{"x-amz-acl": "private"})
    assert error(answer) == (403, "AccessDenied")
    assert "<HeadersNotSigned>x-amz-acl</HeadersNotSigned>" in answer.text


def test_a_token_beside_the_signature_is_refused(caller):
    grant = caller.create()
    assert error(caller.upload(grant, make_input(1), Authorization="token")) == (400, "InvalidArgument")


def test_an_upload_url_is_good_for_fifteen_minutes(caller):
    grant = caller.create()
    caller.jump(901)
    answer = caller.upload(grant, make_input(1))
    assert error(answer) == (403, "AccessDenied")
    assert "Request has expired" in answer.text
    assert is_untouched(caller, grant)


def test_a_download_link_is_good_for_an_hour(caller, link):
    caller.jump(3590)
    assert caller.session.get(link).status_code == 200
    caller.jump(11)
    assert error(caller.session.get(link)) == (403, "AccessDenied")


def test_a_link_serves_one_method_on_one_object(caller, link):
    assert error(caller.session.put(link, data="x")) == (403, "SignatureDoesNotMatch")
    assert error(caller.session.delete(link)) == (403, "SignatureDoesNotMatch")
    other = link.replace(".jsonl?", ".metadata.json?")
    assert error(caller.session.get(other)) == (403, "SignatureDoesNotMatch")
    assert error(caller.session.get(link.partition("?")[0])) == (403, "AccessDenied")


def test_an_upload_without_a_length_is_refused(caller):
    grant = caller.create()
    answer = caller.raw(head_of(grant))
    assert error(answer) == (411, "MissingContentLength")
    assert "connection: close" in answer.lower()


def test_a_chunked_upload_is_refused(caller):
    grant = caller.create()
    answer = caller.upload(grant, iter([make_input(1).encode()]))
    assert error(answer) == (501, "NotImplemented")
    assert is_untouched(caller, grant)


def test_more_than_five_gigabytes_are_refused_at_once(caller):
    grant = caller.create()
    answer = caller.raw(head_of(grant, "Content-Length: 5000000001", "Expect: 100-continue"))
    assert error(answer) == (400, "EntityTooLarge")
    assert "100 Continue" not in answer


def test_five_gigabytes_are_taken(caller):
    grant = caller.create()
    place = urlsplit(caller.url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        head = head_of(grant, "Content-Length: 5000000000", "Expect: 100-continue").replace("\n", "\r\n")
        connection.sendall(head.encode() + b"\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert is_untouched(caller, grant)


def test_a_refusal_comes_before_the_body_is_asked_for(caller):
    grant = caller.create()
    head = head_of(grant, "Content-Length: 10", "Expect: 100-continue")
    answer = caller.raw(head.replace("aws:kms", "AES256"))
    assert error(answer) == (403, "SignatureDoesNotMatch")
    assert "100 Continue" not in answer


def test_an_accepted_upload_is_asked_to_continue(caller):
    grant = caller.create()
    body = make_input(1).encode()
    head = head_of(grant, f"Content-Length: {len(body)}", "Expect: 100-continue", "Connection: close")
    answer = caller.raw(head, body)
    assert answer.startswith("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


def test_a_large_refused_upload_still_gets_its_answer(caller):
    grant = caller.create()
    answer = caller.upload(grant, b"x" * 4_000_000, **{SSE: "AES256"})
    assert error(answer) == (403, "SignatureDoesNotMatch")


@pytest.mark.parametrize(("announced", "sent"), [(1000, 0), (1000, 999), (5_000_000_000, 3_000_000)])
def test_a_body_that_breaks_off_leaves_nothing(caller, announced, sent):
    grant = caller.create()
    place = urlsplit(caller.url)
    with socket.create_connection((place.hostname, place.port)) as connection:
        head = head_of(grant, f"Content-Length: {announced}").replace("\n", "\r\n")
        connection.sendall(head.encode() + b"\r\n\r\n" + b"x" * sent)
    assert caller.wait_for_entry(lambda entry: entry["method"] == "PUT")["status"] is None
    assert is_untouched(caller, grant)
    caller.wait_until(lambda: caller.files("incoming") == [])  # the worker may still code for the test before
    assert caller.upload(grant, make_input(1)).status_code == 200


def test_a_body_that_does_not_fit_its_md5_is_refused(caller):
    grant = caller.create()
    body = make_input(1)
    wrong = base64.b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()
    right = base64.b64encode(hashlib.md5(body.encode(), usedforsecurity=False).digest()).decode()
    assert error(caller.upload(grant, body, **{"Content-MD5": wrong})) == (400, "BadDigest")
    assert error(caller.upload(grant, body, **{"Content-MD5": "short"})) == (400, "InvalidDigest")
    assert is_untouched(caller, grant)
    assert caller.upload(grant, body, **{"Content-MD5": right}).status_code == 200


def test_the_etag_is_not_the_md5_of_the_bytes(caller, link):
    answer = caller.session.get(link)
    assert answer.headers["etag"] != f'"{hashlib.md5(answer.content, usedforsecurity=False).hexdigest()}"'
    assert answer.headers[SSE] == "aws:kms"
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=10-19", slice(10, 20)),
        ("bytes=10-", slice(10, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=10-99999999", slice(10, None)),
        ("bytes=-99999999", slice(0, None)),
    ],
)
def test_a_range_gets_its_part(caller, link, header, part):
    whole = caller.session.get(link).content
    answer = caller.session.get(link, headers={"Range": header})
    assert (answer.status_code, answer.content) == (206, whole[part])
    start, stop, _ = part.indices(len(whole))
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(whole)}"
    assert "x-amz-checksum-sha256" not in answer.headers


@pytest.mark.parametrize("header", ["bytes=5-2", "lines=1-2", "bytes=-", "bytes=0-1,5-6", "bytes=x-"])
def test_a_range_that_is_none_is_ignored(caller, link, header):
    assert caller.session.get(link, headers={"Range": header}).status_code == 200


def test_a_range_past_the_end_is_refused_with_the_size(caller, link):
    size = len(caller.session.get(link).content)
    answer = caller.session.get(link, headers={"Range": f"bytes={size}-"})
    assert error(answer) == (416, "InvalidRange")
    assert f"<ActualObjectSize>{size}</ActualObjectSize>" in answer.text
    assert answer.headers["content-range"] == f"bytes */{size}"
    assert error(caller.session.get(link, headers={"Range": "bytes=-0"})) == (416, "InvalidRange")


def test_a_refusal_is_xml_whatever_the_key(caller):
    request = AWSRequest("GET", f"{caller.url}/local-coding-service/output/%00%0B<&%FF%EF%BF%BE")
    S3SigV4QueryAuth(service_credentials(caller), "s3", REGION).add_auth(request)
    answer = caller.session.get(request.url)
    assert answer.status_code in (403, 404)
    assert ElementTree.fromstring(answer.content).findtext("Code") in ("SignatureDoesNotMatch", "NoSuchKey")


def test_a_range_of_another_version_is_refused(caller, link):
    etag = caller.session.get(link).headers["etag"]
    same = caller.session.get(link, headers={"Range": "bytes=1-", "If-Match": etag})
    assert same.status_code == 206
    answer = caller.session.get(link, headers={"Range": "bytes=1-", "If-Match": '"other"'})
    assert error(answer) == (412, "PreconditionFailed")
    assert caller.session.get(link, headers={"If-None-Match": etag}).status_code == 304
