"""No number of records fails at a memory limit: statements need little memory, and are repeated with less if needed."""

import logging

import duckdb
import pyarrow.parquet as pq
import pytest

from include.coding import prepare
from include.coding.collect import stage_texts
from include.coding.engine import copy_to_file, execute_within_memory, open_engine
from include.coding.errors import StagingError
from include.coding.prepare import PAIR_HASH, validate_answers, write_answers, write_records
from include.coding.source import measure_longest_text, shorten_texts
from include.coding.staged_records import stage_records
from include.coding.texts import install_rules
from include.warehouse.duckdb_warehouse import DuckDBWarehouse, save_memory
from include.warehouse.errors import WarehouseError
from tests.coding.conftest import DAY, make_plan, open_test_source
from tests.support.warehouses import open_warehouse

#: Needs more than 32 MB, but not if it spills early.
SORTED_ROWS = "SELECT i, md5(CAST(i AS VARCHAR)) AS hash FROM range(1000000) AS r(i) ORDER BY hash"
SMALL_MEMORY_MB = 32
#: A hash of which many answers have the same value.
WEAK_HASH = "CAST(hash({0}, {1}) % 7 AS BIGINT)"


@pytest.fixture
def write_source(tmp_path):
    """Write records whose texts occur as often as in a survey: a few of them often, most of them seldom."""

    def write(rows):
        path = tmp_path / f"source-{rows}.parquet"
        duckdb.execute(
            f"""
            COPY (
                SELECT if(i % 97 = 0, 'R1', 'R' || lpad(CAST(i AS VARCHAR), 10, '0')) AS record_id,
                    DATE '{DAY}' AS response_date,
                    CASE k % 50 WHEN 1 THEN NULL WHEN 2 THEN '' WHEN 3 THEN '护士 ' || k
                        ELSE 'job title ' || k || md5(CAST(k AS VARCHAR))[:10] END AS occp_text,
                    CASE k % 40 WHEN 1 THEN NULL WHEN 2 THEN repeat('long ', 70)
                        ELSE 'works with ' || md5(CAST(k AS VARCHAR)) END AS tasks_text
                FROM (
                    SELECT i, CAST(pow((hash(i) % 1000003) / 1000003, 2.5) * {rows} / 5 AS BIGINT) AS k
                    FROM range({rows}) AS r(i)
                )
            ) TO '{path}' (FORMAT parquet)
            """
        )
        return path

    return write


def write_validated_records(path, source, rows, memory_mb, pair_hash=PAIR_HASH, settings=lambda engine: None):
    """Write the records of a source as `prepare` does, and return how many are rejected."""
    plan = make_plan(source=source.as_uri())
    with open_test_source(path.parent, plan, None, memory_mb) as (engine, _):
        settings(engine)
        shorten_texts(engine, plan, measure_longest_text(engine))
        condition = validate_answers(engine, plan, rows, pair_hash)
        write_answers(engine, answers_of(path))
        return write_records(engine, plan, condition, path, rows)


def answers_of(path):
    return path.with_name(f"answers-{path.name}")


def read_rows(path):
    """Return the records with the keys of their texts, whatever numbers the answers have."""
    rows = duckdb.sql(
        f"SELECT records.* EXCLUDE (answer), text_key FROM '{path}' AS records"
        f" LEFT JOIN '{answers_of(path)}' USING (answer)"
    )
    return sorted(map(str, rows.fetchall()))


@pytest.mark.parametrize("rows", [1_100_000, 1_300_000])
def test_sizes_that_failed_because_the_join_just_fitted_succeed(tmp_path, write_source, rows):
    path = tmp_path / "records.parquet"
    rejected = write_validated_records(path, write_source(rows), rows, memory_mb=96)
    assert pq.read_metadata(path).num_rows == rows
    assert 0 < rejected < rows


def test_records_are_the_same_if_the_hashes_of_two_answers_are_equal_and_if_memory_is_saved(tmp_path, write_source):
    source, rows = write_source(20_000), 20_000
    files = {name: tmp_path / f"{name}.parquet" for name in ("hash", "texts", "memory")}
    write_validated_records(files["hash"], source, rows, 256)
    write_validated_records(files["texts"], source, rows, 256, pair_hash=WEAK_HASH)
    write_validated_records(files["memory"], source, rows, 256, settings=save_memory)
    expected = read_rows(files["hash"])
    assert len({row["reason"] for row in pq.read_table(files["hash"]).to_pylist()}) == 4
    assert read_rows(files["texts"]) == read_rows(files["memory"]) == expected


@pytest.mark.parametrize("pair_hash", [PAIR_HASH, WEAK_HASH])
def test_records_are_the_same_if_their_answers_are_found_in_several_passes(
    tmp_path, write_source, monkeypatch, pair_hash
):
    source, rows = write_source(20_000), 20_000
    files = {name: tmp_path / f"{name}.parquet" for name in ("one", "seven")}
    write_validated_records(files["one"], source, rows, 256)
    monkeypatch.setattr(prepare, "RECORDS_PER_PASS", 3_000)
    write_validated_records(files["seven"], source, rows, 256, pair_hash)
    assert read_rows(files["seven"]) == read_rows(files["one"])


def test_records_are_the_same_if_their_ids_are_counted_in_several_passes(tmp_path, write_source, monkeypatch):
    source, rows = write_source(20_000), 20_000
    files = {name: tmp_path / f"{name}.parquet" for name in ("one", "seven")}
    write_validated_records(files["one"], source, rows, 256)
    monkeypatch.setattr(prepare, "RECORDS_PER_PASS", 3_000)
    write_validated_records(files["seven"], source, rows, 256)
    repeated = duckdb.sql(f"SELECT max(occurrence) FROM '{files['seven']}'").fetchall()
    assert repeated == [(207,)], "records that have the same id"
    assert read_rows(files["seven"]) == read_rows(files["one"])


def test_records_are_numbered_by_their_ids_even_if_the_hashes_of_all_ids_of_a_length_are_equal(
    tmp_path, write_source, monkeypatch
):
    source, rows = write_source(20_000), 20_000
    files = {name: tmp_path / f"{name}.parquet" for name in ("hash", "length")}
    write_validated_records(files["hash"], source, rows, 256)
    monkeypatch.setattr(prepare, "ID_HASH", "CAST(length(record_id) AS UBIGINT)")
    write_validated_records(files["length"], source, rows, 256)
    assert read_rows(files["length"]) == read_rows(files["hash"])


def test_each_record_has_the_key_of_its_own_texts_even_if_hashes_are_equal(tmp_path, write_source):
    source, path = write_source(20_000), tmp_path / "records.parquet"
    write_validated_records(path, source, 20_000, 256, pair_hash=WEAK_HASH)
    with open_engine(tmp_path, "check", 256) as engine:
        install_rules(engine)
        # ids that occur once
        wrong = engine.execute(
            f"""
            SELECT count(*) FROM '{path}' AS record JOIN '{answers_of(path)}' USING (answer)
            JOIN '{source}' AS source USING (record_id)
            WHERE record_id <> 'R1' AND text_key <> text_key(clean_text(occp_text), clean_text(tasks_text))
            """
        ).fetchall()
    assert wrong == [(0,)]


def write_long_texts(path, rows, text_bytes):
    duckdb.execute(
        f"COPY (SELECT 'R' || i AS record_id, DATE '{DAY}' AS response_date,"
        f" repeat(md5(CAST(i AS VARCHAR)), {text_bytes // 32}) AS occp_text, if(i % 2 = 0, '护士', 'x') AS tasks_text"
        f" FROM range({rows}) AS r(i)) TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE 2048)"
    )


def test_many_different_texts_of_many_kilobytes_are_rejected_within_the_memory(tmp_path):
    source, path, rows = tmp_path / "source.parquet", tmp_path / "records.parquet", 10_000
    write_long_texts(source, rows, text_bytes=20_000)
    assert write_validated_records(path, source, rows, memory_mb=192) == rows
    reasons = duckdb.sql(f"SELECT reason, count(*) FROM '{path}' GROUP BY 1 ORDER BY 1").fetchall()
    assert reasons == [("not_printable_ascii", rows // 2), ("too_long", rows // 2)]


@pytest.mark.parametrize("threads", [2, 32])
def test_records_are_staged_within_little_memory_however_many_cores_there_are(tmp_path, threads):
    rows, records, answers = 1_000_000, tmp_path / "records.parquet", tmp_path / "answers.parquet"
    columns = "i AS answer, md5(CAST(i AS VARCHAR)) AS text_key"
    for path, selected in ((records, "i AS answer"), (answers, columns)):
        duckdb.execute(f"COPY (SELECT {selected} FROM range({rows}) AS r(i)) TO '{path}' (COMPRESSION zstd)")
    plan, warehouse = make_plan(), open_warehouse(tmp_path / "w.duckdb")
    with (
        open_engine(tmp_path, "land", plan.staging_memory_mb) as engine,
        warehouse.session() as session,
    ):
        engine.execute(f"SET threads = {threads}")
        with stage_records(engine, session, records, answers):
            joined = "SELECT count(text_key) FROM staged_records LEFT JOIN staged_answers USING (answer)"
            assert session.execute(joined) == [(rows,)]
        assert engine.execute("SELECT current_setting('threads')").fetchall() == [(threads,)]


def test_texts_are_staged_within_little_memory(tmp_path):
    rows, path = 300_000, tmp_path / "texts.jsonl"
    duckdb.execute(
        "COPY (SELECT md5(CAST(i AS VARCHAR)) AS recordId, repeat('job ', 20) || i AS occp_text, 'x' AS tasks_text"
        f" FROM range({rows}) AS r(i)) TO '{path}' (FORMAT json)"
    )
    plan, warehouse = make_plan(), open_warehouse(tmp_path / "w.duckdb")
    with open_engine(tmp_path, "land", plan.staging_memory_mb) as engine, warehouse.session() as session:
        engine.execute("SET threads = 32")
        with stage_texts(engine, session, path):
            assert session.execute("SELECT count(*), max(length(occp_text)) FROM texts_aside") == [(rows, 86)]


def test_a_statement_that_runs_out_of_memory_is_repeated_with_less(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with open_engine(tmp_path, "test", SMALL_MEMORY_MB) as engine:
        execute_within_memory(engine, f"CREATE TABLE t AS {SORTED_ROWS}")
        assert engine.execute("SELECT count(*), count(DISTINCT hash) FROM t").fetchall() == [(1_000_000,) * 2]
    assert caplog.messages == [
        "A statement needs more memory than the data engine may use: it is repeated, with more of it on disk"
    ]


def test_rows_keep_their_order_in_a_file_that_is_written_with_less_memory(tmp_path):
    with open_engine(tmp_path, "test", SMALL_MEMORY_MB) as engine:
        save_memory(engine)
        copy_to_file(engine, SORTED_ROWS, tmp_path / "rows.parquet", "FORMAT parquet, ROW_GROUP_SIZE 20480")
    hashes = pq.read_table(tmp_path / "rows.parquet", columns=["hash"])["hash"].to_pylist()
    assert len(hashes) == 1_000_000
    assert hashes == sorted(hashes)


def test_a_statement_that_needs_too_much_memory_even_then_fails_with_a_remedy(tmp_path):
    with pytest.raises(StagingError, match="ran out of its 32 MB of memory, .*raise CODING_MEMORY_MB"):
        run_in_small_engine(tmp_path, "SELECT len(list(md5(CAST(i AS VARCHAR)))) FROM range(3000000) AS r(i)")


def run_in_small_engine(folder, sql):
    with open_engine(folder, "test", SMALL_MEMORY_MB) as engine:
        execute_within_memory(engine, sql)


class FailingConnection:
    """A connection to DuckDB that raises an error for the first statements that contain a text."""

    def __init__(self, connection, text, *errors):
        self._connection, self._text, self._errors = connection, text, list(errors)

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def execute(self, sql, values=()):
        if self._text in sql and self._errors:
            raise self._errors.pop(0)
        return self._connection.execute(sql, values)


def open_failing_warehouse(path, text, *errors):
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS numbers (i INTEGER)")
    return DuckDBWarehouse(lambda read_only: FailingConnection(duckdb.connect(str(path)), text, *errors), "it")


def add_numbers(warehouse):
    """Add numbers in one transaction, some of them from staged rows, and return all numbers of the table."""
    rows = duckdb.sql("SELECT 3 AS i").to_arrow_table()
    with warehouse.session() as session:
        with session.transaction(), session.staged("rows_in", rows):
            session.execute("INSERT INTO numbers VALUES (?)", [1])
            session.execute("UPDATE numbers SET i = i * 2")
            session.execute("INSERT INTO numbers FROM rows_in")
        return session.execute("SELECT i FROM numbers ORDER BY i")


@pytest.mark.parametrize(
    "statement", ["INSERT INTO numbers VALUES", "UPDATE", "FROM rows_in", "COMMIT", "ORDER BY i"]
)
def test_a_transaction_that_runs_out_of_memory_is_repeated_once_and_nothing_is_written_twice(tmp_path, statement):
    warehouse = open_failing_warehouse(tmp_path / "w.duckdb", statement, duckdb.OutOfMemoryException("full"))
    assert add_numbers(warehouse) == [(2,), (3,)]


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ([duckdb.OutOfMemoryException("full")] * 2, "ran out of memory, .*raise CODING_MEMORY_MB"),
        ([duckdb.IOException("No space left on device")], "cannot read or write its files .*check the free space"),
    ],
)
def test_a_transaction_is_not_repeated_again_and_not_for_a_full_disk(tmp_path, errors, message):
    warehouse = open_failing_warehouse(tmp_path / "w.duckdb", "FROM rows_in", *errors)
    with pytest.raises(WarehouseError, match=message):
        add_numbers(warehouse)
    assert add_numbers(open_failing_warehouse(tmp_path / "w.duckdb", "nothing")) == [(2,), (3,)]


def test_a_warehouse_that_runs_out_of_memory_inserts_all_rows(tmp_path):
    path = str(tmp_path / "w.duckdb")
    warehouse = DuckDBWarehouse(lambda read_only: duckdb.connect(path), path, memory_mb=SMALL_MEMORY_MB)
    with warehouse.session() as session:
        with session.transaction():
            session.execute("CREATE TABLE t (i BIGINT, hash VARCHAR)")
            session.execute("INSERT INTO t VALUES (-1, 'first')")
            session.execute(f"INSERT INTO t {SORTED_ROWS}")
        assert session.execute("SELECT count(*), count(DISTINCT i) FROM t") == [(1_000_001,) * 2]
