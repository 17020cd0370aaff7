"""No file of storage can cost more than its limits: bytes, time, disk."""

import gzip
import threading

import pytest
import requests
from airflow.sdk.exceptions import AirflowTaskTimeout

from coding_service import CodingServiceHook, transfer
from coding_service.errors import ProtocolError, StagingError, TransferError, UploadInterruptedError
from coding_service.models import InputPart, UploadGrant
from coding_service.part_operation import PartOperation
from coding_service.transfer import MAX_INPUT_BYTES, MAX_OUTPUT_RATIO, MIN_OUTPUT_LIMIT_BYTES

LINE = b'{"recordId": "r1"}\n'
#: A deadline for what must end, far above what it needs.
PATIENCE_S = 60


@pytest.fixture
def session():
    with requests.Session() as session:
        session.auth = transfer.NoAuth()
        session.mount("http://", transfer.BlockAdapter())
        yield session


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out" / "output.jsonl"


@pytest.fixture
def is_over():
    """An event that ends what a server still does when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def download(session, server, target, **options):
    options = {"timeout": 0.5, "sleep": lambda seconds: None, **options}
    return transfer.download(session, lambda: f"{server.url}/out/1.jsonl", target, **options)


def drip(is_over, piece):
    """Yield a piece every twentieth of a second until the test is over."""
    while not is_over.wait(0.05):
        yield piece


# ---- size --------------------------------------------------------------------------------------------------------


def test_the_limit_of_an_output_follows_from_its_input():
    assert transfer.output_limit(10_000_000) == 10_000_000 * MAX_OUTPUT_RATIO
    assert transfer.output_limit(80) == MIN_OUTPUT_LIMIT_BYTES
    assert transfer.output_limit(None) == MAX_INPUT_BYTES * MAX_OUTPUT_RATIO


def test_a_file_that_announces_too_many_bytes_is_not_received(session, serve, target):
    server = serve(lambda request, reply: reply.broken(200, LINE, 10**13))
    with pytest.raises(ProtocolError, match=r"/out/1.jsonl has more than 1000000 bytes.*nothing of it was kept"):
        download(session, server, target, max_bytes=1_000_000)
    assert len(server.requests) == 1
    assert not target.exists()


@pytest.mark.parametrize("kind", ["chunked", "compressed", "without a length"])
def test_a_file_that_does_not_end_is_given_up_at_its_limit_and_nothing_is_kept(session, serve, target, kind):
    def answer(request, reply):
        if kind == "chunked":
            reply.chunked(LINE * 10_000 for _ in range(1000))
        elif kind == "compressed":
            reply(200, bomb, Content_Encoding="gzip")
        else:
            reply.write_blocks((LINE * 10_000 for _ in range(1000)), Connection="close")

    bomb = gzip.compress(bytes(100_000_000))
    with pytest.raises(ProtocolError, match="has more than 1000000 bytes"):
        download(session, serve(answer), target, max_bytes=1_000_000)
    assert sum(path.stat().st_size for path in target.parent.iterdir()) < 100


def test_a_file_of_exactly_the_limit_is_received(session, serve, target):
    server = serve(lambda request, reply: reply(200, LINE))
    assert download(session, server, target, max_bytes=len(LINE)).bytes == len(LINE)


def test_a_file_without_room_on_the_disk_is_not_received(session, serve, target):
    server = serve(lambda request, reply: reply.broken(200, LINE, 10**13))
    with pytest.raises(StagingError, match=r"needs 10000000000000 bytes, but \d+ are free"):
        download(session, server, target, max_bytes=10**14)


def test_an_absurd_length_counts_as_none(session, serve, target):
    server = serve(lambda request, reply: reply.write_blocks([LINE], Content_Length="9" * 5000))
    assert download(session, server, target).bytes == len(LINE)


def test_an_absurd_range_counts_as_none(session, serve, target):
    def answer(request, reply):
        if len(server.requests) == 1:
            reply.broken(200, LINE, 1000, ETag='"e1"')
        else:
            reply(206, LINE, ETag='"e1"', Content_Range=f"bytes {len(LINE)}-9/{'9' * 5000}")

    server = serve(answer)
    assert download(session, server, target).bytes == 2 * len(LINE)


def test_a_metadata_file_above_its_limit_does_not_cost_the_output(serve, connect, tmp_path):
    def answer(request, reply):
        if request.path == "/metadata":
            reply(200, bytes(transfer.MAX_METADATA_BYTES + 1))
        elif request.path == "/output":
            reply(200, LINE)
        else:
            links = {"responseDownloadUrl": f"{server.url}/output", "metadataDownloadUrl": f"{server.url}/metadata"}
            reply(200, {"access_token": "t0ken", "operationStatus": "complete", **links})

    server = serve(answer)
    connect(server.url)
    output, metadata = CodingServiceHook().download(
        "osca", "00000000-0000-4000-8000-000000000001", tmp_path / "o", tmp_path / "m"
    )
    assert (output.bytes, metadata) == (len(LINE), None)


def test_an_output_far_larger_than_its_input_is_refused(serve, connect, input_file, context):
    def answer(request, reply):
        if request.path == "/output":
            reply.broken(200, LINE, MIN_OUTPUT_LIMIT_BYTES + 1)
        else:
            link = {"responseDownloadUrl": f"{server.url}/output"}
            reply(200, {"access_token": "t0ken", "operationStatus": "complete", **link})

    server = serve(answer)
    connect(server.url)
    part = InputPart("osca", "11111111-1111-4111-8111-111111111111", input_file.as_uri(), "0" * 64)
    with pytest.raises(ProtocolError, match=f"more than {MIN_OUTPUT_LIMIT_BYTES} bytes"):
        PartOperation(CodingServiceHook(), part, context["task_state_store"]).download(
            "00000000-0000-4000-8000-000000000001"
        )


# ---- time --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_download_that_is_too_slow_ends_and_the_next_attempt_resumes(session, serve, target, is_over, is_chunked):
    def answer(request, reply):
        if request.header("Range"):
            start = int(request.header("Range")[len("bytes=") : -1])
            reply(206, data[start:], ETag='"big"', Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")
        elif is_chunked:
            reply.chunked(drip(is_over, LINE) if len(server.requests) == 1 else [data])
        else:
            reply.stream(drip(is_over, LINE), len(data))

    data = LINE * 1000
    server = serve(answer)
    with pytest.raises(TransferError, match="was too slow: below 3072000 bytes in 0.5 s") as caught:
        download(session, server, target, slow_period=0.5)
    assert caught.value.retry_after == transfer.SLOW_WAIT_S
    assert len(server.requests) == 1
    assert download(session, server, target).bytes == len(data)
    if not is_chunked:  # of which a part can be lost
        assert server.requests[-1].header("Range")
    assert target.read_bytes() == data


def test_the_head_of_a_download_must_arrive_in_time(session, serve, target, is_over):
    def answer(request, reply):
        reply.write_raw(drip(is_over, b"HTTP/1.1 200 OK\r\nX-Slow: x\r\n"))

    with pytest.raises(TransferError, match="was interrupted: "):
        download(session, serve(answer), target)


def test_a_refusal_that_drips_is_judged_by_its_status(session, serve, input_file, is_over):
    def answer(request, reply):
        reply.write_raw([b"HTTP/1.1 503 Busy\r\nContent-Length: 9999\r\n\r\n"])
        reply.write_raw(drip(is_over, b"<"))

    server = serve(answer)
    grant = UploadGrant(
        "00000000-0000-4000-8000-000000000001", f"{server.url}/in/00000000-0000-4000-8000-000000000001.jsonl", "key"
    )
    with pytest.raises(TransferError, match="HTTP 503"):
        transfer.upload(session, grant, input_file, timeout=0.5)


def test_an_upload_that_is_too_slow_ends(session, serve, tmp_path, monkeypatch):
    path = tmp_path / "part-7.jsonl"
    path.write_bytes(LINE * 200_000)
    monkeypatch.setattr(transfer, "SLOW_PERIOD_S", -1.0)
    server = serve(lambda request, reply: reply(200))
    grant = UploadGrant(
        "00000000-0000-4000-8000-000000000001", f"{server.url}/in/00000000-0000-4000-8000-000000000001.jsonl", "key"
    )
    with pytest.raises(UploadInterruptedError, match="part-7.jsonl was too slow: ") as caught:
        transfer.upload(session, grant, path, timeout=5)
    assert caught.value.retry_after == transfer.SLOW_WAIT_S


def test_an_upload_that_the_timeout_of_its_task_ends_is_not_sent_twice(
    connected, encrypted, input_file, context, monkeypatch
):
    """The input has arrived, but the task is killed before it knows."""
    hook = CodingServiceHook()
    model = hook.latest_model("osca").model_id
    operation = PartOperation(hook, InputPart("osca", model, input_file.as_uri(), None), context["task_state_store"])
    operation_id, grant = operation.open()
    upload = hook.upload

    def be_killed(*args, **options):
        upload(*args, **options)
        raise AirflowTaskTimeout("Timeout")

    with monkeypatch.context() as patch:
        patch.setattr(hook, "upload", be_killed)
        with pytest.raises(AirflowTaskTimeout):
            operation.upload(operation_id, grant)
    history = context["task_state_store"].get("operation_history")[operation_id]
    assert history["interruptions"] == 1
    assert operation.upload(operation_id, grant) == operation_id
    assert len(connected.journal("PUT")) == 1
    assert len(connected.operations()) == 1
