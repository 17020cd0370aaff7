"""Files to and from presigned storage: what goes over the wire, what is resumed, and what never shows."""

import gzip
import hashlib
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
    return transfer.download(session, lambda: f"{server.url}/out/1.jsonl?{QUERY}", target, timeout=10, **options)


# ---- upload ------------------------------------------------------------------------------------------------------


def test_an_upload_has_our_two_headers_and_a_length_and_no_other(serve, connect, input_file, monkeypatch, tmp_path):
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
    of_http_itself = {"host", "accept-encoding", "user-agent", "connection"}
    assert {name: value for name, value in sent.items() if name not in of_http_itself} == {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": KEY,
        "content-length": str(input_file.stat().st_size),
    }


def test_an_upload_goes_through_the_storage_of_the_local_service(connected, input_file):
    hook = CodingServiceHook()
    grant = hook.create_operation("osca", hook.latest_model("osca").model_id)
    assert hook.upload(grant, input_file) == input_file.stat().st_size
    [entry] = connected.journal("PUT")
    assert (entry["status"], entry["bytes_received"]) == (200, input_file.stat().st_size)


@pytest.mark.parametrize(("total", "words"), [(4_000_000, "1.0 of 4.0 MB (25%)"), (None, "1.0 MB")])
def test_a_transfer_says_how_far_it_is(caplog, total, words):
    caplog.set_level("INFO", transfer.log.name)
    transfer.Progress("upload of part-7.jsonl", total, period=0).add(1_000_000)
    transfer.Progress("upload that has just begun", total).add(1_000_000)
    assert [re.sub(r"[0-9.]+ MB/s", "n MB/s", message) for message in caplog.messages] == [
        f"upload of part-7.jsonl: {words}, n MB/s"
    ]


def test_of_a_large_file_that_is_not_what_was_prepared_storage_keeps_nothing(connected, tmp_path):
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
        (411, ProtocolError),
        (501, ProtocolError),
        (500, TransferError),
        (503, TransferError),
        (429, TransferError),
        (204, ProtocolError),
        (301, ProtocolError),
    ],
)
def test_every_answer_of_storage_to_an_upload_has_its_error(session, serve, input_file, status, error):
    server = serve(lambda request, reply: reply(status, b"" if status == 204 else EXPIRED, Location="http://x/"))
    with pytest.raises(error, match=f"with HTTP {status}") as caught:
        upload(session, server, input_file)
    assert type(caught.value) is error
    assert caught.value.status_code == status
    assert len(server.requests) == 1
    if status != 204:
        assert "(AccessDenied: Request has expired)" in str(caught.value)


def test_an_error_of_storage_is_shown_by_code_and_message_only(session, serve, input_file):
    shown = "<Code>SignatureDoesNotMatch</Code><Message>No</Message>"
    body = f"<Error>{shown}<StringToSign>{SIGNATURE}</StringToSign></Error>"
    server = serve(lambda request, reply: reply(403, body.encode()))
    with pytest.raises(GrantExpiredError, match=r"\(SignatureDoesNotMatch: No\)") as caught:
        upload(session, server, input_file)
    assert SIGNATURE not in str(caught.value)


def test_an_upload_that_is_reset_may_be_tried_again(connected, input_file):
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


def test_a_refusal_while_a_large_file_is_still_going_out_is_seen(connected, tmp_path):
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
def test_no_error_of_a_transfer_shows_the_query(session, serve, input_file, target, answer):
    server = serve(answer)
    for transfer_it in (lambda: upload(session, server, input_file), lambda: download(session, server, target)):
        with pytest.raises(CodingServiceError) as caught:
            transfer_it()
        assert "/1.jsonl" in str(caught.value) or "op-1.jsonl" in str(caught.value)
        assert SIGNATURE not in f"{caught.value!r} {caught.value}"
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_an_unreachable_storage_does_not_show_the_query(session, serve, input_file):
    server = serve(cut)
    url = server.url
    server.stop()
    with pytest.raises(TransferError, match=f"to {url}/in/op-1.jsonl was interrupted: ConnectionError") as caught:
        upload(session, server, input_file)
    assert SIGNATURE not in str(caught.value)


# ---- download ----------------------------------------------------------------------------------------------------


class Storage:
    """Answers ranged requests as S3 does; `cuts` are the bytes after which the next answers break off."""

    def __init__(self, data=DATA, cuts=(), etag='"e1"'):
        self.data, self.cuts, self.etag = data, list(cuts), etag

    def __call__(self, request, reply):
        wanted = request.header("Range")
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        if wanted and request.header("If-Match") != self.etag:
            reply(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        elif wanted and start >= len(self.data):
            reply(416, b"<Error/>", Content_Range=f"bytes */{len(self.data)}")
        else:
            span = {"Content_Range": f"bytes {start}-{len(self.data) - 1}/{len(self.data)}"} if wanted else {}
            self._send(reply, 206 if wanted else 200, self.data[start:], ETag=self.etag, **span)

    def _send(self, reply, status, body, **headers):
        if self.cuts:
            reply.broken(status, body[: self.cuts.pop(0)], len(body), **headers)
        else:
            reply(status, body, **headers)


def assert_whole(result, target, data=DATA):
    assert target.read_bytes() == data
    assert result == transfer.Download(target, len(data), hashlib.sha256(data).hexdigest(), data.count(b"\n"))
    assert [one.name for one in target.parent.iterdir()] == [target.name]


def test_a_file_comes_down_whole(session, serve, target):
    server = serve(Storage())
    assert_whole(download(session, server, target), target)
    [request] = server.requests
    assert request.header("Range") is None
    assert request.header("Authorization") is None
    assert request.header("Accept-Encoding") == "identity"


def test_an_empty_file_comes_down_too(session, serve, target):
    assert_whole(download(session, serve(Storage(b"")), target), target, b"")


def test_a_download_sends_no_authorization_whatever_netrc_says(serve, connect, target, monkeypatch, tmp_path):
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
    CodingServiceHook().download("osca", "op-1", target, target.with_name("metadata.json"))
    authorized = {request.path.partition("?")[0]: request.header("Authorization") for request in server.requests}
    assert authorized["/out/1.jsonl"] is None
    assert authorized["/v1/topics/osca/batch-code/operations/op-1"] == "t0ken"
    assert authorized["/oauth2/token"].startswith("Basic ")


def test_a_download_that_is_cut_goes_on_where_it_stopped(session, serve, target):
    server = serve(Storage(cuts=[10_000, 5_000]))
    assert_whole(download(session, server, target), target)
    assert [(one.header("Range"), one.header("If-Match")) for one in server.requests] == [
        (None, None),
        ("bytes=10000-", '"e1"'),
        ("bytes=15000-", '"e1"'),
    ]


def test_a_download_goes_on_in_a_later_try(session, serve, target):
    storage = Storage(cuts=[10_000, 0, 0, 0])
    server = serve(storage)
    with pytest.raises(TransferError, match="was interrupted"):
        download(session, server, target)
    assert not target.exists()
    assert_whole(download(session, server, target), target)
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


def test_a_download_that_goes_on_in_a_new_process_has_the_right_sum_and_lines(session, serve, target, run_python):
    server = serve(Storage(cuts=[12_345, 0, 0, 0]))
    with pytest.raises(TransferError):
        download(session, server, target)
    said = run_python(RESUME_PROGRAM, f"{server.url}/out/1.jsonl", target)
    assert server.requests[-1].header("Range") == "bytes=12345-"
    assert target.read_bytes() == DATA
    assert f"bytes={len(DATA)}, sha256='{hashlib.sha256(DATA).hexdigest()}', lines=5000" in said


def test_a_file_that_changed_in_the_middle_is_fetched_from_its_start(session, serve, target):
    new = DATA[::-1]

    def change_file(request, reply):
        if len(server.requests) == 2:
            storage.data, storage.etag = new, '"e2"'
        storage(request, reply)

    storage = Storage(cuts=[10_000])
    server = serve(change_file)
    assert_whole(download(session, server, target), target, new)
    assert [one.header("Range") for one in server.requests] == [None, "bytes=10000-", None]


def test_a_server_that_knows_no_ranges_costs_a_start_over(session, serve, target):
    def answer(request, reply):
        if len(server.requests) == 1:
            reply.broken(200, DATA[:10_000], len(DATA), ETag='"e1"')
        else:
            reply(200, DATA, ETag='"e1"')

    server = serve(answer)
    assert_whole(download(session, server, target), target)


def test_a_range_that_starts_elsewhere_is_not_taken(session, serve, target):
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
    assert_whole(download(session, server, target), target)


def test_a_file_without_etag_is_not_resumed(session, serve, target):
    def answer(request, reply):
        if len(server.requests) == 1:
            reply.broken(200, DATA[:10_000], len(DATA))
        else:
            reply(200, DATA)

    server = serve(answer)
    assert_whole(download(session, server, target), target)
    assert server.requests[1].header("Range") is None


def leave_partial(target, data, note='{"etag": "\\"e1\\""}'):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_name(target.name + ".partial").write_bytes(data)
    target.with_name(target.name + ".etag").write_text(note)


def test_a_download_that_died_after_its_last_byte_is_finished_without_another(session, serve, target):
    leave_partial(target, DATA)
    server = serve(Storage())
    assert_whole(download(session, server, target), target)
    assert [one.header("Range") for one in server.requests] == [f"bytes={len(DATA)}-"]


def test_storage_that_says_the_size_in_its_error_document_is_understood_as_well(session, serve, target):
    leave_partial(target, DATA)
    body = f"<Error><Code>InvalidRange</Code><ActualObjectSize>{len(DATA)}</ActualObjectSize></Error>".encode()
    server = serve(lambda request, reply: reply(416, body))
    assert_whole(download(session, server, target), target)
    assert len(server.requests) == 1


def test_more_bytes_than_the_file_has_are_thrown_away(session, serve, target):
    leave_partial(target, DATA + b"more")
    assert_whole(download(session, serve(Storage()), target), target)


@pytest.mark.parametrize("note", ["", "{", "[]", "{}", "5", '{"etag": 5}'])
def test_a_damaged_note_of_an_earlier_try_costs_a_start_over_and_no_error(session, serve, target, note):
    leave_partial(target, b"half a li", note)
    assert_whole(download(session, serve(Storage()), target), target)


def test_an_expired_link_asks_for_a_fresh_one(session, serve, target):
    links = iter(["old", "new"])
    storage = Storage()

    def answer(request, reply):
        if request.path == "/old":
            reply(403, EXPIRED)
        else:
            storage(request, reply)

    server = serve(answer)
    assert_whole(transfer.download(session, lambda: f"{server.url}/{next(links)}", target, timeout=10), target)
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
def test_three_links_in_a_row_that_bring_nothing_end_the_download(session, serve, target, answer, error):
    server = serve(answer)
    with pytest.raises(error):
        download(session, server, target)
    assert len(server.requests) == 3
    assert not target.exists()


def test_links_that_bring_something_are_asked_for_as_long_as_it_takes(session, serve, target):
    server = serve(Storage(cuts=[1000] * 20))
    assert_whole(download(session, server, target), target)
    assert len(server.requests) == 21


def test_a_server_without_ranges_that_always_breaks_off_somewhere_ends_the_download(session, serve, target):
    def answer(request, reply):
        size = 20_000 if len(server.requests) % 2 else 10_000
        if len(server.requests) > 20:
            reply(400)
        reply.broken(200, DATA[:size], len(DATA), ETag='"e1"')

    server = serve(answer)
    with pytest.raises(TransferError):
        download(session, server, target)
    assert len(server.requests) < 10


@pytest.mark.parametrize("status", [301, 304, 400, 405])
def test_any_other_answer_ends_a_download_at_once(session, serve, target, status):
    server = serve(lambda request, reply: reply(status, b"" if status == 304 else EXPIRED, Location="http://x/"))
    with pytest.raises(ProtocolError, match=f"answered the download with HTTP {status}"):
        download(session, server, target)
    assert len(server.requests) == 1


def test_a_file_that_storage_keeps_compressed_comes_down_as_it_lies_there(session, serve, target):
    packed = gzip.compress(DATA)
    server = serve(lambda request, reply: reply(200, packed, Content_Encoding="gzip", ETag='"e1"'))
    assert_whole(download(session, server, target), target, packed)


def test_nothing_is_at_the_target_before_the_file_is_whole(session, serve, target):
    seen = []

    def answer(request, reply):
        seen.append(target.exists())
        storage(request, reply)

    storage = Storage(cuts=[10_000])
    server = serve(answer)
    download(session, server, target)
    assert seen == [False, False]


def test_a_download_through_the_local_service_is_resumed_after_a_cut(connected, input_file, target):
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


def test_a_large_file_goes_through_little_memory(serve, tmp_path, run_python):
    size, block = 300_000_000, bytes(1_000_000)

    def answer(request, reply):
        if request.method == "PUT":
            reply(200 if len(request.body) == size else 400)
        else:
            reply.stream((block for _ in range(size // len(block))), size)

    down, both = map(int, run_python(MEMORY_PROGRAM, serve(answer).url + "/big", tmp_path / "big").split())
    assert down < 150
    assert both < 150
