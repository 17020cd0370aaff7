"""Files by their URI: on this machine, and in object storage (an S3 server) without a local copy."""

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
from coding_service.operators import UPLOAD_GRANT_KEY
from coding_service.part_operation import OPERATION_STATE_KEY
from coding_service.storage import OBJECT_BLOCK_BYTES, open_for_reading, storage_path

#: Airflow caches the file system of a connection in its process, so each test uses a connection of its own.
NUMBERS = itertools.count(1)
LINES = b"".join(b'{"recordId": "r%d", "occp_text": "baker %d", "tasks_text": "bakes"}\n' % (n, n) for n in range(3))


@pytest.fixture
def conn_id():
    return f"storage_{next(NUMBERS)}"


@pytest.fixture
def define(monkeypatch, conn_id):
    """Return a function that defines the Airflow connection of the object storage."""
    return lambda connection: monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", connection)


@pytest.fixture
def bucket(s3, define):
    define(s3.connection())
    return s3.create_bucket()


@pytest.fixture
def part(s3, bucket, connected, encrypted):
    """A part whose input file is in the bucket."""
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
    """Return the id of an operation that has received the part and is complete."""
    step(CodingServiceCreateOperator, context)
    create_id = context["task_state_store"].get(OPERATION_STATE_KEY)["operation_id"]
    grant = context["ti"].xcoms[UPLOAD_GRANT_KEY]
    operation_id = step(CodingServiceUploadOperator, context, operation_id=create_id, grant=grant)
    deadline = time.monotonic() + 30
    while not CodingServiceHook().operation("osca", operation_id).status.is_terminal:
        assert time.monotonic() < deadline, "the operation did not end"
    return operation_id


@pytest.fixture
def session():
    with requests.Session() as plain:
        plain.trust_env = False
        yield plain


@pytest.mark.parametrize("name", ["part 0.jsonl", "part#0?.jsonl", "ünï.jsonl", "100%.jsonl"])
def test_local_paths_can_be_converted_to_a_uri_and_back(tmp_path, name):
    assert storage_path((tmp_path / name).as_uri()) == tmp_path / name


def test_a_file_uri_can_contain_localhost():
    assert storage_path("file://localhost/a/b") == storage_path("file:///a/b")


@pytest.mark.parametrize(
    "uri",
    ["file://staging/p.jsonl", "/data/p.jsonl", "p.jsonl", "https://x/p", "s3:///p", "gs://bucket/p", "file:///p?q"],
)
def test_an_unsupported_uri_is_refused_with_its_value(uri):
    with pytest.raises(InputFileError, match="unsupported file URI .*: use file:///... or s3://bucket/...") as caught:
        storage_path(uri)
    assert repr(uri) in str(caught.value)


def test_a_part_is_uploaded_from_s3_and_its_output_downloaded_to_s3(s3, bucket, part, uploaded, step, context):
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


def test_without_a_connection_the_credentials_of_the_machine_are_used(s3, bucket, monkeypatch):
    connection = json.loads(s3.connection())
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", connection["login"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", connection["password"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", connection["extra"]["region_name"])
    s3.client.put_object(Bucket=bucket, Key="part-0.jsonl", Body=LINES)
    with open_for_reading(storage_path(f"s3://{bucket}/part-0.jsonl")) as file:
        assert file.read() == LINES


def test_objects_are_encrypted_as_the_connection_says(s3, bucket, define, session, serve, conn_id):
    define(s3.connection(s3_additional_kwargs={"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key-1"}))
    server = serve(lambda request, reply: reply(200, b"x" * (3 * OBJECT_BLOCK_BYTES), ETag='"1"'))
    for name, path in (("small", "/small"), ("large", "/large")):
        target = storage_path(f"s3://{bucket}/{name}", conn_id)
        transfer.download(session, lambda path=path: server.url + path, target, timeout=10)
        head = s3.client.head_object(Bucket=bucket, Key=name)
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"].rpartition("/")[2]) == ("aws:kms", "key-1")


def test_an_interrupted_download_resumes_in_the_same_object(s3, bucket, session, serve, conn_id):
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
    file = transfer.download(session, lambda: server.url, storage_path(f"s3://{bucket}/out", conn_id), timeout=10)
    assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert s3.read(bucket, "out") == content
    assert len(server.requests) == 2
    assert s3.unfinished(bucket) == []


def test_a_download_starts_over_when_the_file_changes(s3, bucket, session, serve, conn_id):
    old, new = b"a" * (OBJECT_BLOCK_BYTES + 1), b"b" * (OBJECT_BLOCK_BYTES + 1)
    answers = iter([("broken", old), (412, b""), (200, new)])

    def answer(request, reply):
        status, body = next(answers)
        reply.broken(200, body, len(body) + 1, ETag='"1"') if status == "broken" else reply(status, body, ETag='"2"')

    server = serve(answer)
    transfer.download(session, lambda: server.url, storage_path(f"s3://{bucket}/out", conn_id), timeout=10)
    assert s3.read(bucket, "out") == new
    assert s3.unfinished(bucket) == []


def test_a_failed_download_leaves_no_object_and_no_upload(s3, bucket, session, serve, conn_id):
    server = serve(lambda request, reply: reply.broken(200, b"x" * (OBJECT_BLOCK_BYTES + 1), 10**9, ETag='"1"'))
    with pytest.raises(TransferError):
        transfer.download(session, lambda: server.url, storage_path(f"s3://{bucket}/out", conn_id), timeout=10)
    assert (s3.keys(bucket), s3.unfinished(bucket)) == ([], [])


def test_the_error_for_a_missing_input_contains_its_path(bucket, connected, conn_id):
    hook, uri = CodingServiceHook(), f"s3://{bucket}/runs/run-1/gone.jsonl"
    grant = hook.create_operation("osca", hook.latest_model("osca").model_id)
    with pytest.raises(InputFileError, match="@bucket-.*/runs/run-1/gone.jsonl does not exist; prepare it again"):
        hook.upload(grant, storage_path(uri, conn_id))


UPLOAD_STARTED = (
    b"<InitiateMultipartUploadResult><Bucket>bucket</Bucket><Key>out</Key><UploadId>1</UploadId>"
    b"</InitiateMultipartUploadResult>"
)
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@pytest.mark.parametrize("size", [10, 2 * OBJECT_BLOCK_BYTES])
def test_a_write_that_s3_refuses_raises_a_retryable_error_with_the_path(s3, session, serve, define, conn_id, size):
    refusing = serve(lambda request, reply: reply(403, DENIED, Content_Type="application/xml"))
    define(s3.connection(endpoint_url=refusing.url))
    source = serve(lambda request, reply: reply(200, b"x" * size, ETag='"1"'))
    with pytest.raises(StagingError, match=r"@bucket/out cannot be written \(PermissionError: .*worker permissions"):
        transfer.download(session, lambda: source.url, storage_path("s3://bucket/out", conn_id), timeout=10)


def test_a_download_that_cannot_be_aborted_is_not_completed_later(s3, session, serve, define, conn_id):
    completed = []

    def answer(request, reply):
        if request.method == "POST" and "uploads" in request.path:
            reply(200, UPLOAD_STARTED, Content_Type="application/xml")
        elif request.method == "PUT" and "partNumber" in request.path:
            reply(200, ETag='"part"')
        else:
            completed.extend([request.path] if request.method == "POST" else [])
            reply(403, DENIED, Content_Type="application/xml")  # to abort the upload is refused as well

    define(s3.connection(endpoint_url=serve(answer).url))
    source = serve(lambda request, reply: reply.broken(200, b"x" * (OBJECT_BLOCK_BYTES + 1), 10**9, ETag='"1"'))
    with pytest.raises(TransferError):
        transfer.download(session, lambda: source.url, storage_path("s3://bucket/out", conn_id), timeout=10)
    gc.collect()
    assert completed == []


def test_a_retry_succeeds_once_the_bucket_exists(s3, session, serve, define, conn_id):
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


def test_a_large_object_is_transferred_with_little_memory_and_no_disk(
    bucket, serve, run_python, conn_id, monkeypatch, tmp_path
):
    size, block = 200_000_000, bytes(1_000_000)
    sizes = []

    def answer(request, reply):
        if request.method == "PUT":
            sizes.append(len(request.body))
            reply(200)
        else:
            reply.stream((block for _ in range(size // len(block))), size)

    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "empty"))
    printed = run_python(MEMORY_PROGRAM, serve(answer).url + "/big", f"s3://{bucket}/big", conn_id)
    memory, _, files = printed.strip().splitlines()[-1].partition(" ")
    assert (sizes, files) == ([size], "[]")
    assert int(memory) < 120
