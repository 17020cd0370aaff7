"""The embedded warehouse: one writer at a time, and the others wait."""

import subprocess
import sys
import threading
import time

import duckdb
import pytest

from include.warehouse.duckdb_warehouse import DuckDBWarehouse
from include.warehouse.errors import WarehouseBusyError, WarehouseError
from tests.support.warehouses import open_warehouse

#: Holds the file that is named until its standard input is closed; how it is held stands in the second argument.
HOLD = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read")
print("held", flush=True)
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
def hold(path):
    """Have another process hold the file; returns that process, which lets go when its input is closed."""
    holders = []

    def start(mode):
        command = [sys.executable, "-c", HOLD, str(path), mode]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        holders.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in holders:
        with process:  # closes its input and waits for it
            pass


def test_a_session_lets_go_of_the_file_whatever_happens(warehouse, hold):
    with pytest.raises(ValueError, match="no"), warehouse.session():
        raise ValueError("no")
    assert hold("write").poll() is None


@pytest.mark.parametrize(("holder", "read_only"), [("write", False), ("write", True), ("read", False)])
def test_a_session_waits_for_another_process_and_then_goes_on(path, hold, holder, read_only):
    refused = threading.Event()

    def connect(read_only):
        try:
            return duckdb.connect(str(path), read_only=read_only)
        except duckdb.IOException:
            refused.set()
            raise

    process = hold(holder)
    letting_go = threading.Thread(target=lambda: refused.wait(30) and process.stdin.close())
    letting_go.start()
    with DuckDBWarehouse(connect, "it", patience=30).session(read_only=read_only) as session:
        assert session.execute("SELECT a FROM t") == [(1,)]
    letting_go.join()
    assert refused.is_set()


def test_any_number_of_processes_may_read_at_once(warehouse, hold):
    hold("read")
    hold("read")
    with warehouse.session(read_only=True) as session:
        assert session.execute("SELECT a FROM t") == [(1,)]


def test_whoever_waits_too_long_is_told_for_how_long_and_for_what(path, hold):
    hold("write")
    begun = time.monotonic()
    with (
        pytest.raises(
            WarehouseBusyError, match=r"warehouse '.*warehouse.duckdb' was held by another process for 1 s"
        ),
        open_warehouse(path, patience=1).session(),
    ):
        pass
    assert 1 <= time.monotonic() - begun < 10


@pytest.mark.parametrize("folder", ["missing", "clock", "Could not set aside"])
def test_a_file_that_cannot_be_opened_is_not_waited_for(tmp_path, folder):
    path = tmp_path / folder / "lock.duckdb"
    with (
        pytest.raises(WarehouseError, match=r"warehouse '.*lock.duckdb' cannot be opened: .*No such file") as caught,
        open_warehouse(path).session(),
    ):
        pass
    assert not isinstance(caught.value, WarehouseBusyError)


def test_a_file_that_is_no_warehouse_is_refused(tmp_path):
    (tmp_path / "a.duckdb").write_bytes(b"no database" * 1000)
    with (
        pytest.raises(WarehouseError, match="not a valid DuckDB database"),
        open_warehouse(tmp_path / "a.duckdb").session(),
    ):
        pass


def test_what_a_killed_writer_had_committed_is_there_for_a_reader(path, warehouse, hold):
    script = HOLD.replace("print(", "connection.execute(\"INSERT INTO t VALUES (2, 'y')\"); print(")
    command = [sys.executable, "-c", script, str(path), "write"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        process.kill()
    with warehouse.session(read_only=True) as session:
        assert session.execute("SELECT a FROM t ORDER BY a") == [(1,), (2,)]


def test_rows_written_to_a_table_of_the_same_transaction_are_all_there(warehouse, tmp_path):
    # DuckDB 2.0.0 lost them all, silently, above one row group and with more than one thread
    many = tmp_path / "many.parquet"
    duckdb.execute(f"COPY (SELECT i AS a FROM range(300000) t(i)) TO '{many}'")
    with warehouse.session() as session:
        with session.transaction():
            session.execute(f"CREATE TABLE many AS FROM '{many}' LIMIT 0")
            session.execute(f"INSERT INTO many FROM '{many}'")
        assert session.execute("SELECT count(DISTINCT a) FROM many") == [(300_000,)]


def test_a_session_keeps_to_its_memory(path):
    warehouse = DuckDBWarehouse(lambda read_only: duckdb.connect(str(path)), str(path), memory_mb=100)
    with warehouse.session() as session:
        ((limit,),) = session.execute("SELECT current_setting('memory_limit')")
    assert limit == "95.3 MiB"
