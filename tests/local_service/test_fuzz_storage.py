"""Fuzzes the object storage: any URL or header gets one of S3's responses and never a server error."""

from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.local_service.conftest import SSE, SSE_KEY, make_input

BOUNDED = settings(
    max_examples=300,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
PARAMETERS = [
    f"X-Amz-{name}" for name in ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature")
]
VALUES = st.one_of(
    st.none(),
    st.text(max_size=20),
    st.sampled_from(
        ["", "0", "-1", "604801", "9" * 30, "99999999T999999Z", "host;host", ";", "\u0663" * 3, "\u20ac"]
    ),
)
HEADERS = {
    "Range": ["bytes=", "bytes=-0", "bytes=9-1", f"bytes={'9' * 400}-", f"bytes=0-{'9' * 5000}", "bytes=0-0,2-3"],
    "If-Match": ["*", '"', '"x"', ","],
    "If-None-Match": ["*", "", '"x", "y"'],
    "Content-MD5": ["", "x", "\u00e9", "A" * 24],
    "Content-Length": ["5000000001", "9" * 18],
    "Authorization": [""],
    "x-amz-\u00e9": ["1"],
    SSE: ["", "aws:kms, aws:kms", "\u00e9"],
    SSE_KEY: ["", "\u00e9"],
}


@pytest.fixture
def links(caller):
    """An upload URL with its headers, and a download link."""
    grant = caller.create()
    link = caller.wait_for(caller.submit(make_input(3)))["responseDownloadUrl"]
    headers = {SSE: "aws:kms", SSE_KEY: grant["bucketKmsKeyArn"]}
    return [("PUT", grant["requestUploadUrl"], headers), ("GET", link, {})]


def send(caller, method, url, headers):
    lines = [f"{method} {url} HTTP/1.1", f"Host: {urlsplit(caller.url).netloc}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += ["Expect: 100-continue"] if headers["Content-Length"] != "0" else []  # as no body follows
    return caller.raw_bytes("\n".join(lines), b"")


def assert_is_s3_response(response):
    head, _, body = response.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert status < 500 or status == 501, response
    if body and b"application/xml" in head:
        assert ElementTree.fromstring(body).findtext("Code")


@BOUNDED
@given(changes=st.dictionaries(st.sampled_from(PARAMETERS), VALUES, min_size=1, max_size=3), which=st.integers(0, 1))
@example(changes={"X-Amz-SignedHeaders": "host;\u20ac"}, which=1)
def test_any_query_gets_an_s3_response(caller, links, changes, which):
    method, url, headers = links[which]
    place = urlsplit(url)
    changed = {**dict(parse_qsl(place.query)), **changes}
    query = urlencode({name: value for name, value in changed.items() if value is not None}, quote_via=quote)
    assert_is_s3_response(send(caller, method, f"{place.path}?{query}", {**headers, "Content-Length": "0"}))


@BOUNDED
@given(
    extra=st.lists(st.sampled_from([(name, one) for name, some in HEADERS.items() for one in some]), max_size=3),
    which=st.integers(0, 1),
)
def test_any_header_gets_an_s3_response(caller, links, extra, which):
    method, url, headers = links[which]
    place = urlsplit(url)
    sent = {"Content-Length": "0", **headers, **dict(extra)}
    assert_is_s3_response(send(caller, method, f"{place.path}?{place.query}", sent))


@BOUNDED
@given(key=st.text(max_size=30), method=st.sampled_from(["GET", "PUT", "DELETE", "POST", "HEAD", "OPTIONS"]))
def test_any_key_and_method_gets_an_s3_response(caller, key, method):
    path = quote(f"/local-coding-service/{key}", safe="/")
    response = send(caller, method, f"{path}?X-Amz-Signature=x", {"Content-Length": "0"})
    assert_is_s3_response(response)
