"""State that several machines share in PostgreSQL: no change is lost and no error contains a password."""

import threading
import time
from types import SimpleNamespace

import psycopg
import pytest

from coding_service import CodingServiceAsyncHook, CodingServiceHook
from coding_service.call_budget import CallBudget
from coding_service.errors import BudgetError, QuotaExceededError, SettingsError
from coding_service.shared_state import CREATE_TABLE, SharedRow


@pytest.fixture
def conninfo(postgres, budget_database):
    return postgres.conninfo(budget_database)


@pytest.fixture
def row(conninfo):
    return SharedRow(conninfo, "account", "budget")


def read_state(row):
    with row.lock() as (state, _):
        return dict(state)


def wait_for_blocked_session(conninfo):
    """Return once a session waits for a lock."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        while connection.execute(waiting).fetchone() == (0,):
            pass


def test_a_change_is_visible_to_the_next_user(row, conninfo):
    assert read_state(row) == {}
    with row.lock() as (state, _):
        state["next"] = 1_800_000_000.123456
    assert read_state(SharedRow(conninfo, "account", "budget")) == {"next": 1_800_000_000.123456}


def test_each_account_has_a_row_of_its_own(row, conninfo):
    with row.lock() as (state, _):
        state["next"] = 1
    assert read_state(SharedRow(conninfo, "other", "budget")) == {}


def test_a_block_that_raises_an_error_changes_nothing(row):
    def break_off():
        with row.lock() as (state, _):
            state["next"] = 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert read_state(row) == {}


COUNTING = """
import os, sys
from coding_service.shared_state import SharedRow

children = []
for _ in range(8):
    if child := os.fork():
        children.append(child)
        continue
    try:
        for _ in range(10):
            with SharedRow(sys.argv[1], "account", "budget").lock() as (state, now):
                state["count"] = state.get("count", 0) + 1
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
"""


def test_simultaneous_processes_in_an_empty_database_lose_no_change(row, conninfo, run_python):
    run_python(COUNTING, conninfo)
    assert read_state(row) == {"count": 80}


def test_two_sessions_can_create_the_table_at_once(row, conninfo):
    with psycopg.connect(conninfo) as other:
        other.execute(CREATE_TABLE)
        thread = threading.Thread(target=read_state, args=[row])
        thread.start()
        wait_for_blocked_session(conninfo)
    thread.join()
    assert read_state(row) == {}


def test_the_time_is_read_from_the_server_after_the_lock_is_acquired(row, conninfo):
    read_state(row)
    times = []

    def read_time():
        with row.lock() as (_, now):
            times.append(now)

    with row.lock() as (_, first):
        thread = threading.Thread(target=read_time)
        thread.start()
        wait_for_blocked_session(conninfo)
        with psycopg.connect(conninfo) as connection:
            [released] = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
    thread.join()
    assert first < released < times[0]
    assert times[0] == pytest.approx(time.time(), abs=60)


def test_a_budget_in_the_row_spaces_calls_and_counts_the_day(row):
    budget = CallBudget(row, per_second=0.01, per_day=3)
    assert [round(budget.reserve().seconds, -1) for _ in range(3)] == [0, 100, 200]
    with pytest.raises(QuotaExceededError, match="all 3 calls allowed in 24 hours have been made"):
        budget.reserve()


# ---- refusals ------------------------------------------------------------------------------------------------------


def refusal_message(conninfo):
    with pytest.raises(BudgetError) as caught:
        read_state(SharedRow(conninfo, "account", "budget"))
    assert caught.value.retry_after is None
    return str(caught.value)


def test_the_error_for_a_database_that_is_down_is_retryable_and_contains_no_password():
    text = refusal_message("host=127.0.0.1 port=1 user=coding password=5ec4e7")
    assert text.startswith(
        "no call was made to the coding service, because the call budget is not available in the database of connection"
        " 'budget': "
    )
    assert "Connection refused" in text
    assert "5ec4e7" not in text


def test_a_lost_connection_changes_nothing_and_the_next_one_works(postgres, row, budget_database):
    with row.lock() as (state, _):
        state["next"] = 1

    def lose_the_connection():
        with row.lock() as (state, _):
            state["next"] = 2
            others = "datname = current_database() AND pid <> pg_backend_pid()"
            postgres.execute(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}", budget_database
            )

    with pytest.raises(BudgetError):
        lose_the_connection()
    assert read_state(row) == {"next": 1}


def test_a_role_needs_only_select_insert_and_update_once_the_table_exists(postgres, budget_database):
    postgres.execute("DROP ROLE IF EXISTS caller")
    postgres.execute("CREATE ROLE caller LOGIN")
    conninfo = postgres.conninfo(budget_database, user="caller")
    assert "permission denied for schema public" in refusal_message(conninfo)
    postgres.execute(CREATE_TABLE, budget_database)
    assert "permission denied for table coding_service_state" in refusal_message(conninfo)
    postgres.execute("GRANT SELECT, INSERT, UPDATE ON coding_service_state TO caller", budget_database)
    assert read_state(SharedRow(conninfo, "account", "budget")) == {}


# ---- from an Airflow connection ------------------------------------------------------------------------------------


def connection(**fields):
    defaults = {"conn_id": "budget", "conn_type": "postgres", "host": "db", "port": 5433, "schema": "coding"}
    return SimpleNamespace(**{**defaults, "login": "me", "password": "it's 5ec4e7", **fields})


def test_fields_and_extras_of_the_connection_become_libpq_options():
    row = SharedRow.from_connection(connection(), {"sslmode": "require", "connect_timeout": 3}, "account")
    assert psycopg.conninfo.conninfo_to_dict(row._conninfo) == {
        "host": "db",
        "port": "5433",
        "dbname": "coding",
        "user": "me",
        "password": "it's 5ec4e7",
        "sslmode": "require",
        "connect_timeout": "3",
        "tcp_user_timeout": "10000",
        "keepalives_idle": "5",
        "keepalives_interval": "5",
        "fallback_application_name": "occupation coding",
    }


@pytest.mark.parametrize("extra", [{"iam": True}, {"sslmod": "require"}, {"host": "elsewhere"}])
def test_an_extra_that_is_not_a_libpq_option_is_refused_by_name(extra):
    with pytest.raises(SettingsError) as caught:
        SharedRow.from_connection(connection(), extra, "account")
    assert f"not all of its extras {sorted(extra)} are libpq options" in str(caught.value)
    assert "5ec4e7" not in str(caught.value)


def test_another_type_of_connection_is_refused():
    with pytest.raises(SettingsError, match="connection 'budget' cannot hold the call budget: its type is 'mysql'"):
        SharedRow.from_connection(connection(conn_type="mysql"), {}, "account")


async def test_a_missing_connection_is_refused_by_both_hooks(remote, connect):
    connect(remote.url, budget_conn_id="nowhere")
    with pytest.raises(
        SettingsError, match="no Airflow connection 'nowhere', which the extra `budget_conn_id` names"
    ):
        CodingServiceHook().topics()
    with pytest.raises(
        SettingsError, match="no Airflow connection 'nowhere', which the extra `budget_conn_id` names"
    ):
        await CodingServiceAsyncHook().operation("osca", "00000000-0000-4000-8000-000000000001")


def test_no_call_is_made_while_the_database_is_down(remote, connect, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_BUDGET", "postgres://me:5ec4e7@127.0.0.1:1/coding")
    connect(remote.url, budget_conn_id="budget")
    working, message = CodingServiceHook().test_connection()
    assert not working
    assert "not available in the database of connection 'budget'" in message
    assert "5ec4e7" not in message
    assert remote.journal("GET", "/v1/topics") == []


def test_machines_without_a_common_disk_share_the_budget(remote, connect, budget_database, tmp_path):
    hooks = []
    for machine in ("a", "b"):
        connect(
            remote.url,
            conn_id=f"coding_{machine}",
            state_dir=str(tmp_path / machine),
            budget_conn_id="budget",
            requests_per_day=3,
        )
        hooks.append(CodingServiceHook(f"coding_{machine}"))
    first, second = hooks
    first.topics()
    second.topics()
    first.topics()
    for hook in hooks:
        with pytest.raises(QuotaExceededError, match="all 3 calls allowed in 24 hours have been made"):
            hook.topics()
    assert len(remote.journal("GET", "/v1/topics")) == 3
    assert len(remote.journal("POST", "/oauth2/token")) == 2
    assert list(tmp_path.rglob("*.calls")) == []
