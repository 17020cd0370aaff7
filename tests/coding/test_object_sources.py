"""Sources in object storage, on a real S3 server: they are read through a copy, and only below allowed prefixes."""

import gzip

import pytest

from include.coding.errors import PlanError, SourceError, StagingError
from include.coding.source_access import SourceAccess, find_path
from include.coding.source_files import find_file
from tests.coding.conftest import DAY, make_plan, open_test_source
from tests.support.source_files import CHEF, HEADER, excel, record, table, text

RECORD = [("1", "chef", "cooks")]


class Bucket:
    """A bucket and what reads from it."""

    def __init__(self, s3, folder):
        self.s3, self.folder, self.name = s3, folder, s3.create_bucket()
        self.connections = []

    def put(self, key, write):
        write(self.folder / "object")
        self.s3.client.upload_file(str(self.folder / "object"), self.name, key)
        return f"s3://{self.name}/{key}"

    def open_storage(self, uri, connection):
        self.connections.append(connection)
        return self.s3.file_system()

    def access(self, *prefixes):
        return SourceAccess(prefixes=prefixes or (f"s3://{self.name}",), open_storage=self.open_storage)

    def read(self, source, access=None, **changes):
        plan = make_plan(source=source, **changes)
        with open_test_source(self.folder / "run", plan, None, access=access or self.access()) as (engine, _):
            return engine.execute("SELECT record_id, occp_text, tasks_text FROM source ORDER BY ALL").fetchall()

    def refuse(self, source, access=None, error=SourceError):
        with pytest.raises(error) as excinfo:
            self.read(source, access)
        assert excinfo.value.__suppress_context__ or excinfo.value.__context__ is None
        return str(excinfo.value).replace(repr(source), "")


@pytest.fixture
def bucket(s3, tmp_path):
    return Bucket(s3, tmp_path)


ROW = ",".join(CHEF)


@pytest.mark.parametrize(
    ("key", "write"),
    [
        ("a.csv", text(HEADER, ROW)),
        ("deep/er/a b%.csv", text(HEADER, ROW)),
        ("a.csv.gz", lambda path: path.write_bytes(gzip.compress(f"{HEADER}\n{ROW}\n".encode()))),
        ("a.json", text(f"[{record()}]".replace("'", '"'))),
        ("a.xlsx", excel(CHEF)),
        ("a.parquet", table(CHEF)),
    ],
)
def test_an_object_of_any_type_is_read_and_its_copy_is_removed(bucket, key, write):
    source = bucket.put(key, write)
    assert bucket.read(source) == RECORD
    assert list((bucket.folder / "run").iterdir()) == []
    assert bucket.connections == [None]


def test_a_named_connection_is_used(bucket):
    source = bucket.put("a.csv", text(HEADER, ROW))
    assert bucket.read(source, read_options={"connection": "survey_bucket"}) == RECORD
    assert bucket.connections == ["survey_bucket"]


def test_an_object_elsewhere_is_refused_in_the_same_words_whether_it_exists_or_not(bucket):
    source = bucket.put("private/a.csv", text(HEADER, ROW))
    access = bucket.access(f"s3://{bucket.name}/answers", "s3://other")
    base = f"s3://{bucket.name}"
    refusals = {
        bucket.refuse(name, access)
        for name in (
            source, f"{base}/private/b.csv", f"{base}/answers-too/a.csv", f"{base}/answers/../private/a.csv",
            f"{base}/answers/./a.csv", f"{base}", "s3://nowhere/a.csv", "s3://", f"S3://{bucket.name}/answers/a.csv",
        )
    }  # fmt: skip
    assert len(refusals) == 1
    assert "is not in a folder from which runs may read files" in refusals.pop()
    assert bucket.connections == []


def test_no_object_is_read_unless_a_prefix_is_allowed(bucket):
    with pytest.raises(SourceError, match="allowed: none"):
        find_file("s3://bucket/a.csv", SourceAccess())
    assert find_path(f"s3://{bucket.name}/a.csv", bucket.access()) is None


def test_a_missing_object_and_one_of_another_type_are_refused(bucket):
    assert "there is no such object; check its name" in bucket.refuse(f"s3://{bucket.name}/a.csv")
    assert "is a file of Stata: write it with" in bucket.refuse(f"s3://{bucket.name}/a.dta")
    assert "ends in ''" in bucket.refuse(f"s3://{bucket.name}/folder")


def test_a_storage_that_cannot_be_reached_can_be_retried_and_no_address_is_told(bucket):
    def fail(uri, connection):
        raise OSError("https://storage.example/?X-Amz-Signature=abc")

    access = SourceAccess(prefixes=(f"s3://{bucket.name}",), open_storage=fail)
    message = bucket.refuse(f"s3://{bucket.name}/a.csv", access, StagingError)
    assert "cannot be copied (OSError): check the connection 'staging_default'" in message
    assert "storage.example" not in message


def test_an_object_that_changes_while_it_is_copied_is_refused(bucket):
    source = bucket.put("a.csv", text(HEADER, ROW))

    class ChangingStorage:
        """Replaces the object as soon as it has been copied."""

        def __init__(self, fs):
            self._fs = fs

        def __getattr__(self, name):
            return getattr(self._fs, name)

        def get_file(self, uri, path):
            self._fs.get_file(uri, path)
            bucket.put("a.csv", text(HEADER, ROW, ROW))

    access = SourceAccess(
        prefixes=(f"s3://{bucket.name}",), open_storage=lambda *_: ChangingStorage(bucket.s3.file_system())
    )
    assert "changed while it was read: start another run" in bucket.refuse(source, access)


@pytest.mark.parametrize("entry", ["s3://", "s3://bucket/a/../b", "s3://bucket/*", "s3://bucket/a?x=1"])
def test_a_prefix_that_cannot_be_used_is_refused(entry):
    with pytest.raises(PlanError, match="expected 's3://bucket' or 's3://bucket/prefix' without patterns"):
        SourceAccess.from_settings("", entry, "coding", (), None)


@pytest.mark.parametrize("entry", ["s3://bucket", "s3://bucket/staging", "s3://bucket/staging/runs/"])
def test_the_staging_area_in_object_storage_cannot_be_allowed(entry):
    with pytest.raises(PlanError, match="which is in the staging area or contains it"):
        SourceAccess.from_settings("", entry, "coding", (), "s3://bucket/staging")
    access = SourceAccess.from_settings(
        "", f"/data,s3://bucket/staging-not,{DAY and 's3://b/c/'}", "coding", (), "s3://bucket/staging"
    )
    assert access.prefixes == ("s3://bucket/staging-not", "s3://b/c")
