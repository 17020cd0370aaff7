"""A run's files in object storage: through an S3 server; and what becomes of them afterwards."""

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
OLD, LIVE, LANDED = (f"manual__{name}-00c0ffee" for name in ("old", "live", "landed"))
STRANGERS = ["%2e%2e/x", "..-0badc0de#/x", "model/weights.bin"]


@pytest.fixture
def bucket(s3):
    return s3.create_bucket()


@pytest.fixture
def remote(tmp_path, s3, bucket, place):
    """A pipeline whose runs lie in a bucket."""
    made = Pipeline(tmp_path / "scratch", place, (f"s3://{bucket}/runs", s3.file_system()))
    made.fill(*RECORDS)
    return made


def come_back(pipeline, part):
    """Put the output of a part where the download step puts it."""
    folder = f"{pipeline.staging.uri}/operation-{part.part}"
    lines = [json.loads(line) for line in pipeline.staging.fs.cat_file(part.input_uri).splitlines()]
    pipeline.staging.fs.pipe_file(f"{folder}/output.jsonl", "".join(map(code_line, lines)).encode())
    pipeline.staging.fs.pipe_file(f"{folder}/metadata.json", json.dumps({"modelId": part.model_id}).encode())
    files = (f"{folder}/output.jsonl", f"{folder}/metadata.json", part.input_uri)
    return PartResult(part.part, f"operation-{part.part}", "complete", None, *files, part.fingerprint)


def files_here(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_run_is_prepared_and_landed_through_a_bucket_and_leaves_nothing_here(remote, s3, bucket, tmp_path):
    parts = remote.prepare(records_per_part=2).parts
    assert s3.keys(bucket) == sorted(
        [*(part.input_uri.removeprefix(f"s3://{bucket}/") for part in parts), "runs/run-1/records.parquet"]
    )
    assert files_here(tmp_path / "scratch") == []
    landed = remote.land([come_back(remote, part) for part in parts])
    assert (landed.coded, landed.rejected, landed.operations) == (3, 1, 2)
    assert remote.read_outcomes() == [("1", "coded"), ("2", "coded"), ("3", "coded"), ("4", "rejected")]
    assert remote.query("SELECT metadata FROM coding.coding_operations WHERE part = 0") == [
        (json.dumps({"modelId": remote.plan.model_id}),)
    ]
    uri = write_report(remote.plan, remote.prepared.to_dict(), vars(landed), remote.warehouse, remote.staging)
    assert uri == f"s3://{bucket}/runs/run-1/report.md"
    assert s3.read(bucket, "runs/run-1/report.md").startswith(b"# Occupation coding")
    assert files_here(tmp_path / "scratch") == []
    remote.staging.clear()
    assert s3.keys(bucket) == ["runs/run-1/report.md"]


@pytest.mark.parametrize("place", ["duckdb"], indirect=True)
@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("output.jsonl", "part 0 .*its output file 's3://.*/operation-0/output.jsonl' is gone"),
        ("part-0000", "part 0 .*its input file 's3://.*/part-0000-.*jsonl' is gone"),
        ("records.parquet", "the staged records 's3://.*/records.parquet' are gone: run again"),
    ],
)
def test_an_object_that_is_gone_is_named_and_loses_no_other_part(remote, s3, bucket, gone, message):
    returned = [come_back(remote, part) for part in remote.prepare(records_per_part=2).parts]
    (key,) = (key for key in s3.keys(bucket) if gone in key and "operation-1" not in key)
    s3.client.delete_object(Bucket=bucket, Key=key)
    with pytest.raises(IncompleteError, match=message):
        remote.land(returned)
    kept = remote.query("SELECT count(*) FROM coding.coded_texts")
    assert kept == [(3,)] if gone == "records.parquet" else kept == [(1,)]
    assert remote.read_outcomes() == []


@pytest.mark.parametrize("place", ["duckdb"], indirect=True)
def test_a_bucket_that_is_not_there_is_named_and_a_retry_succeeds_once_it_is(remote, s3):
    remote.objects = ("s3://late-staging/runs", s3.file_system())
    with pytest.raises(
        StagingError, match="'s3://late-staging/runs/run-1/part-0000-.*jsonl' cannot be written: its bucket"
    ):
        remote.prepare()
    s3.client.create_bucket(Bucket="late-staging", CreateBucketConfiguration={"LocationConstraint": "ap-southeast-2"})
    parts = remote.prepare().parts
    assert remote.land([come_back(remote, part) for part in parts]).coded == 3


def test_a_large_file_is_kept_in_parts_and_comes_back_as_it_was(s3, bucket, tmp_path):
    content = os.urandom(BLOCK_BYTES * 2 + 4321)
    staging = Staging(f"s3://{bucket}/runs/r", tmp_path, s3.file_system())
    (tmp_path / "big").write_bytes(content)
    uri = staging.keep(tmp_path / "big")
    assert files_here(tmp_path) == []
    with staging.open_local(uri) as path:
        assert path.read_bytes() == content
    assert files_here(tmp_path) == []


def make_runs(write):
    """Files of runs: one long untouched, one with a file of yesterday, one that has only its report; and strangers."""
    for name, days in (
        (f"{OLD}/part-0.jsonl", 20), (f"{OLD}/op/output.jsonl", 19), (f"{OLD}/report.md", 20),
        (f"{LIVE}/part-0.jsonl", 20), (f"{LIVE}/op/output.jsonl", 1), (f"{LANDED}/report.md", 30),
        *((name, 99) for name in STRANGERS),
    ):  # fmt: skip
        write(name, NOW - timedelta(days=days))


def test_a_sweep_clears_what_nobody_has_touched_for_so_long_and_keeps_reports(tmp_path):
    def write(name, changed):
        path = tmp_path / "runs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        os.utime(path, (changed.timestamp(), changed.timestamp()))

    make_runs(write)
    base = (tmp_path / "runs").as_uri()
    assert sweep(base, timedelta(days=14), NOW) == [f"{base}/{OLD}"]
    left = [f"{LANDED}/report.md", f"{LIVE}/op/output.jsonl", f"{LIVE}/part-0.jsonl", f"{OLD}/report.md"]
    assert files_here(tmp_path / "runs") == sorted([*left, *STRANGERS])
    assert sweep(base, timedelta(days=14), NOW) == []


def test_a_sweep_of_a_bucket_touches_nothing_beside_the_runs_and_gives_up_old_uploads(s3, bucket):
    fs, base = s3.file_system(), f"s3://{bucket}/team/runs"
    make_runs(lambda name, changed: s3.client.put_object(Bucket=bucket, Key=f"team/runs/{name}", Body=b"x"))
    for key in (f"team/runs/{OLD}/op/half.jsonl", "team/other/half.jsonl"):
        s3.client.create_multipart_upload(Bucket=bucket, Key=key)
    s3.client.put_object(Bucket=bucket, Key="team/other/file", Body=b"x")
    later = datetime.now(UTC) + timedelta(days=3)  # S3 says itself when an object was changed
    assert sweep(base, timedelta(days=4), later, fs) == []
    assert sweep(base, timedelta(days=2), later, fs) == [f"{base}/{LIVE}", f"{base}/{OLD}"]
    ours = [f"team/runs/{LANDED}/report.md", f"team/runs/{OLD}/report.md"]
    assert s3.keys(bucket) == sorted(["team/other/file", *ours, *(f"team/runs/{name}" for name in STRANGERS)])
    assert s3.unfinished(bucket) == ["team/other/half.jsonl"]


@pytest.mark.parametrize("kind", ["here", "bucket"])
def test_a_sweep_of_a_place_that_has_no_runs_yet_does_nothing(tmp_path, s3, bucket, kind):
    base, fs = ((tmp_path / "runs").as_uri(), None) if kind == "here" else (f"s3://{bucket}/runs", s3.file_system())
    assert sweep(base, timedelta(days=2), NOW, fs) == []


def test_a_sweep_of_what_runs_still_use_is_refused(tmp_path):
    with pytest.raises(PlanError, match="CODING_STAGING_DAYS is 0.5; expected 2 or more"):
        sweep(tmp_path.as_uri(), timedelta(hours=12), NOW)


def test_clearing_a_run_here_leaves_its_report_and_a_second_time_does_no_harm(pipeline):
    pipeline.fill(*RECORDS)
    pipeline.run()
    told = pipeline.prepared.to_dict()
    landed = vars(pipeline.land())
    report = path_from_uri(write_report(pipeline.plan, told, landed, pipeline.warehouse, pipeline.staging))
    pipeline.staging.clear()
    assert list(report.parent.iterdir()) == [report]
    pipeline.staging.clear()
    Staging.in_folder(Path("/no/such/folder")).clear()
    assert report.is_file()
