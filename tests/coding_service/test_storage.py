"""Files of a run by their URI, and in object storage: through an S3 server, with no copy on this machine."""

import gc
import hashlib
import itertools
import json
import os
import time

import pytest
import requests

from coding_service import (
    CodingServiceCreateOperator,
    CodingServiceDownloadOperator,
    CodingServiceHook,
    CodingServiceUploadOperator,
    transfer,
)
from coding_service.errors import InputFileError, StagingError, TransferError
from coding_service.operators import OPERATION_STATE_KEY, UPLOAD_GRANT_KEY
from coding_service.storage import OBJECT_BLOCK_BYTES, storage_path

#: Airflow keeps the file system of a connection for as long as its process lives, so each test has its own.
NUMBERS = itertools.count(1)
LINES = b"".join(b'{"recordId": "r%d", "occp_text": "baker %d", "tasks_text": "bakes"}\n' % (n, n) for n in range(3))


@pytest.fixture
def conn_id():
    return f"storage_{next(NUMBERS)}"


@pytest.fixture
def define(monkeypatch, conn_id):
    """Define the Airflow connection of the object storage."""
    return lambda connection: monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", connection)


@pytest.fixture
def bucket(s3, define):
    define(s3.connection())
    return s3.create_bucket()


@pytest.fixture
def part(s3, bucket, connected, encrypted):
    """A part whose input file lies in the bucket."""
    s3.client.put_object(Bucket=bucket, Key="runs/run-1/part-0.jsonl", Body=LINES)
    return {
        "topic": "osca",
        "model_id": CodingServiceHook().latest_model("osca").model_id,
        "input_uri": f"s3://{bucket}/runs/run-1/part-0.jsonl",
        "sha256": hashlib.sha256(LINES).hexdigest(),
    }


@pytest.fixture
def step(part, conn_id, run):
    """Return a function that runs a step on the part."""

    def run_step(operator, context, **arguments):
        task = operator(task_id="step", part=part, storage_conn_id=conn_id, **arguments)
        return run(task, context)

    return run_step


@pytest.fixture
def uploaded(step, context):
    """An operation that holds the part; the service is done with it at once."""
    step(CodingServiceCreateOperator, context)
    created = context["task_state_store"].get(OPERATION_STATE_KEY)["operation_id"]
    grant = context["ti"].xcoms[UPLOAD_GRANT_KEY]
    operation_id = step(CodingServiceUploadOperator, context, operation_id=created, grant=grant)
    deadline = time.monotonic() + 30
    while not CodingServiceHook().operation("osca", operation_id).status.is_terminal:
        assert time.monotonic() < deadline, "the service is not done"
    return operation_id


@pytest.fixture
def session():
    with requests.Session() as plain:
        plain.trust_env = False
        yield plain


@pytest.mark.parametrize("name", ["part 0.jsonl", "part#0?.jsonl", "ünï.jsonl", "100%.jsonl"])
def test_paths_of_this_machine_go_through_a_uri_and_back(tmp_path, name):
    assert storage_path((tmp_path / name).as_uri()) == tmp_path / name


def test_the_host_of_a_file_may_be_named_if_it_is_this_one():
    assert storage_path("file://localhost/a/b") == storage_path("file:///a/b")


@pytest.mark.parametrize(
    "uri",
    ["file://staging/p.jsonl", "/data/p.jsonl", "p.jsonl", "https://x/p", "s3:///p", "gs://bucket/p", "file:///p?q"],
)
def test_what_is_neither_here_nor_in_s3_is_refused_by_its_uri(uri):
    with pytest.raises(InputFileError, match="unsupported file URI .*: use file:///... or s3://bucket/...") as caught:
        storage_path(uri)
    assert repr(uri) in str(caught.value)


def test_a_part_goes_from_s3_to_the_service_and_its_output_back_to_s3(s3, bucket, part, uploaded, step, context):
    result = step(CodingServiceDownloadOperator, context, operation_id=uploaded)
    folder = f"runs/run-1/{uploaded}"
    assert s3.keys(bucket, folder) == [f"{folder}/metadata.json", f"{folder}/output.jsonl"]
    output = s3.read(bucket, f"{folder}/output.jsonl")
    assert [json.loads(line)["recordId"] for line in output.splitlines()] == ["r0", "r1", "r2"]
    assert result == {
        "operation_id": uploaded,
        "output_uri": f"s3://{bucket}/{folder}/output.jsonl",
        "metadata_uri": f"s3://{bucket}/{folder}/metadata.json",
        "bytes": len(output),
        "sha256": hashlib.sha256(output).hexdigest(),
        "records": 3,
        "input_uri": part["input_uri"],
        "fingerprint": {"topic": "osca", "model_id": part["model_id"], "input_sha256": part["sha256"]},
    }


def test_what_is_written_is_encrypted_as_the_connection_says(s3, bucket, define, session, serve, conn_id):
    define(s3.connection(s3_additional_kwargs={"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key-1"}))
    server = serve(lambda request, reply: reply(200, b"x" * (3 * OBJECT_BLOCK_BYTES), ETag='"1"'))
    for name, path in (("small", "/small"), ("large", "/large")):
        target = storage_path(f"s3://{bucket}/{name}", conn_id)
        transfer.download(session, lambda path=path: server.url + path, target, timeout=10)
        head = s3.client.head_object(Bucket=bucket, Key=name)
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"].rpartition("/")[2]) == ("aws:kms", "key-1")


def test_a_download_that_breaks_off_goes_on_in_the_same_object(s3, bucket, session, serve, conn_id):
    content = os.urandom(2 * OBJECT_BLOCK_BYTES + 12_345)
    first = OBJECT_BLOCK_BYTES + 1000

    def answer(request, reply):
        if request.header("Range") is None:
            reply.broken(200, content[:first], len(content), ETag='"1"')
        else:
            assert request.header("If-Match") == '"1"'
            begin = int(request.header("Range").removeprefix("bytes=").removesuffix("-"))
            reply(206, content[begin:], Content_Range=f"bytes {begin}-{len(content) - 1}/{len(content)}", ETag='"1"')

    server = serve(answer)
    done = transfer.download(session, lambda: server.url, storage_path(f"s3://{bucket}/out", conn_id), timeout=10)
    assert (done.bytes, done.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert s3.read(bucket, "out") == content
    assert len(server.requests) == 2
    assert s3.unfinished(bucket) == []


def test_a_download_of_another_file_in_the_middle_starts_over(s3, bucket, session, serve, conn_id):
    old, new = b"a" * (OBJECT_BLOCK_BYTES + 1), b"b" * (OBJECT_BLOCK_BYTES + 1)
    answers = iter([("broken", old), (412, b""), (200, new)])

    def answer(request, reply):
        status, body = next(answers)
        reply.broken(200, body, len(body) + 1, ETag='"1"') if status == "broken" else reply(status, body, ETag='"2"')

    server = serve(answer)
    transfer.download(session, lambda: server.url, storage_path(f"s3://{bucket}/out", conn_id), timeout=10)
    assert s3.read(bucket, "out") == new
    assert s3.unfinished(bucket) == []


def test_a_download_that_fails_for_good_leaves_nothing(s3, bucket, session, serve, conn_id):
    server = serve(lambda request, reply: reply.broken(200, b"x" * (OBJECT_BLOCK_BYTES + 1), 10**9, ETag='"1"'))
    with pytest.raises(TransferError):
        transfer.download(session, lambda: server.url, storage_path(f"s3://{bucket}/out", conn_id), timeout=10)
    assert (s3.keys(bucket), s3.unfinished(bucket)) == ([], [])


def test_a_missing_input_is_named(bucket, connected, conn_id):
    hook, uri = CodingServiceHook(), f"s3://{bucket}/runs/run-1/gone.jsonl"
    grant = hook.create_operation("osca", hook.latest_model("osca").model_id)
    with pytest.raises(InputFileError, match="@bucket-.*/runs/run-1/gone.jsonl does not exist; prepare it again"):
        hook.upload(grant, storage_path(uri, conn_id))


STARTED = (
    b"<InitiateMultipartUploadResult><Bucket>bucket</Bucket><Key>out</Key><UploadId>1</UploadId>"
    b"</InitiateMultipartUploadResult>"
)
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@pytest.mark.parametrize("size", [10, 2 * OBJECT_BLOCK_BYTES])
def test_a_write_that_s3_refuses_is_an_error_that_names_the_place_and_may_pass(
    s3, session, serve, define, conn_id, size
):
    refusing = serve(lambda request, reply: reply(403, DENIED, Content_Type="application/xml"))
    define(s3.connection(endpoint_url=refusing.url))
    source = serve(lambda request, reply: reply(200, b"x" * size, ETag='"1"'))
    with pytest.raises(StagingError, match=r"@bucket/out cannot be written \(PermissionError: .*worker permissions"):
        transfer.download(session, lambda: source.url, storage_path("s3://bucket/out", conn_id), timeout=10)


def test_a_download_that_cannot_even_be_given_up_is_not_completed_later(s3, session, serve, define, conn_id):
    completed = []

    def answer(request, reply):
        if request.method == "POST" and "uploads" in request.path:
            reply(200, STARTED, Content_Type="application/xml")
        elif request.method == "PUT" and "partNumber" in request.path:
            reply(200, ETag='"part"')
        else:
            completed.extend([request.path] if request.method == "POST" else [])
            reply(403, DENIED, Content_Type="application/xml")  # to give up is refused as well

    define(s3.connection(endpoint_url=serve(answer).url))
    source = serve(lambda request, reply: reply.broken(200, b"x" * (OBJECT_BLOCK_BYTES + 1), 10**9, ETag='"1"'))
    with pytest.raises(TransferError):
        transfer.download(session, lambda: source.url, storage_path("s3://bucket/out", conn_id), timeout=10)
    gc.collect()
    assert completed == []


def test_a_retry_succeeds_once_the_bucket_is_there(s3, session, serve, define, conn_id):
    define(s3.connection())
    source = serve(lambda request, reply: reply(200, b"x" * 10, ETag='"1"'))
    target = storage_path("s3://late-bucket/out", conn_id)
    with pytest.raises(StagingError, match="@late-bucket/out cannot be written"):
        transfer.download(session, lambda: source.url, target, timeout=10)
    s3.client.create_bucket(Bucket="late-bucket", CreateBucketConfiguration={"LocationConstraint": "ap-southeast-2"})
    assert transfer.download(session, lambda: source.url, target, timeout=10).bytes == 10
    assert s3.read("late-bucket", "out") == b"x" * 10


MEMORY_PROGRAM = """
import os, resource, sys, tempfile
import requests
from coding_service import transfer
from coding_service.models import UploadGrant
from coding_service.storage import storage_path

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

url, path = sys.argv[1], storage_path(sys.argv[2], sys.argv[3])
path.exists()
before = peak()
with requests.Session() as session:
    session.mount("http://", transfer.BlockAdapter())
    transfer.download(session, lambda: url, path, timeout=60)
    transfer.upload(session, UploadGrant("op-1", url, "key"), path, timeout=60)
print(peak() - before, os.listdir(tempfile.gettempdir()))
"""


def test_a_large_file_goes_through_little_memory_and_no_disk(
    bucket, serve, run_python, conn_id, monkeypatch, tmp_path
):
    size, block = 200_000_000, bytes(1_000_000)
    arrived = []

    def answer(request, reply):
        if request.method == "PUT":
            arrived.append(len(request.body))
            reply(200)
        else:
            reply.stream((block for _ in range(size // len(block))), size)

    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "empty"))
    printed = run_python(MEMORY_PROGRAM, serve(answer).url + "/big", f"s3://{bucket}/big", conn_id)
    memory, _, left = printed.strip().splitlines()[-1].partition(" ")
    assert (arrived, left) == ([size], "[]")
    assert int(memory) < 120
