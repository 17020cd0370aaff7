"""The responses of the object storage to presigned URLs."""

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


def error(response):
    text = response if isinstance(response, str) else response.text
    status = int(text.split()[1]) if isinstance(response, str) else response.status_code
    assert '<?xml version="1.0" encoding="UTF-8"?>' in text
    assert "<RequestId>" in text
    return status, re.search("<Code>(.*)</Code>", text)[1]


def upload_head(grant, *headers):
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
def test_an_upload_requires_both_encryption_headers_with_the_values_of_the_grant(caller, headers):
    grant = caller.create()
    assert error(caller.upload(grant, make_input(1), **headers)) == (403, "SignatureDoesNotMatch")
    assert is_untouched(caller, grant)


def test_a_url_signed_without_the_encryption_headers_is_denied(caller):
    grant = caller.create()
    request = AWSRequest("PUT", grant["requestUploadUrl"].partition("?")[0])
    S3SigV4QueryAuth(service_credentials(caller), "s3", REGION, expires=60).add_auth(request)
    assert error(caller.session.put(request.url, data="x")) == (403, "AccessDenied")
    assert is_untouched(caller, grant)


def test_an_unsigned_amazon_header_is_refused(caller):
    grant = caller.create()
    response = caller.upload(grant, make_input(1), **{"x-amz-acl": "private"})
    assert error(response) == (403, "AccessDenied")
    assert "<HeadersNotSigned>x-amz-acl</HeadersNotSigned>" in response.text


def test_an_upload_with_a_token_is_refused(caller):
    grant = caller.create()
    assert error(caller.upload(grant, make_input(1), Authorization="token")) == (400, "InvalidArgument")


def test_an_upload_url_is_valid_for_fifteen_minutes(caller):
    grant = caller.create()
    caller.jump(901)
    response = caller.upload(grant, make_input(1))
    assert error(response) == (403, "AccessDenied")
    assert "Request has expired" in response.text
    assert is_untouched(caller, grant)


def test_a_download_link_is_valid_for_an_hour(caller, link):
    caller.jump(3590)
    assert caller.session.get(link).status_code == 200
    caller.jump(11)
    assert error(caller.session.get(link)) == (403, "AccessDenied")


def test_a_link_is_valid_for_one_method_and_one_object(caller, link):
    assert error(caller.session.put(link, data="x")) == (403, "SignatureDoesNotMatch")
    assert error(caller.session.delete(link)) == (403, "SignatureDoesNotMatch")
    other = link.replace(".jsonl?", ".metadata.json?")
    assert error(caller.session.get(other)) == (403, "SignatureDoesNotMatch")
    assert error(caller.session.get(link.partition("?")[0])) == (403, "AccessDenied")


def test_an_upload_without_a_length_is_refused(caller):
    grant = caller.create()
    response = caller.raw(upload_head(grant))
    assert error(response) == (411, "MissingContentLength")
    assert "connection: close" in response.lower()


def test_a_chunked_upload_is_refused(caller):
    grant = caller.create()
    response = caller.upload(grant, iter([make_input(1).encode()]))
    assert error(response) == (501, "NotImplemented")
    assert is_untouched(caller, grant)


def test_more_than_five_gigabytes_are_refused_before_the_body(caller):
    grant = caller.create()
    response = caller.raw(upload_head(grant, "Content-Length: 5000000001", "Expect: 100-continue"))
    assert error(response) == (400, "EntityTooLarge")
    assert "100 Continue" not in response


def test_five_gigabytes_are_accepted(caller):
    grant = caller.create()
    place = urlsplit(caller.url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        head = upload_head(grant, "Content-Length: 5000000000", "Expect: 100-continue").replace("\n", "\r\n")
        connection.sendall(head.encode() + b"\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert is_untouched(caller, grant)


def test_a_refusal_is_sent_before_the_body_is_requested(caller):
    grant = caller.create()
    head = upload_head(grant, "Content-Length: 10", "Expect: 100-continue")
    response = caller.raw(head.replace("aws:kms", "AES256"))
    assert error(response) == (403, "SignatureDoesNotMatch")
    assert "100 Continue" not in response


def test_an_accepted_upload_gets_100_continue(caller):
    grant = caller.create()
    body = make_input(1).encode()
    head = upload_head(grant, f"Content-Length: {len(body)}", "Expect: 100-continue", "Connection: close")
    response = caller.raw(head, body)
    assert response.startswith("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


def test_a_large_refused_upload_still_gets_its_response(caller):
    grant = caller.create()
    response = caller.upload(grant, b"x" * 4_000_000, **{SSE: "AES256"})
    assert error(response) == (403, "SignatureDoesNotMatch")


@pytest.mark.parametrize(("declared_bytes", "sent_bytes"), [(1000, 0), (1000, 999), (5_000_000_000, 3_000_000)])
def test_an_interrupted_upload_leaves_no_files(caller, declared_bytes, sent_bytes):
    grant = caller.create()
    place = urlsplit(caller.url)
    with socket.create_connection((place.hostname, place.port)) as connection:
        head = upload_head(grant, f"Content-Length: {declared_bytes}").replace("\n", "\r\n")
        connection.sendall(head.encode() + b"\r\n\r\n" + b"x" * sent_bytes)
    assert caller.wait_for_entry(lambda entry: entry["method"] == "PUT")["status"] is None
    assert is_untouched(caller, grant)
    caller.wait_until(lambda: caller.files("incoming") == [])  # the worker can still be coding for the previous test
    assert caller.upload(grant, make_input(1)).status_code == 200


def test_a_body_that_does_not_match_its_md5_is_refused(caller):
    grant = caller.create()
    body = make_input(1)
    wrong = base64.b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()
    right = base64.b64encode(hashlib.md5(body.encode(), usedforsecurity=False).digest()).decode()
    assert error(caller.upload(grant, body, **{"Content-MD5": wrong})) == (400, "BadDigest")
    assert error(caller.upload(grant, body, **{"Content-MD5": "short"})) == (400, "InvalidDigest")
    assert is_untouched(caller, grant)
    assert caller.upload(grant, body, **{"Content-MD5": right}).status_code == 200


def test_the_etag_is_not_the_md5_of_the_bytes(caller, link):
    response = caller.session.get(link)
    assert response.headers["etag"] != f'"{hashlib.md5(response.content, usedforsecurity=False).hexdigest()}"'
    assert response.headers[SSE] == "aws:kms"
    assert response.headers["accept-ranges"] == "bytes"


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
def test_a_range_request_gets_its_part(caller, link, header, part):
    whole = caller.session.get(link).content
    response = caller.session.get(link, headers={"Range": header})
    assert (response.status_code, response.content) == (206, whole[part])
    start, stop, _ = part.indices(len(whole))
    assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(whole)}"
    assert "x-amz-checksum-sha256" not in response.headers


@pytest.mark.parametrize("header", ["bytes=5-2", "lines=1-2", "bytes=-", "bytes=0-1,5-6", "bytes=x-"])
def test_an_invalid_range_is_ignored(caller, link, header):
    assert caller.session.get(link, headers={"Range": header}).status_code == 200


def test_a_range_past_the_end_is_refused_with_the_size(caller, link):
    size = len(caller.session.get(link).content)
    response = caller.session.get(link, headers={"Range": f"bytes={size}-"})
    assert error(response) == (416, "InvalidRange")
    assert f"<ActualObjectSize>{size}</ActualObjectSize>" in response.text
    assert response.headers["content-range"] == f"bytes */{size}"
    assert error(caller.session.get(link, headers={"Range": "bytes=-0"})) == (416, "InvalidRange")


def test_a_refusal_is_valid_xml_for_any_key(caller):
    request = AWSRequest("GET", f"{caller.url}/local-coding-service/output/%00%0B<&%FF%EF%BF%BE")
    S3SigV4QueryAuth(service_credentials(caller), "s3", REGION).add_auth(request)
    response = caller.session.get(request.url)
    assert response.status_code in (403, 404)
    assert ElementTree.fromstring(response.content).findtext("Code") in ("SignatureDoesNotMatch", "NoSuchKey")


def test_a_range_of_another_object_version_is_refused(caller, link):
    etag = caller.session.get(link).headers["etag"]
    same = caller.session.get(link, headers={"Range": "bytes=1-", "If-Match": etag})
    assert same.status_code == 206
    response = caller.session.get(link, headers={"Range": "bytes=1-", "If-Match": '"other"'})
    assert error(response) == (412, "PreconditionFailed")
    assert caller.session.get(link, headers={"If-None-Match": etag}).status_code == 304
