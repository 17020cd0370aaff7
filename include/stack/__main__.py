"""`python -m include.stack run|up|down`: what `make run`, `make up` and `make down` call.

`python -m include.stack code` codes the sample on an Airflow that runs elsewhere, in containers for one:
AIRFLOW_URL, AIRFLOW_USER and AIRFLOW_PASSWORD (or AIRFLOW_PASSWORD_FILE) say where.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

import duckdb
import pandas as pd

from include.coding.files import path_of
from include.stack.airflow_api import AirflowApi
from include.stack.processes import PROJECT, START_SECONDS, Stack, StackError, is_parsed

#: All days of the sample in one run, in several parts, so that there is something to see.
SAMPLE_RUN = {"from_date": "2026-10-01", "to_date": "2026-10-30", "records_per_part": 1000}
RUN_SECONDS = 1800.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m include.stack", description=__doc__)
    parser.add_argument("command", choices=("run", "up", "down", "code"))
    parser.add_argument("--folder", type=Path, default=PROJECT / ".run", help="where everything lies (default: .run)")
    arguments = parser.parse_args()
    if arguments.command == "code":
        return code()
    stack = Stack(arguments.folder)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    try:
        if stack.running is not None and not stack.is_whole():
            stack.stop()  # some of it died: begin anew
        return {"run": run, "up": up, "down": down}[arguments.command](stack)
    except StackError as error:
        print(error, file=sys.stderr)
        return 1


def run(stack: Stack) -> int:
    """Code the sample, show the result, stop what was started here."""
    was_running = stack.running is not None
    try:
        if not was_running:
            stack.start(print)
        return _code_sample(stack)
    finally:
        if not was_running:
            stack.stop()


def up(stack: Stack) -> int:
    """Leave everything running."""
    if stack.running is None:
        stack.start(print)
    user, password = stack.login
    print(f"Airflow      {stack.api.url}   user {user}, password {password}")
    print(f"Coding API   {stack.service_url}   (local coding service)")
    print("Stop with    make down")
    return 0


def down(stack: Stack) -> int:
    """Stop what `up` started."""
    print("Stopped" if stack.running else "Nothing runs")
    stack.stop()
    return 0


def code() -> int:
    """Code the sample on the Airflow that the environment names, and show what became of its records."""
    try:
        api = AirflowApi.from_environment()
    except KeyError as error:
        print(f"{error.args[0]} is not set: it says, with the others of AIRFLOW_URL, AIRFLOW_USER and"
              " AIRFLOW_PASSWORD, which Airflow to use", file=sys.stderr)  # fmt: skip
        return 2
    deadline = time.monotonic() + START_SECONDS
    while not is_parsed(api) and time.monotonic() < deadline:
        time.sleep(1)
    api.unpause()
    run_id, state = _watch_sample(api)
    if state != "success":
        print(f"The run ended {state!r}; Airflow's UI has the logs of its tasks")
        return 1
    print("\n" + "\n".join(f"{name:<16} {value}" for name, value in api.xcom(run_id, "land").items()))
    return 0


def _watch_sample(api: AirflowApi) -> tuple[str, str]:
    """Run the sample, show each change of state, and return (run id, how it ended)."""
    run_id = api.trigger(SAMPLE_RUN)
    print(f"Run {run_id}")
    state = ""
    for moment, name, state in api.watch(run_id, RUN_SECONDS):
        print(f"  {moment:%H:%M:%S}  {name:<20} {state}", flush=True)
    return run_id, state


def _code_sample(stack: Stack) -> int:
    run_id, state = _watch_sample(stack.api)
    if state != "success":
        print(f"The run ended {state!r}; the logs of its tasks are in {stack.folder / 'airflow' / 'logs'}")
        return 1
    report = path_of(stack.api.xcom(run_id, "report"))
    print("\n" + "\n".join(line for line in report.read_text().splitlines() if line.startswith("- ")))
    _show(stack.warehouse)
    print(f"\nReport       {report}")
    print(f"Warehouse    {stack.warehouse} (DuckDB; the tables are in the schema coding)")
    print("Airflow UI   make up")
    return 0


def _show(warehouse: Path) -> None:
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        counts = connection.sql(
            "SELECT outcome, count(*) AS records FROM coding.current_codes GROUP BY ALL ORDER BY 2 DESC"
        )
        sample = connection.sql(
            "SELECT record_id, source.occp_text, code, label, round(confidence, 2) AS confidence"
            " FROM coding.current_codes JOIN survey_responses AS source USING (record_id, response_date)"
            " WHERE outcome = 'coded' AND occurrence = 1 ORDER BY hash(record_id) LIMIT 10"
        )
        with pd.option_context("display.width", 120, "display.max_colwidth", 40):
            print(f"\n{counts.df().to_string(index=False)}\n\n{sample.df().to_string(index=False)}")


if __name__ == "__main__":
    sys.exit(main())
