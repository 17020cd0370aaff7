"""What a person may name as source, and what names that attack the deployment lead to: a refusal that tells nothing."""

import gzip
import json
import os
from pathlib import Path

import duckdb
import pytest

from include.coding.engine import open_engine
from include.coding.errors import PlanError, SourceError
from include.coding.prepare import prepare
from include.coding.source_access import SourceAccess, find_path, identify_content
from include.coding.source_files import find_file
from include.coding.staging import Staging
from include.warehouse.duckdb_warehouse import save_memory
from tests.coding.conftest import DAY, make_plan, on_duckdb_and_postgres, open_test_source
from tests.support.source_files import CHEF, table
from tests.support.warehouses import open_warehouse

MARKER = "MARKER-of-a-secret"
ROW = {"record_id": "1", "response_date": DAY, "occp_text": MARKER, "tasks_text": ""}
CSV = f"record_id,response_date,occp_text,tasks_text\n1,{DAY},{MARKER},\n"


@pytest.fixture
def allowed(tmp_path):
    (tmp_path / "allowed").mkdir()
    return tmp_path / "allowed"


@pytest.fixture
def secret(tmp_path):
    """A file with a text, in a folder that is not allowed."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "secret.csv").write_text(CSV)
    return tmp_path / "private" / "secret.csv"


def refuse(source, access):
    """Return the message of a refusal without the name of the source."""
    with pytest.raises(SourceError) as excinfo:
        find_file(str(source), access)
    return str(excinfo.value).replace(repr(str(source)), "")


# ---- files ---------------------------------------------------------------------------------------------------------


def test_a_file_is_read_from_an_allowed_folder_only(allowed, secret, tmp_path):
    (allowed / "a b.csv").write_text(CSV)
    (allowed / "link.csv").symlink_to(allowed / "a b.csv")
    access = SourceAccess(folders=(allowed,))
    for source in (str(allowed / "a b.csv"), (allowed / "a b.csv").as_uri(), str(allowed / "link.csv")):
        assert find_file(source, access).paths[0] == allowed / "a b.csv"
    plan = make_plan(source=(allowed / "a b.csv").as_uri())
    with open_test_source(tmp_path / "run", plan, None, access=access) as (engine, _):
        assert engine.execute("SELECT occp_text FROM source").fetchall() == [(MARKER,)]


def test_a_file_elsewhere_is_refused_in_the_same_words_whether_it_exists_or_not(allowed, secret, tmp_path):
    (allowed / "out.csv").symlink_to(secret)
    (allowed / "broken.csv").symlink_to(tmp_path / "private" / "nothing.csv")
    (allowed / "loop.csv").symlink_to(allowed / "loop.csv")
    (allowed / "folder").symlink_to(secret.parent)
    (tmp_path / "allowed-too").mkdir()
    access = SourceAccess(folders=(allowed,))
    refusals = {
        refuse(source, access)
        for source in (
            secret, secret.as_uri(), secret.with_name("nothing.csv"), secret.with_name("secret.txt"), secret.parent,
            allowed / "out.csv", allowed / "broken.csv", allowed / "folder" / "secret.csv",
            allowed / "folder" / "nothing.csv", f"{allowed}/../private/secret.csv", f"{allowed}/../allowed/a.csv",
            f"file://{allowed}/%2e%2e/private/secret.csv", f"{allowed}/x/../../private/nothing.csv",
            tmp_path / "allowed-too" / "a.csv", "/etc/passwd", "/proc/self/environ", "//etc/passwd", f"{allowed}\0.csv",
            "/nowhere/a.csv",
        )
    }  # fmt: skip
    assert len(refusals) == 1
    assert "is not in a folder from which runs may read files" in refusals.pop()
    assert "there is no file" in refuse(allowed / "loop.csv", access) or "not in a folder" in refuse(
        allowed / "loop.csv", access
    )


def test_no_file_is_read_unless_a_folder_is_allowed(secret):
    assert "(allowed: none). Move the file" in refuse(secret, SourceAccess())
    assert find_path("survey_responses", SourceAccess()) is None


def test_a_folder_gives_only_files_of_allowed_folders(allowed, secret):
    table(CHEF)(allowed / "answers" / "1.parquet")
    table(CHEF)(secret.with_name("secret.parquet"))
    access = SourceAccess(folders=(allowed,))
    assert find_file(str(allowed / "answers"), access).paths == (allowed / "answers" / "1.parquet",)
    (allowed / "answers" / "2.parquet").symlink_to(secret.with_name("secret.parquet"))
    for source in (allowed / "answers", allowed / "answers" / "*.parquet"):
        assert "is not in a folder from which runs may read files" in refuse(source, access)
    (allowed / "answers" / "2.parquet").unlink()
    os.link(secret.with_name("secret.parquet"), allowed / "answers" / "2.parquet")
    assert "has more than one name (hard links)" in refuse(allowed / "answers", access)


def test_a_pattern_is_no_way_out_of_the_allowed_folders(allowed, secret):
    access = SourceAccess(folders=(allowed,))
    for source in (f"{secret.parent}/*.csv", f"{allowed}/../private/*.csv", "/*.csv", f"{allowed}*/x.csv"):
        assert "is not in a folder from which runs may read files" in refuse(source, access)


def test_a_folder_with_too_many_files_is_refused(allowed, monkeypatch):
    monkeypatch.setattr("include.coding.source_files.MAX_FILES", 2)
    for number in range(3):
        table(CHEF)(allowed / f"{number}.parquet")
    assert "has more than 2 files: name a folder with fewer" in refuse(allowed, SourceAccess(folders=(allowed,)))


def test_another_name_of_a_file_elsewhere_is_refused(allowed, secret):
    os.link(secret, allowed / "a.csv")
    assert "has more than one name (hard links)" in refuse(allowed / "a.csv", SourceAccess(folders=(allowed,)))


def test_a_pipe_and_a_folder_are_no_source_and_nothing_waits_for_a_writer(allowed):
    os.mkfifo(allowed / "a.csv")
    (allowed / "b.csv").mkdir()
    for name, problem in (("a.csv", "there is no file"), ("b.csv", "there is no Parquet file")):
        assert problem in refuse(allowed / name, SourceAccess(folders=(allowed,)))
        assert identify_content(allowed / name) == ()


@pytest.mark.parametrize("name", ["a.csv", "a.xlsx"])
def test_a_file_that_becomes_a_link_to_one_elsewhere_after_the_check_is_refused(allowed, secret, tmp_path, name):
    (allowed / name).write_text(CSV)
    access, plan = SourceAccess(folders=(allowed,)), make_plan(source=str(allowed / name))
    warehouse = open_warehouse(tmp_path / "warehouse.duckdb")

    class SwappingWarehouse:
        """Is used between the check of the file and its reading."""

        name = "it"

        def session(self, **options):
            (allowed / name).unlink(missing_ok=True)
            (allowed / name).symlink_to(secret)
            return warehouse.session(**options)

    with pytest.raises(SourceError) as excinfo:
        prepare(plan, SwappingWarehouse(), Staging.in_folder(tmp_path / "run"), access)
    assert MARKER not in str(excinfo.value)
    assert not list((tmp_path / "run").glob("part*"))


def test_the_plan_is_not_trusted_so_prepare_checks_its_file_again(secret, tmp_path):
    plan, warehouse = make_plan(source=secret.as_uri()), open_warehouse(tmp_path / "warehouse.duckdb")
    with pytest.raises(SourceError, match="is not in a folder from which runs may read files"):
        prepare(plan, warehouse, Staging.in_folder(tmp_path / "run"))


# ---- names of tables that are files --------------------------------------------------------------------------------


@on_duckdb_and_postgres
@pytest.mark.parametrize(
    "source",
    [
        "[.]run/secrets.json", ".run/secrets.json", "*/secrets.json", "~/.run/secrets.json", "secrets.json", "secrets?json",
        ".run/secrets.csv.gz", "main.secrets.json", '"secrets.json"', "read_text('secrets.json')", "secrets.json*",
    ],
)  # fmt: skip
def test_a_name_of_a_table_is_never_taken_for_a_file(place, tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".run").mkdir()
    for path in (tmp_path / ".run" / "secrets.json", tmp_path / "secrets.json"):
        path.write_text(json.dumps(ROW))
    with gzip.open(tmp_path / ".run" / "secrets.csv.gz", "wt") as file:
        file.write(CSV)
    warehouse = open_warehouse(place)
    with pytest.raises(SourceError, match="is neither a table or view of warehouse") as excinfo:
        prepare(make_plan(source=source), warehouse, Staging.in_folder(tmp_path / "run"))
    assert MARKER not in str(excinfo.value)
    assert not list((tmp_path / "run").glob("part*"))


@pytest.mark.parametrize("function", ["read_csv", "read_text", "glob"])
def test_a_view_of_the_warehouse_cannot_read_a_file(tmp_path, secret, function):
    place = tmp_path / "warehouse.duckdb"
    with duckdb.connect(str(place)) as connection:
        connection.execute(
            f"CREATE VIEW v AS SELECT '1' AS record_id, DATE '{DAY}' AS response_date, CAST(t AS VARCHAR) AS occp_text,"
            f" '' AS tasks_text FROM {function}('{secret}') AS t"
        )
    with pytest.raises(Exception, match="because it uses a file") as excinfo:
        prepare(make_plan(source="v"), open_warehouse(place), Staging.in_folder(tmp_path / "run"))
    assert type(excinfo.value).__name__ == "WarehouseSettingsError"
    assert MARKER not in str(excinfo.value)
    assert str(secret) not in str(excinfo.value)


# ---- the engine ----------------------------------------------------------------------------------------------------


FORBIDDEN = [
    "FROM read_csv('{secret}')", "FROM '{secret}'", "FROM read_text('{folder}/link.csv')", "FROM glob('/etc/*')",
    "COPY (SELECT 1) TO '{secret}.copy'", "ATTACH '{secret}.duckdb'", "INSTALL httpfs", "LOAD httpfs",
    "FROM 'https://127.0.0.1:1/a.csv'", "SET enable_external_access = true", "SET lock_configuration = false",
    "SET allowed_directories = ['/']", "SET temp_directory = '/tmp'", "SET autoinstall_known_extensions = true",
    "RESET allowed_paths", "SET allowed_configs = ['allowed_paths']", "FROM local_variable",
]  # fmt: skip


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_the_engine_uses_no_other_files_loads_nothing_and_keeps_its_settings(tmp_path, secret, statement):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "link.csv").symlink_to(secret)
    local_variable = duckdb.sql("SELECT 1")  # noqa: F841 - DuckDB would find it by its name
    with (
        pytest.raises(Exception, match="the data engine rejected a statement"),
        open_engine(folder, "test", 64) as engine,
    ):
        engine.execute(statement.format(secret=secret, folder=folder))
    assert sorted(path.name for path in secret.parent.iterdir()) == ["secret.csv"]


def test_the_engine_still_writes_reads_and_spills_in_its_folder_and_saves_memory(tmp_path):
    folder, sorted_rows = (
        tmp_path / "run",
        "SELECT i, md5(CAST(i AS VARCHAR)) AS h FROM range(300000) t(i) ORDER BY h",
    )
    with open_engine(folder, "test", 32) as engine:
        save_memory(engine)
        engine.execute(f"COPY ({sorted_rows}) TO '{folder}/a.parquet' (FORMAT parquet, ROW_GROUP_SIZE 20480)")
        assert engine.execute(f"SELECT count(*) FROM '{folder}/a.parquet'").fetchall() == [(300_000,)]


@pytest.mark.parametrize("name", ["a[1].csv", "a*.csv", "a?.csv", "it's.csv"])
def test_a_name_with_special_characters_lets_the_engine_read_this_file_and_no_other(allowed, tmp_path, name):
    (allowed / name).write_text(CSV)
    (allowed / "a1.csv").write_text(CSV.replace(MARKER, "another"))
    plan, access = make_plan(source=str(allowed / name)), SourceAccess(folders=(allowed,))
    with open_test_source(tmp_path / "run", plan, None, access=access) as (engine, _):
        assert engine.execute("SELECT occp_text FROM source").fetchall() == [(MARKER,)]
        with pytest.raises(duckdb.PermissionException):
            engine.execute("FROM read_csv(?)", [str(allowed / "a1.csv")])


# ---- settings ------------------------------------------------------------------------------------------------------


def parse(tables="", folders="", private=(), staging=None):
    return SourceAccess.from_settings(tables, folders, "coding", private, staging)


def test_settings_are_lists_separated_by_commas(tmp_path):
    access = parse("public.*, survey.responses,", f"{tmp_path}/a, {tmp_path}/b/../c")
    assert access.tables == ("public.*", "survey.responses")
    assert access.folders == (tmp_path / "a", tmp_path / "c")
    assert parse() == SourceAccess()


@pytest.mark.parametrize("entry", ["answers", "*", "*.*", "a.b.c", ".a", "a.", "*.a", "a.b*"])
def test_an_entry_that_is_no_table_is_refused(entry):
    with pytest.raises(PlanError, match=r"CODING_SOURCE_TABLES names '.*'; expected 'schema.table' or 'schema\.\*'"):
        parse(tables=entry)


@pytest.mark.parametrize("entry", ["data", "~/data", "file:///data", "./data"])
def test_a_folder_that_is_not_absolute_is_refused(entry):
    with pytest.raises(PlanError, match="CODING_SOURCE_FOLDERS names '.*'; expected the absolute path"):
        parse(folders=entry)


def test_a_folder_that_is_or_contains_a_private_one_is_refused_even_behind_a_link(tmp_path):
    home, staging = tmp_path / "home", tmp_path / "home" / "staging"
    staging.mkdir(parents=True)
    (tmp_path / "link").symlink_to(home)
    for folder in (
        home,
        tmp_path,
        Path("/"),
        tmp_path / "link",
        f"{home}/data/..",
        staging,
        tmp_path / "link" / "staging",
    ):
        with pytest.raises(
            PlanError, match="which is or contains '.*': name a folder that contains nothing but data"
        ):
            parse(folders=str(folder), private=[home], staging=staging)
    with pytest.raises(PlanError, match="which is in the staging area, where texts of all runs are"):
        parse(folders=str(staging / "runs"), private=[home], staging=staging)
    assert parse(folders=str(home / "data"), private=[home], staging=staging).folders == (home / "data",)


@pytest.mark.parametrize("schema", ["coding", "coding_trial", "coding_labour_force", "CODING_labour_force_trial"])
def test_the_tables_of_no_dag_are_a_source(schema):
    access = SourceAccess(tables=(f"{schema}.*", "codings.*"))
    assert not access.allows_table(schema, "coded_texts", "main")
    assert access.allows_table(schema, "answers", "main"), "a table of people, in the same schema"
    assert access.allows_table("codings", "coded_texts", "main"), "another schema, whose name only begins alike"
