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
from include.warehouse.folder_names import add_checksum
from tests.coding.conftest import DAY, Pipeline, code_line

RECORDS = [("1", DAY, "chef", "cooks"), ("2", DAY, "baker", ""), ("3", DAY, "nurse", ""), ("4", DAY, "", None)]
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
#: Files of people, of runs of another deployment, and of runs whose folder was copied.
OTHER_FILES = [
    "%2e%2e/x", "..-0badc0de#/x", "model/weights.bin", "backup-20261101/part-0.jsonl", "manual__old-00c0ffee/part-0.jsonl",
    add_checksum("file:///another/deployment", "manual__old-00c0ffee").rpartition("/")[2] + "/part-0.jsonl",
]  # fmt: skip


@pytest.fixture
def bucket(s3):
    return s3.create_bucket()


@pytest.fixture
def remote(tmp_path, s3, bucket, place):
    """A pipeline whose runs keep their files in a bucket."""
    pipeline = Pipeline(tmp_path / "scratch", place, (f"s3://{bucket}/runs", s3.file_system()))
    pipeline.fill(*RECORDS)
    return pipeline


def name_run(base):
    """Return a run id that is also a name that this deployment gives to the folder of a run in `base`."""
    return add_checksum(base, "run-1").rpartition("/")[2]


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
    run_id = name_run(f"s3://{bucket}/runs")
    parts = remote.prepare(run_id=run_id, records_per_part=2).parts
    files = [f"runs/{run_id}/{name}.parquet" for name in ("answers", "records")]
    assert s3.keys(bucket) == sorted([*(part.input_uri.removeprefix(f"s3://{bucket}/") for part in parts), *files])
    assert list_files(tmp_path / "scratch") == []
    summary = remote.land([upload_output(remote, part) for part in parts])
    assert (summary.coded, summary.rejected, summary.operations) == (3, 1, 2)
    assert remote.read_outcomes() == [("1", "coded"), ("2", "coded"), ("3", "coded"), ("4", "rejected")]
    assert remote.query("SELECT metadata FROM coding.coding_operations WHERE part = 0") == [
        (json.dumps({"modelId": remote.plan.model_id}),)
    ]
    uri = write_report(remote.plan, remote.prepared, summary, remote.warehouse, remote.staging)
    assert uri == f"s3://{bucket}/runs/{run_id}/report.html"
    assert s3.read(bucket, f"runs/{run_id}/report.md").startswith(b"# Occupation coding")
    assert list_files(tmp_path / "scratch") == []
    remote.staging.clear()
    assert s3.keys(bucket) == [f"runs/{run_id}/report.{ending}" for ending in ("html", "json", "md")]


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
    assert remote.query(reasons) == [("2", "refused_by_service"), ("4", "blank")]
    assert list_files(tmp_path / "scratch") == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("output.jsonl", "part 1 .*its output file 's3://.*/operation-0/output.jsonl' does not exist any more"),
        ("part-0000", "part 1 .*its input file 's3://.*/part-0000-.*jsonl' does not exist any more"),
        ("records.parquet", "the staged file 's3://.*/records.parquet' does not exist any more: start another run"),
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
    with pytest.raises(StagingError, match="'s3://late-staging/runs/run-1' cannot be listed: its bucket"):
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


def make_runs(base, write):
    """Write an old run, one with a file of yesterday, one that has only its report, and files of others. Return the names
    of the folders of the three runs."""
    old, live, done = (add_checksum(base, f"manual__{name}").rpartition("/")[2] for name in ("old", "live", "done"))
    for name, days in (
        (f"{old}/part-0.jsonl", 20), (f"{old}/op/output.jsonl", 19), (f"{old}/report.html", 20),
        (f"{live}/part-0.jsonl", 20), (f"{live}/op/output.jsonl", 1), (f"{done}/report.md", 30),
        *((name, 99) for name in OTHER_FILES),
    ):  # fmt: skip
        write(name, NOW - timedelta(days=days))
    return old, live, done


def test_a_sweep_clears_old_runs_and_keeps_their_reports(tmp_path):
    def write(name, changed_at):
        path = tmp_path / "runs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        os.utime(path, (changed_at.timestamp(), changed_at.timestamp()))

    base = (tmp_path / "runs").as_uri()
    old, live, done = make_runs(base, write)
    assert sweep(base, timedelta(days=14), NOW) == [f"{base}/{old}"]
    names = [f"{done}/report.md", f"{live}/op/output.jsonl", f"{live}/part-0.jsonl", f"{old}/report.html"]
    assert list_files(tmp_path / "runs") == sorted([*names, *OTHER_FILES])
    assert sweep(base, timedelta(days=14), NOW) == []


def test_a_sweep_of_a_bucket_removes_only_files_of_runs_and_aborts_old_uploads(s3, bucket):
    fs, base = s3.file_system(), f"s3://{bucket}/team/runs"
    old, live, done = make_runs(
        base, lambda name, _: s3.client.put_object(Bucket=bucket, Key=f"team/runs/{name}", Body=b"x")
    )
    others = ["team/other/half.jsonl", "team/runs/backup-20261101/half.jsonl"]
    for key in (f"team/runs/{old}/op/half.jsonl", *others):
        s3.client.create_multipart_upload(Bucket=bucket, Key=key)
    s3.client.put_object(Bucket=bucket, Key="team/other/file", Body=b"x")
    later = datetime.now(UTC) + timedelta(days=3)  # S3 sets the time of a change itself
    assert sweep(base, timedelta(days=4), later, fs) == []
    assert sweep(base, timedelta(days=2), later, fs) == sorted([f"{base}/{live}", f"{base}/{old}"])
    reports = [f"team/runs/{done}/report.md", f"team/runs/{old}/report.html"]
    assert s3.keys(bucket) == sorted(["team/other/file", *reports, *(f"team/runs/{name}" for name in OTHER_FILES)])
    assert s3.unfinished(bucket) == others


def test_a_sweep_and_a_clearing_do_not_follow_symbolic_links(tmp_path):
    theirs, runs = tmp_path / "theirs", tmp_path / "runs"
    for folder in (theirs, runs):
        folder.mkdir()
    (theirs / "data.csv").write_text("x")
    base = runs.as_uri()
    linked, run = (path_from_uri(add_checksum(base, name)) for name in ("linked", "run"))
    linked.symlink_to(theirs)
    run.mkdir()
    (run / "operation").symlink_to(theirs)
    (run / "output.jsonl").symlink_to(theirs / "data.csv")
    sweep(base, timedelta(days=2), datetime.now(UTC) + timedelta(days=99))
    for folder in (linked, run):
        Staging.in_folder(folder).clear()
    assert list_files(theirs) == ["data.csv"]
    assert list(runs.iterdir()) == [linked]


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_sweep_without_any_runs_does_nothing(tmp_path, s3, bucket, kind):
    base, fs = ((tmp_path / "runs").as_uri(), None) if kind == "folder" else (f"s3://{bucket}/runs", s3.file_system())
    assert sweep(base, timedelta(days=2), NOW, fs) == []


def test_a_sweep_of_recent_files_is_refused(tmp_path):
    with pytest.raises(PlanError, match="CODING_STAGING_DAYS is 0.5; it must be at least 2 days"):
        sweep(tmp_path.as_uri(), timedelta(hours=12), NOW)


def test_clearing_a_local_run_leaves_its_report_and_can_be_repeated(pipeline):
    pipeline.fill(*RECORDS)
    summary = pipeline.run(run_id=name_run(pipeline.folder.as_uri()))
    uri = write_report(pipeline.plan, pipeline.prepared, summary, pipeline.warehouse, pipeline.staging)
    report = path_from_uri(uri)
    pipeline.staging.clear()
    assert list_files(report.parent) == ["report.html", "report.json", "report.md"]
    pipeline.staging.clear()
    Staging(add_checksum("file:///no/such", "folder"), Path()).clear()
    assert report.is_file()
