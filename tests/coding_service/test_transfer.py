"""Upload and download of presigned files: what is sent, what is resumed, and what no error contains."""

import gzip
import hashlib
import os
import re

import pytest
import requests

from coding_service import CodingServiceHook, transfer
from coding_service.errors import (
    CodingServiceError,
    GrantExpiredError,
    InputFileError,
    LinkExpiredError,
    ProtocolError,
    TransferError,
)
from coding_service.models import UploadGrant

QUERY = "X-Amz-Signature=5ec4e7&X-Amz-Expires=900"
SIGNATURE = "5ec4e7"
KEY = "arn:aws:kms:ap-southeast-2:000000000000:key/k1"
DATA = b"".join(b'{"recordId": "r%d"}\n' % number for number in range(5000))
UNKNOWN = b"<Error><Code>Unheard</Code><Message>We are &amp; remain\nsorry</Message></Error>"
EXPIRED = b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"


@pytest.fixture
def session():
    with requests.Session() as session:
        session.auth = transfer.NoAuth()
        session.mount("http://", transfer.BlockAdapter())
        yield session


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out" / "output.jsonl"


def grant_for(server):
    return UploadGrant("op-1", f"{server.url}/in/op-1.jsonl?{QUERY}", KEY)


def upload(session, server, path):
    return transfer.upload(session, grant_for(server), path, timeout=10)


def download(session, server, target, **options):
    options = {"timeout": 10, "sleep": lambda seconds: None, **options}
    return transfer.download(session, lambda: f"{server.url}/out/1.jsonl?{QUERY}", target, **options)


# ---- upload ------------------------------------------------------------------------------------------------------


def test_an_upload_sends_the_two_kms_headers_and_a_length_only(serve, connect, input_file, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password 0therSecret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server = serve(lambda request, reply: reply(200))
    connect(server.url)
    assert CodingServiceHook().upload(grant_for(server), input_file) == input_file.stat().st_size
    [request] = server.requests
    assert (request.method, request.path) == ("PUT", f"/in/op-1.jsonl?{QUERY}")
    assert request.body == input_file.read_bytes()
    sent = {name.lower(): value for name, value in request.headers}
    assert len(sent) == len(request.headers)
    http_headers = {"host", "accept-encoding", "user-agent", "connection"}
    assert {name: value for name, value in sent.items() if name not in http_headers} == {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": KEY,
        "content-length": str(input_file.stat().st_size),
    }


def test_an_upload_is_accepted_by_the_local_service(connected, input_file):
    hook = CodingServiceHook()
    grant = hook.create_operation("osca", hook.latest_model("osca").model_id)
    assert hook.upload(grant, input_file) == input_file.stat().st_size
    [entry] = connected.journal("PUT")
    assert (entry["status"], entry["bytes_received"]) == (200, input_file.stat().st_size)


@pytest.mark.parametrize(("total", "words"), [(4_000_000, "1.0 of 4.0 MB (25%)"), (None, "1.0 MB")])
def test_a_transfer_logs_its_progress(caplog, total, words):
    caplog.set_level("INFO", transfer.log.name)
    transfer.Progress("upload of part-7.jsonl", total, period=0).add(1_000_000)
    transfer.Progress("upload that has just begun", total).add(1_000_000)
    assert [re.sub(r"[0-9.]+ MB/s", "n MB/s", message) for message in caplog.messages] == [
        f"upload of part-7.jsonl: {words}, n MB/s"
    ]


def test_storage_keeps_nothing_of_a_large_file_that_has_changed(connected, tmp_path):
    path, hook = tmp_path / "part-7.jsonl", CodingServiceHook()
    path.write_bytes(b"x" * (3 * transfer.BLOCK_BYTES + 1))
    grant = hook.create_operation("osca", hook.latest_model("osca").model_id)
    with pytest.raises(InputFileError, match="part-7.jsonl has changed since it was prepared"):
        hook.upload(grant, path, "0" * 64)
    assert hook.operation("osca", grant.operation_id).status == "awaiting_input"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "does not exist; prepare it again"),
        (lambda path: path.touch(), "has 0 bytes; the service accepts 1 to 5000000000"),
        (lambda path: path.mkdir(), "is not a file"),
    ],
)
def test_a_file_that_cannot_be_an_input_is_not_sent(session, serve, tmp_path, make, words):
    path = tmp_path / "part-7.jsonl"
    make(path)
    server = serve(lambda request, reply: reply(200))
    with pytest.raises(InputFileError, match=f"the input file {re.escape(str(path))} {words}"):
        upload(session, server, path)
    assert server.requests == []


def test_a_file_above_five_billion_bytes_is_not_sent(session, serve, tmp_path):
    path = tmp_path / "part-7.jsonl"
    with path.open("wb") as file:
        file.truncate(5_000_000_001)
    server = serve(lambda request, reply: reply(200))
    with pytest.raises(InputFileError, match="has 5000000001 bytes; the service accepts 1 to 5000000000"):
        upload(session, server, path)
    assert server.requests == []


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (403, GrantExpiredError),
        (400, ProtocolError),
        (404, ProtocolError),
        (408, TransferError),
        (411, ProtocolError),
        (501, ProtocolError),
        (500, TransferError),
        (503, TransferError),
        (520, TransferError),
        (429, TransferError),
        (204, ProtocolError),
        (301, ProtocolError),
    ],
)
def test_an_answer_with_an_unknown_code_to_an_upload_is_judged_by_its_status(
    session, serve, input_file, status, error
):
    server = serve(lambda request, reply: reply(status, b"" if status == 204 else UNKNOWN, Location="http://x/"))
    with pytest.raises(error, match=f"with HTTP {status}") as caught:
        upload(session, server, input_file)
    assert type(caught.value) is error
    assert caught.value.status_code == status
    assert len(server.requests) == 1
    if status not in (204, 301):  # requests reads the body of a redirect itself
        assert "(Unheard: We are & remain sorry)" in str(caught.value)


#: Code, status, and what they mean for an upload and for a download.
CODES = [
    *[
        (code, 400, GrantExpiredError, LinkExpiredError)
        for code in ("ExpiredToken", "InvalidToken", "RequestExpired")
    ],
    *[(code, 400, GrantExpiredError, LinkExpiredError) for code in ("TokenRefreshRequired", "AccessDenied")],
    *[(code, 403, GrantExpiredError, LinkExpiredError) for code in ("ExpiredToken", "SignatureDoesNotMatch")],
    *[(code, 400, TransferError, TransferError) for code in ("RequestTimeout", "BadDigest", "IncompleteBody")],
    *[(code, 409, TransferError, TransferError) for code in ("OperationAborted", "ConditionalRequestConflict")],
    *[(code, 503, TransferError, TransferError) for code in ("SlowDown", "ServiceUnavailable")],
    *[
        (code, 200 + 200, TransferError, TransferError)
        for code in ("SlowDown", "InternalError", "ThrottlingException")
    ],
    ("RequestTimeTooSkewed", 403, TransferError, TransferError),
    ("NoSuchKey", 404, ProtocolError, LinkExpiredError),
    ("InvalidArgument", 400, ProtocolError, ProtocolError),
    ("NotImplemented", 501, ProtocolError, ProtocolError),
    ("EntityTooLarge", 400, ProtocolError, ProtocolError),
]


@pytest.mark.parametrize(("code", "status", "upload_error", "download_error"), CODES)
def test_the_code_of_a_storage_error_decides_and_not_its_status(
    session, serve, input_file, target, code, status, upload_error, download_error
):
    body = f"<Error><Code>{code}</Code><Message>why</Message></Error>".encode()
    server = serve(lambda request, reply: reply(status, body))
    with pytest.raises(upload_error, match=f"{code}: why") as caught:
        upload(session, server, input_file)
    assert type(caught.value) is upload_error
    with pytest.raises(download_error, match=f"{code}: why") as caught:
        download(session, server, target)
    assert type(caught.value) is download_error


def test_a_url_that_is_not_yet_valid_is_retryable(session, serve, input_file):
    body = b"<Error><Code>AccessDenied</Code><Message>Request is not yet valid</Message></Error>"
    with pytest.raises(TransferError, match="not yet valid"):
        upload(session, serve(lambda request, reply: reply(403, body)), input_file)


def test_a_refusal_of_any_length_is_read_only_at_its_start(session, serve, input_file):
    body = b"<html>" + b"x" * 5_000_000
    with pytest.raises(GrantExpiredError, match="with HTTP 403$"):
        upload(session, serve(lambda request, reply: reply(403, body)), input_file)


def test_only_code_and_message_of_a_storage_error_are_shown(session, serve, input_file):
    reason = "<Code>SignatureDoesNotMatch</Code><Message>No</Message>"
    body = f"<Error>{reason}<StringToSign>{SIGNATURE}</StringToSign></Error>"
    server = serve(lambda request, reply: reply(403, body.encode()))
    with pytest.raises(GrantExpiredError, match=r"\(SignatureDoesNotMatch: No\)") as caught:
        upload(session, server, input_file)
    assert SIGNATURE not in str(caught.value)


def test_an_upload_that_is_reset_can_be_repeated(connected, input_file):
    input_file.write_bytes(input_file.read_bytes() * 20_000)
    connected.fault("reset_upload")
    hook = CodingServiceHook()
    grant = hook.create_operation("osca", hook.latest_model("osca").model_id)
    with pytest.raises(
        TransferError, match=r"the upload of .*part-0.jsonl to http://127.0.0.1:\d+/.* was interrupted"
    ) as e:
        hook.upload(grant, input_file)
    assert "?" not in str(e.value)
    assert hook.operation("osca", grant.operation_id).status == "awaiting_input"
    hook.upload(grant, input_file)


def test_a_refusal_during_the_upload_of_a_large_file_is_read(connected, tmp_path):
    path = tmp_path / "part-0.jsonl"
    path.write_bytes(b"x" * 8_000_000)
    connected.fault("expired_upload")
    hook = CodingServiceHook()
    grant = hook.create_operation("osca", hook.latest_model("osca").model_id)
    with pytest.raises(GrantExpiredError, match="AccessDenied: Request has expired"):
        hook.upload(grant, path)


def cut(request, reply):
    reply.cut()


def refuse(request, reply):
    reply(403, EXPIRED)


@pytest.mark.parametrize(
    "answer", [cut, refuse, lambda request, reply: reply(500), lambda request, reply: reply(400)]
)
def test_no_error_of_a_transfer_contains_the_query(session, serve, input_file, target, answer):
    server = serve(answer)
    for transfer_it in (lambda: upload(session, server, input_file), lambda: download(session, server, target)):
        with pytest.raises(CodingServiceError) as caught:
            transfer_it()
        assert "/1.jsonl" in str(caught.value) or "op-1.jsonl" in str(caught.value)
        assert SIGNATURE not in f"{caught.value!r} {caught.value}"
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_the_error_for_an_unreachable_storage_does_not_contain_the_query(session, serve, input_file):
    server = serve(cut)
    url = server.url
    server.stop()
    with pytest.raises(TransferError, match=f"to {url}/in/op-1.jsonl was interrupted: ConnectionError") as caught:
        upload(session, server, input_file)
    assert SIGNATURE not in str(caught.value)


# ---- download ----------------------------------------------------------------------------------------------------


class Storage:
    """Answers range requests as S3 does; `cuts` are the bytes after which the next answers are interrupted."""

    def __init__(self, data=DATA, cuts=(), etag='"e1"'):
        self.data, self.cuts, self.etag = data, list(cuts), etag

    def __call__(self, request, reply):
        requested = request.header("Range")
        start = int(re.fullmatch(r"bytes=(\d+)-", requested)[1]) if requested else 0
        if requested and request.header("If-Match") != self.etag:
            reply(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        elif requested and start >= len(self.data):
            reply(416, b"<Error/>", Content_Range=f"bytes */{len(self.data)}")
        else:
            span = {"Content_Range": f"bytes {start}-{len(self.data) - 1}/{len(self.data)}"} if requested else {}
            self._send(reply, 206 if requested else 200, self.data[start:], ETag=self.etag, **span)

    def _send(self, reply, status, body, **headers):
        if self.cuts:
            reply.broken(status, body[: self.cuts.pop(0)], len(body), **headers)
        else:
            reply(status, body, **headers)


def assert_complete(result, target, data=DATA):
    assert target.read_bytes() == data
    assert result == transfer.Download(target, len(data), hashlib.sha256(data).hexdigest(), data.count(b"\n"))
    assert [one.name for one in target.parent.iterdir()] == [target.name]


def test_a_file_is_downloaded_completely(session, serve, target):
    server = serve(Storage())
    assert_complete(download(session, server, target), target)
    [request] = server.requests
    assert request.header("Range") is None
    assert request.header("Authorization") is None
    assert request.header("Accept-Encoding") == "identity"


def test_an_empty_file_is_downloaded(session, serve, target):
    assert_complete(download(session, serve(Storage(b"")), target), target, b"")


def test_a_download_sends_no_authorization_from_netrc(serve, connect, target, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password 0therSecret\n")
    monkeypatch.setenv("NETRC", str(netrc))

    def answer(request, reply):
        link = f"{server.url}/out/1.jsonl?{QUERY}"
        if request.path == "/oauth2/token":
            reply(200, {"access_token": "t0ken"})
        elif request.path.startswith("/v1/"):
            status = {"operationStatus": "complete", "responseDownloadUrl": link, "metadataDownloadUrl": link}
            reply(200, status)
        else:
            reply(200, DATA, ETag='"e1"')

    server = serve(answer)
    connect(server.url)
    CodingServiceHook().download(
        "osca", "00000000-0000-4000-8000-000000000001", target, target.with_name("metadata.json")
    )
    authorized = {request.path.partition("?")[0]: request.header("Authorization") for request in server.requests}
    assert authorized["/out/1.jsonl"] is None
    assert authorized["/v1/topics/osca/batch-code/operations/00000000-0000-4000-8000-000000000001"] == "t0ken"
    assert authorized["/oauth2/token"].startswith("Basic ")


def test_an_interrupted_download_resumes_where_it_stopped(session, serve, target):
    server = serve(Storage(cuts=[10_000, 5_000]))
    assert_complete(download(session, server, target), target)
    assert [(one.header("Range"), one.header("If-Match")) for one in server.requests] == [
        (None, None),
        ("bytes=10000-", '"e1"'),
        ("bytes=15000-", '"e1"'),
    ]


@pytest.fixture
def open_umask():
    """The umask with which everybody can access what is created without a mode."""
    previous = os.umask(0)
    yield
    os.umask(previous)


@pytest.mark.usefixtures("open_umask")
def test_a_download_is_for_its_owner_only_while_it_runs_and_afterwards(session, serve, target):
    server, path = serve(Storage(cuts=[10_000, 0, 0, 0])), target.parent / "new" / "output.jsonl"
    with pytest.raises(TransferError, match="was interrupted"):
        download(session, server, path)
    assert {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()} == {
        "output.jsonl.partial": 0o600,
        "output.jsonl.etag": 0o600,
    }
    download(session, server, path)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.usefixtures("open_umask")
def test_a_partial_file_that_others_could_access_is_replaced(session, serve, target):
    partial = target.with_name(target.name + ".partial")
    partial.parent.mkdir(exist_ok=True)
    partial.write_text("left by an earlier version")
    download(session, serve(Storage()), target)
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_later_attempt_resumes_the_download(session, serve, target):
    storage = Storage(cuts=[10_000, 0, 0, 0])
    server = serve(storage)
    with pytest.raises(TransferError, match="was interrupted"):
        download(session, server, target)
    assert not target.exists()
    assert_complete(download(session, server, target), target)
    assert server.requests[-1].header("Range") == "bytes=10000-"


RESUME_PROGRAM = """
import sys
from pathlib import Path
import requests
from coding_service import transfer

path = Path(sys.argv[2])
with requests.Session() as session:
    print(transfer.download(session, lambda: sys.argv[1], path, timeout=10))
"""


def test_a_download_resumed_by_another_process_has_the_right_hash_and_lines(session, serve, target, run_python):
    server = serve(Storage(cuts=[12_345, 0, 0, 0]))
    with pytest.raises(TransferError):
        download(session, server, target)
    output = run_python(RESUME_PROGRAM, f"{server.url}/out/1.jsonl", target)
    assert server.requests[-1].header("Range") == "bytes=12345-"
    assert target.read_bytes() == DATA
    assert f"bytes={len(DATA)}, sha256='{hashlib.sha256(DATA).hexdigest()}', lines=5000" in output


def test_a_file_that_changed_during_its_download_is_downloaded_from_its_start(session, serve, target):
    new = DATA[::-1]

    def change_file(request, reply):
        if len(server.requests) == 2:
            storage.data, storage.etag = new, '"e2"'
        storage(request, reply)

    storage = Storage(cuts=[10_000])
    server = serve(change_file)
    assert_complete(download(session, server, target), target, new)
    assert [one.header("Range") for one in server.requests] == [None, "bytes=10000-", None]


def test_a_download_from_a_server_without_ranges_starts_over(session, serve, target):
    def answer(request, reply):
        if len(server.requests) == 1:
            reply.broken(200, DATA[:10_000], len(DATA), ETag='"e1"')
        else:
            reply(200, DATA, ETag='"e1"')

    server = serve(answer)
    assert_complete(download(session, server, target), target)


def test_a_range_that_starts_elsewhere_is_discarded(session, serve, target):
    def answer(request, reply):
        if len(server.requests) == 1:
            reply.broken(200, DATA[:10_000], len(DATA), ETag='"e1"')
        elif len(server.requests) == 2:
            size = len(DATA)
            reply(206, DATA[5000:], ETag='"e1"', Content_Range=f"bytes 5000-{size - 1}/{size}")
        else:
            storage(request, reply)

    storage = Storage()
    server = serve(answer)
    assert_complete(download(session, server, target), target)


def test_a_file_without_etag_is_not_resumed(session, serve, target):
    def answer(request, reply):
        if len(server.requests) == 1:
            reply.broken(200, DATA[:10_000], len(DATA))
        else:
            reply(200, DATA)

    server = serve(answer)
    assert_complete(download(session, server, target), target)
    assert server.requests[1].header("Range") is None


def write_partial_file(target, data, note='{"etag": "\\"e1\\""}'):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_name(target.name + ".partial").write_bytes(data)
    target.with_name(target.name + ".etag").write_text(note)


def test_a_download_that_ended_after_its_last_byte_is_finished_without_another_byte(session, serve, target):
    write_partial_file(target, DATA)
    server = serve(Storage())
    assert_complete(download(session, server, target), target)
    assert [one.header("Range") for one in server.requests] == [f"bytes={len(DATA)}-"]


def test_the_size_of_the_file_can_come_from_the_error_document(session, serve, target):
    write_partial_file(target, DATA)
    body = f"<Error><Code>InvalidRange</Code><ActualObjectSize>{len(DATA)}</ActualObjectSize></Error>".encode()
    server = serve(lambda request, reply: reply(416, body))
    assert_complete(download(session, server, target), target)
    assert len(server.requests) == 1


def test_a_partial_file_that_is_too_long_is_discarded(session, serve, target):
    write_partial_file(target, DATA + b"more")
    assert_complete(download(session, serve(Storage()), target), target)


@pytest.mark.parametrize("note", ["", "{", "[]", "{}", "5", '{"etag": 5}'])
def test_a_damaged_etag_file_of_an_earlier_attempt_starts_the_download_over(session, serve, target, note):
    write_partial_file(target, b"half a li", note)
    assert_complete(download(session, serve(Storage()), target), target)


def test_an_expired_link_is_replaced_by_a_fresh_one(session, serve, target):
    links = iter(["old", "new"])
    storage = Storage()

    def answer(request, reply):
        if request.path == "/old":
            reply(403, EXPIRED)
        else:
            storage(request, reply)

    server = serve(answer)
    options = {"timeout": 10, "sleep": lambda seconds: None}
    assert_complete(transfer.download(session, lambda: f"{server.url}/{next(links)}", target, **options), target)
    assert [request.path for request in server.requests] == ["/old", "/new"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refuse, LinkExpiredError),
        (lambda request, reply: reply(404), LinkExpiredError),
        (lambda request, reply: reply(503), TransferError),
        (cut, TransferError),
        (lambda request, reply: reply.broken(200, b"", 100, ETag='"e1"'), TransferError),
    ],
)
def test_three_links_in_a_row_without_progress_fail_the_download(session, serve, target, answer, error):
    server = serve(answer)
    with pytest.raises(error):
        download(session, server, target)
    assert len(server.requests) == 3
    assert not target.exists()


def test_links_are_requested_as_long_as_the_download_makes_progress(session, serve, target):
    server = serve(Storage(cuts=[1000] * 20))
    assert_complete(download(session, server, target), target)
    assert len(server.requests) == 21


def test_a_server_without_ranges_that_always_disconnects_fails_the_download(session, serve, target):
    def answer(request, reply):
        size = 20_000 if len(server.requests) % 2 else 10_000
        if len(server.requests) > 20:
            reply(400)
        reply.broken(200, DATA[:size], len(DATA), ETag='"e1"')

    server = serve(answer)
    with pytest.raises(TransferError):
        download(session, server, target)
    assert len(server.requests) < 10


@pytest.mark.parametrize("status", [301, 304, 400, 405, 501])
def test_any_other_answer_fails_a_download_at_once(session, serve, target, status):
    server = serve(lambda request, reply: reply(status, b"" if status == 304 else UNKNOWN, Location="http://x/"))
    with pytest.raises(ProtocolError, match=f"answered the download with HTTP {status}"):
        download(session, server, target)
    assert len(server.requests) == 1


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "aws-chunked, GZIP"])
def test_a_compressed_file_is_decompressed_while_it_is_written(session, serve, target, encoding):
    packed = gzip.compress(DATA[:30_000]) + gzip.compress(DATA[30_000:])
    server = serve(lambda request, reply: reply(200, packed, Content_Encoding=encoding, ETag='"e1"'))
    assert_complete(download(session, server, target), target)


def test_a_highly_compressed_file_is_decompressed_in_blocks(session, serve, target):
    data = b"0" * 50_000_000 + b"\n"
    server = serve(lambda request, reply: reply(200, gzip.compress(data), Content_Encoding="gzip"))
    assert_complete(download(session, server, target), target, data)


@pytest.mark.parametrize("packed", [gzip.compress(DATA)[:-9], gzip.compress(DATA)[:-1], b"{}" * 50, b"\x1f\x8b"])
def test_an_incomplete_or_damaged_compressed_file_is_never_taken_as_complete(session, serve, target, packed):
    server = serve(lambda request, reply: reply(200, packed, Content_Encoding="gzip", ETag='"e1"'))
    with pytest.raises(TransferError, match="was interrupted"):
        download(session, server, target)
    assert not target.exists()
    assert {request.header("Range") for request in server.requests} == {None}


def test_an_interrupted_compressed_download_starts_over(session, serve, target):
    packed = gzip.compress(DATA)

    def answer(request, reply):
        size = 5_000 if len(server.requests) == 1 else len(packed)
        reply.broken(200, packed[:size], len(packed), Content_Encoding="gzip", ETag='"e1"')

    server = serve(answer)
    assert_complete(download(session, server, target), target)
    assert [request.header("Range") for request in server.requests] == [None, None]


def test_an_encoding_that_cannot_be_decoded_is_refused_by_name(session, serve, target):
    server = serve(lambda request, reply: reply(200, b"x", Content_Encoding="br"))
    with pytest.raises(ProtocolError, match=r"encoded as \['br'\]"):
        download(session, server, target)


def test_a_chunked_file_is_complete_by_itself(session, serve, target):
    server = serve(lambda request, reply: reply.chunked([DATA[:70_000], DATA[70_000:]]))
    assert_complete(download(session, server, target), target)


def test_a_chunked_file_that_breaks_off_is_resumed(session, serve, target):
    def answer(request, reply):
        if len(server.requests) == 1:
            reply.chunked([DATA[:10_000]], is_complete=False)
        else:
            storage(request, reply)

    storage = Storage(etag='"big"')
    server = serve(answer)
    assert_complete(download(session, server, target), target)
    assert server.requests[-1].header("Range") == "bytes=10000-"


@pytest.mark.parametrize("expected_lines", [5000, None])
def test_a_file_that_ends_with_its_connection_is_complete_if_its_lines_add_up(session, serve, target, expected_lines):
    server = serve(lambda request, reply: reply.until_closed(DATA))
    assert_complete(download(session, server, target, expected_lines=expected_lines), target)
    assert len(server.requests) == 1


@pytest.mark.parametrize("end", [-1, -40], ids=["without its last line feed", "in the middle of a line"])
def test_the_last_line_of_a_file_that_ends_with_its_connection_must_be_whole(session, serve, target, end):
    data = DATA[:end]
    server = serve(lambda request, reply: reply.until_closed(data))
    if end == -1:
        assert_complete(download(session, server, target, expected_lines=5000), target, data)
    else:
        with pytest.raises(TransferError, match="ended after 4998 lines"):
            download(session, server, target)


def test_a_file_that_ends_with_its_connection_too_early_is_fetched_again_with_a_fresh_link(session, serve, target):
    def answer(request, reply):
        whole_lines = DATA[: DATA.index(b"\n", 20_000) + 1]
        reply.until_closed(whole_lines if len(server.requests) == 1 else DATA)

    server = serve(answer)
    assert_complete(download(session, server, target, expected_lines=5000), target)
    assert len(server.requests) == 2


def test_a_file_that_always_lacks_lines_fails_after_three_links(session, serve, target):
    server = serve(lambda request, reply: reply.until_closed(DATA[: DATA.index(b"\n") + 1]))
    with pytest.raises(TransferError, match="ended after 1 of 5000 lines"):
        download(session, server, target, expected_lines=5000)
    assert not target.exists()


def test_a_weak_etag_is_not_used_to_resume(session, serve, target):
    def answer(request, reply):
        if len(server.requests) == 1:
            reply.broken(200, DATA[:10_000], len(DATA), ETag='W/"e1"')
        else:
            reply(200, DATA, ETag='W/"e1"')

    server = serve(answer)
    assert_complete(download(session, server, target), target)
    assert server.requests[1].header("Range") is None


def test_a_range_without_the_total_size_is_complete_by_its_own_length(session, serve, target):
    def answer(request, reply):
        if len(server.requests) == 1:
            reply.broken(200, DATA[:10_000], len(DATA), ETag='"e1"')
        else:
            reply(206, DATA[10_000:], ETag='"e1"', Content_Range=f"bytes 10000-{len(DATA) - 1}/*")

    server = serve(answer)
    assert_complete(download(session, server, target), target)
    assert len(server.requests) == 2


def test_a_web_page_is_not_taken_as_the_file(session, serve, target):
    server = serve(lambda request, reply: reply(200, b"<html>log in</html>", Content_Type="text/html; charset=utf-8"))
    with pytest.raises(TransferError, match="web page"):
        download(session, server, target)
    assert not target.exists()


def test_links_without_progress_are_asked_for_after_growing_pauses(session, serve, target):
    pauses = []
    with pytest.raises(LinkExpiredError):
        download(session, serve(lambda request, reply: reply(404)), target, sleep=pauses.append)
    assert pauses == [5.0, 15.0]


def test_the_target_does_not_exist_before_the_file_is_complete(session, serve, target):
    exists = []

    def answer(request, reply):
        exists.append(target.exists())
        storage(request, reply)

    storage = Storage(cuts=[10_000])
    server = serve(answer)
    download(session, server, target)
    assert exists == [False, False]


def test_an_interrupted_download_from_the_local_service_is_resumed(connected, input_file, target):
    hook = CodingServiceHook()
    grant = hook.create_operation("osca", hook.latest_model("osca").model_id)
    hook.upload(grant, input_file)
    while hook.operation("osca", grant.operation_id).status != "complete":
        pass
    connected.fault("cut_download", after=100, path_contains=".jsonl")
    output, metadata = hook.download("osca", grant.operation_id, target, target.with_name("metadata.json"))
    assert (output.lines, output.bytes) == (3, target.stat().st_size)
    assert output.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    assert metadata.path.exists()
    assert [one["status"] for one in connected.journal("GET", "/output/")] == [200, 206, 200]


# ---- memory ------------------------------------------------------------------------------------------------------

MEMORY_PROGRAM = """
import resource, sys
from pathlib import Path
import requests
from coding_service import transfer
from coding_service.models import UploadGrant

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

before = peak()
url, path = sys.argv[1], Path(sys.argv[2])
with requests.Session() as session:
    session.mount("http://", transfer.BlockAdapter())
    transfer.download(session, lambda: url, path, timeout=60)
    down = peak() - before
    transfer.upload(session, UploadGrant("op-1", url, "key"), path, timeout=60)
print(down, peak() - before)
"""


def test_a_large_file_is_transferred_with_little_memory(serve, tmp_path, run_python):
    size, block = 300_000_000, bytes(1_000_000)

    def answer(request, reply):
        if request.method == "PUT":
            reply(200 if len(request.body) == size else 400)
        else:
            reply.stream((block for _ in range(size // len(block))), size)

    down, both = map(int, run_python(MEMORY_PROGRAM, serve(answer).url + "/big", tmp_path / "big").split())
    assert down < 150
    assert both < 150
