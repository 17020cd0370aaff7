"""The embedded warehouse: one process writes at a time, and others wait."""

import subprocess
import sys
import threading
import time

import duckdb
import pyarrow.parquet as pq
import pytest

from include.warehouse.duckdb_warehouse import DuckDBWarehouse
from include.warehouse.errors import (
    NoSuchTableError,
    WarehouseBusyError,
    WarehouseError,
    WarehouseSettingsError,
)
from tests.support.warehouses import open_warehouse

#: Locks a file until the standard input is closed. The arguments are the path and `read` or `write`.
LOCK_FILE = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS a, 'x' AS b")
    return tmp_path / "warehouse.duckdb"


@pytest.fixture
def warehouse(path):
    return open_warehouse(path)


@pytest.fixture
def lock_file(path):
    """Lock the file in another process; return the process, which releases it when its input is closed."""
    processes = []

    def start(mode):
        command = [sys.executable, "-c", LOCK_FILE, str(path), mode]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "locked\n"
        return process

    yield start
    for process in processes:
        with process:  # closes the input and waits for the end
            pass


def test_a_session_releases_the_file_after_an_error(warehouse, lock_file):
    with pytest.raises(ValueError, match="no"), warehouse.session():
        raise ValueError("no")
    assert lock_file("write").poll() is None


@pytest.mark.parametrize(("mode", "read_only"), [("write", False), ("write", True), ("read", False)])
def test_a_session_waits_while_another_process_locks_the_file(path, lock_file, mode, read_only):
    is_waiting = threading.Event()

    def connect(read_only):
        try:
            return duckdb.connect(str(path), read_only=read_only)
        except duckdb.IOException:
            is_waiting.set()
            raise

    process = lock_file(mode)
    release = threading.Thread(target=lambda: is_waiting.wait(30) and process.stdin.close())
    release.start()
    with DuckDBWarehouse(connect, "it", lock_timeout_s=30).session(read_only=read_only) as session:
        assert session.execute("SELECT a FROM t") == [(1,)]
    release.join()
    assert is_waiting.is_set()


def test_any_number_of_processes_can_read_at_the_same_time(warehouse, lock_file):
    lock_file("read")
    lock_file("read")
    with warehouse.session(read_only=True) as session:
        assert session.execute("SELECT a FROM t") == [(1,)]


def test_the_timeout_error_names_the_file_and_the_waiting_time(path, lock_file):
    lock_file("write")
    start = time.monotonic()
    message = "warehouse '.*warehouse.duckdb' was locked by another process for 1 s"
    with pytest.raises(WarehouseBusyError, match=message), open_warehouse(path, lock_timeout_s=1).session():
        pass
    assert 1 <= time.monotonic() - start < 10


@pytest.mark.parametrize("folder", ["missing", "clock", "Could not set aside"])
def test_a_file_that_cannot_be_opened_fails_at_once(tmp_path, folder):
    path, message = tmp_path / folder / "lock.duckdb", "warehouse '.*lock.duckdb' cannot be opened: .*No such file"
    with pytest.raises(WarehouseError, match=message) as excinfo, open_warehouse(path).session():
        pass
    assert not isinstance(excinfo.value, WarehouseBusyError)


def test_a_file_that_is_not_a_database_is_refused(tmp_path):
    path = tmp_path / "a.duckdb"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(WarehouseError, match="not a valid DuckDB database"), open_warehouse(path).session():
        pass


def test_committed_rows_survive_the_kill_of_their_writer(path, warehouse):
    script = LOCK_FILE.replace("print(", "connection.execute(\"INSERT INTO t VALUES (2, 'y')\"); print(")
    command = [sys.executable, "-c", script, str(path), "write"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        process.kill()
    with warehouse.session(read_only=True) as session:
        assert session.execute("SELECT a FROM t ORDER BY a") == [(1,), (2,)]


def test_all_rows_arrive_in_a_table_created_in_the_same_transaction(warehouse, tmp_path):
    # DuckDB 2.0.0 silently lost all of them above one row group and with several threads
    many = tmp_path / "many.parquet"
    duckdb.execute(f"COPY (SELECT i AS a FROM range(300000) t(i)) TO '{many}'")
    rows = pq.read_table(many)
    with warehouse.session() as session:
        with session.transaction(), session.staged("rows", rows):
            session.execute("CREATE TABLE many AS FROM rows LIMIT 0")
            session.execute("INSERT INTO many FROM rows")
        assert session.execute("SELECT count(DISTINCT a) FROM many") == [(300_000,)]


def test_a_session_has_its_memory_limit(path):
    warehouse = DuckDBWarehouse(lambda read_only: duckdb.connect(str(path)), str(path), memory_mb=100)
    with warehouse.session() as session:
        ((limit,),) = session.execute("SELECT current_setting('memory_limit')")
    assert limit == "95.3 MiB"


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("FROM read_csv('{file}')", WarehouseSettingsError),
        ("FROM '{file}'", WarehouseSettingsError),
        ('FROM "{file}"', WarehouseSettingsError),
        ('FROM "/etc/passwd"', NoSuchTableError),
        ('FROM "[{file[0]}]{rest}"', WarehouseSettingsError),
        ("SELECT * FROM glob('/etc/*')", WarehouseSettingsError),
        ("COPY (SELECT 1) TO '{file}.copy'", WarehouseSettingsError),
        ("ATTACH '{file}.duckdb'", WarehouseSettingsError),
        ("INSTALL httpfs", WarehouseSettingsError),
        ("LOAD httpfs", WarehouseSettingsError),
        ("SET enable_external_access = true", WarehouseError),
        ("SET allowed_directories = ['/']", WarehouseError),
        ("SET lock_configuration = false", WarehouseError),
        ("FROM local_variable", NoSuchTableError),
    ],
)
def test_a_session_uses_no_files_but_its_own_and_keeps_its_settings(warehouse, tmp_path, read_only, statement, error):
    file = tmp_path / "a.csv"
    file.write_text("a,b\n1,2\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    local_variable = duckdb.sql("SELECT 1")  # noqa: F841 - DuckDB would find it by its name
    with warehouse.session(read_only=read_only) as first, warehouse.session(read_only=read_only) as second:
        for session in (first, second):
            with pytest.raises(error) as excinfo:
                session.execute(statement.format(file=str(file), rest=str(file)[1:]))
            assert type(excinfo.value) is error
        assert first.execute("SELECT a FROM t") == second.execute("SELECT a FROM t") == [(1,)]
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_session_that_is_restricted_still_spills_to_disk_and_saves_memory(path):
    warehouse = DuckDBWarehouse(lambda read_only: duckdb.connect(str(path)), str(path), memory_mb=48)
    with warehouse.session() as session:
        session.execute(
            "CREATE TABLE many AS SELECT i, md5(CAST(i AS VARCHAR)) AS h FROM range(1000000) t(i) ORDER BY h"
        )
        assert session.execute("SELECT count(DISTINCT h) FROM many") == [(1_000_000,)]
