"""The files of a run in object storage (an S3 server) or a folder, and how they are removed."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from include.coding.errors import IncompleteError, PlanError, StagingError
from include.coding.files import path_from_uri
from include.coding.report import write_report
from include.coding.results import PartResult
from include.coding.staging import BLOCK_BYTES, Staging, sweep
from tests.coding.conftest import DAY, Pipeline, code_line

RECORDS = [("1", DAY, "chef", "cooks"), ("2", DAY, "baker", ""), ("3", DAY, "nurse", ""), ("4", DAY, "", None)]
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
OLD, LIVE, DONE = (f"manual__{name}-00c0ffee" for name in ("old", "live", "done"))
OTHER_FILES = ["%2e%2e/x", "..-0badc0de#/x", "model/weights.bin"]


@pytest.fixture
def bucket(s3):
    return s3.create_bucket()


@pytest.fixture
def remote(tmp_path, s3, bucket, place):
    """A pipeline whose runs keep their files in a bucket."""
    pipeline = Pipeline(tmp_path / "scratch", place, (f"s3://{bucket}/runs", s3.file_system()))
    pipeline.fill(*RECORDS)
    return pipeline


def upload_output(pipeline, part):
    """Put the output of a part where the download step puts it, and return the result."""
    folder = f"{pipeline.staging.uri}/operation-{part.part}"
    lines = [json.loads(line) for line in pipeline.staging.fs.cat_file(part.input_uri).splitlines()]
    pipeline.staging.fs.pipe_file(f"{folder}/output.jsonl", "".join(map(code_line, lines)).encode())
    pipeline.staging.fs.pipe_file(f"{folder}/metadata.json", json.dumps({"modelId": part.model_id}).encode())
    return PartResult(
        part.part,
        f"operation-{part.part}",
        "complete",
        output_uri=f"{folder}/output.jsonl",
        metadata_uri=f"{folder}/metadata.json",
        input_uri=part.input_uri,
        fingerprint=part.fingerprint,
    )


def list_files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_run_passes_through_a_bucket_and_leaves_no_local_files(remote, s3, bucket, tmp_path):
    parts = remote.prepare(records_per_part=2).parts
    assert s3.keys(bucket) == sorted(
        [*(part.input_uri.removeprefix(f"s3://{bucket}/") for part in parts), "runs/run-1/records.parquet"]
    )
    assert list_files(tmp_path / "scratch") == []
    summary = remote.land([upload_output(remote, part) for part in parts])
    assert (summary.coded, summary.rejected, summary.operations) == (3, 1, 2)
    assert remote.read_outcomes() == [("1", "coded"), ("2", "coded"), ("3", "coded"), ("4", "rejected")]
    assert remote.query("SELECT metadata FROM coding.coding_operations WHERE part = 0") == [
        (json.dumps({"modelId": remote.plan.model_id}),)
    ]
    uri = write_report(remote.plan, remote.prepared, summary, remote.warehouse, remote.staging)
    assert uri == f"s3://{bucket}/runs/run-1/report.md"
    assert s3.read(bucket, "runs/run-1/report.md").startswith(b"# Occupation coding")
    assert list_files(tmp_path / "scratch") == []
    remote.staging.clear()
    assert s3.keys(bucket) == ["runs/run-1/report.md"]


def test_texts_are_coded_again_through_a_bucket_and_leave_no_local_files(remote, tmp_path):
    (part,) = remote.prepare().parts

    def code_piece(piece):
        if b"baker" in remote.staging.fs.cat_file(piece.input_uri):
            return PartResult(piece.part, f"operation-{piece.part}", "failed")
        return upload_output(remote, piece)

    summary = remote.land([PartResult(part.part, "operation-0", "failed")], code_piece=code_piece)
    assert (summary.coded, summary.rejected) == (2, 2)
    assert sorted(map(len, remote.sent_again)) == [1, 1, 1, 1, 3]
    reasons = "SELECT record_id, reason FROM coding.coded_records WHERE outcome = 'rejected' ORDER BY 1"
    assert remote.query(reasons) == [("3", "refused_by_service"), ("4", "blank")]
    assert list_files(tmp_path / "scratch") == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("output.jsonl", "part 0 .*its output file 's3://.*/operation-0/output.jsonl' does not exist any more"),
        ("part-0000", "part 0 .*its input file 's3://.*/part-0000-.*jsonl' does not exist any more"),
        ("records.parquet", "the staged records 's3://.*/records.parquet' do not exist any more: start another run"),
    ],
)
def test_a_missing_object_is_named_and_does_not_lose_the_results_of_other_parts(remote, s3, bucket, name, message):
    part_results = [upload_output(remote, part) for part in remote.prepare(records_per_part=2).parts]
    (key,) = (key for key in s3.keys(bucket) if name in key and "operation-1" not in key)
    s3.client.delete_object(Bucket=bucket, Key=key)
    with pytest.raises(IncompleteError, match=message):
        remote.land(part_results)
    texts = 3 if name == "records.parquet" else 1
    assert remote.query("SELECT count(*) FROM coding.coded_texts") == [(texts,)]
    assert remote.read_outcomes() == []


def test_a_missing_bucket_is_named_and_a_retry_succeeds_when_it_exists(remote, s3):
    remote.objects = ("s3://late-staging/runs", s3.file_system())
    with pytest.raises(
        StagingError, match="'s3://late-staging/runs/run-1/part-0000-.*jsonl' cannot be written: its bucket"
    ):
        remote.prepare()
    s3.client.create_bucket(Bucket="late-staging", CreateBucketConfiguration={"LocationConstraint": "ap-southeast-2"})
    parts = remote.prepare().parts
    assert remote.land([upload_output(remote, part) for part in parts]).coded == 3


def test_a_large_file_is_uploaded_in_parts_and_read_unchanged(s3, bucket, tmp_path):
    content = os.urandom(BLOCK_BYTES * 2 + 4321)
    staging = Staging(f"s3://{bucket}/runs/r", tmp_path, s3.file_system())
    (tmp_path / "big").write_bytes(content)
    uri = staging.keep(tmp_path / "big")
    assert list_files(tmp_path) == []
    with staging.open_local(uri) as path:
        assert path.read_bytes() == content
    assert list_files(tmp_path) == []


def make_runs(write):
    """Write an old run, one with a file of yesterday, one that has only its report, and files of others."""
    for name, days in (
        (f"{OLD}/part-0.jsonl", 20), (f"{OLD}/op/output.jsonl", 19), (f"{OLD}/report.md", 20),
        (f"{LIVE}/part-0.jsonl", 20), (f"{LIVE}/op/output.jsonl", 1), (f"{DONE}/report.md", 30),
        *((name, 99) for name in OTHER_FILES),
    ):  # fmt: skip
        write(name, NOW - timedelta(days=days))


def test_a_sweep_clears_old_runs_and_keeps_their_reports(tmp_path):
    def write(name, changed_at):
        path = tmp_path / "runs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        os.utime(path, (changed_at.timestamp(), changed_at.timestamp()))

    make_runs(write)
    base = (tmp_path / "runs").as_uri()
    assert sweep(base, timedelta(days=14), NOW) == [f"{base}/{OLD}"]
    names = [f"{DONE}/report.md", f"{LIVE}/op/output.jsonl", f"{LIVE}/part-0.jsonl", f"{OLD}/report.md"]
    assert list_files(tmp_path / "runs") == sorted([*names, *OTHER_FILES])
    assert sweep(base, timedelta(days=14), NOW) == []


def test_a_sweep_of_a_bucket_removes_only_files_of_runs_and_aborts_old_uploads(s3, bucket):
    fs, base = s3.file_system(), f"s3://{bucket}/team/runs"
    make_runs(lambda name, _: s3.client.put_object(Bucket=bucket, Key=f"team/runs/{name}", Body=b"x"))
    for key in (f"team/runs/{OLD}/op/half.jsonl", "team/other/half.jsonl"):
        s3.client.create_multipart_upload(Bucket=bucket, Key=key)
    s3.client.put_object(Bucket=bucket, Key="team/other/file", Body=b"x")
    later = datetime.now(UTC) + timedelta(days=3)  # S3 sets the time of a change itself
    assert sweep(base, timedelta(days=4), later, fs) == []
    assert sweep(base, timedelta(days=2), later, fs) == [f"{base}/{LIVE}", f"{base}/{OLD}"]
    reports = [f"team/runs/{DONE}/report.md", f"team/runs/{OLD}/report.md"]
    assert s3.keys(bucket) == sorted(["team/other/file", *reports, *(f"team/runs/{name}" for name in OTHER_FILES)])
    assert s3.unfinished(bucket) == ["team/other/half.jsonl"]


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_sweep_without_any_runs_does_nothing(tmp_path, s3, bucket, kind):
    base, fs = ((tmp_path / "runs").as_uri(), None) if kind == "folder" else (f"s3://{bucket}/runs", s3.file_system())
    assert sweep(base, timedelta(days=2), NOW, fs) == []


def test_a_sweep_of_recent_files_is_refused(tmp_path):
    with pytest.raises(PlanError, match="CODING_STAGING_DAYS is 0.5; it must be at least 2 days"):
        sweep(tmp_path.as_uri(), timedelta(hours=12), NOW)


def test_clearing_a_local_run_leaves_its_report_and_can_be_repeated(pipeline):
    pipeline.fill(*RECORDS)
    summary = pipeline.run()
    uri = write_report(pipeline.plan, pipeline.prepared, summary, pipeline.warehouse, pipeline.staging)
    report = path_from_uri(uri)
    pipeline.staging.clear()
    assert list(report.parent.iterdir()) == [report]
    pipeline.staging.clear()
    Staging.in_folder(Path("/no/such/folder")).clear()
    assert report.is_file()
