"""`python -m include.stack run|up|down`: the commands behind `make run`, `make up` and `make down`.

`python -m include.stack code` codes the sample on an Airflow that runs elsewhere, for example in containers.
Set AIRFLOW_URL, AIRFLOW_USER and AIRFLOW_PASSWORD (or AIRFLOW_PASSWORD_FILE) to reach it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import duckdb
import pandas as pd

from include.coding.files import OWNER_ONLY_UMASK, path_from_uri
from include.stack.airflow_api import AirflowApi
from include.stack.processes import PROJECT, START_TIMEOUT_S, Stack, StackError, has_parsed_dag

#: All days of the sample in one run. It has several parts, so that the output shows how they overlap.
SAMPLE_PARAMS = {"from_date": "2026-10-01", "to_date": "2026-10-30", "records_per_part": 1000}
RUN_TIMEOUT_S = 1800.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m include.stack", description=__doc__)
    parser.add_argument("command", choices=("run", "up", "down", "code"))
    parser.add_argument("--folder", type=Path, default=PROJECT / ".run", help="folder of the stack (default: .run)")
    arguments = parser.parse_args()
    if arguments.command == "code":
        return code()
    os.umask(OWNER_ONLY_UMASK)
    stack = Stack(arguments.folder)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stop the started processes on the way out
    try:
        if stack.is_running and not stack.is_complete():
            stack.stop()  # some of its processes died: start from scratch
        return {"run": run, "up": up, "down": down}[arguments.command](stack)
    except StackError as error:
        print(error, file=sys.stderr)
        return 1


def run(stack: Stack) -> int:
    """Code the sample and print the result. Stop the stack afterwards unless it was running before."""
    was_running = stack.is_running
    try:
        if not was_running:
            stack.start(print)
        return _code_sample(stack)
    finally:
        if not was_running:
            stack.stop()


def up(stack: Stack) -> int:
    """Start the stack and leave it running."""
    if not stack.is_running:
        stack.start(print)
    user, password = stack.login
    print(f"Airflow      {stack.api.url}   user {user}, password {password}")
    print(f"Coding API   {stack.service_url}   client local-client, secret in {stack.secrets / 'client_secret'}")
    print("To stop      make down")
    return 0


def down(stack: Stack) -> int:
    """Stop the stack that `up` started."""
    print("Stopping the stack" if stack.is_running else "The stack is not running")
    stack.stop()
    return 0


def code() -> int:
    """Code the sample on the Airflow that the environment variables name, and print the counts of its records."""
    try:
        api = AirflowApi.from_environment()
    except KeyError as error:
        print(f"{error.args[0]} is not set. Set AIRFLOW_URL, AIRFLOW_USER and AIRFLOW_PASSWORD"
              " (or AIRFLOW_PASSWORD_FILE)", file=sys.stderr)  # fmt: skip
        return 2
    deadline = time.monotonic() + START_TIMEOUT_S
    while not has_parsed_dag(api) and time.monotonic() < deadline:
        time.sleep(1)
    api.unpause()
    if (run_id := _run_sample(api, "the logs of its tasks in Airflow's UI")) is None:
        return 1
    print("\n" + "\n".join(f"{name:<16} {value}" for name, value in api.xcom(run_id, "land").items()))
    return 0


def _run_sample(api: AirflowApi, logs: str) -> str | None:
    """Run the sample and print each change of state. Return the run id, or None if the run failed."""
    run_id = api.trigger(SAMPLE_PARAMS)
    print(f"Run {run_id}")
    state = ""
    for moment, name, state in api.watch(run_id, RUN_TIMEOUT_S):
        print(f"  {moment:%H:%M:%S}  {name:<20} {state}", flush=True)
    if state != "success":
        print(f"Run {run_id} ended in state {state!r}. See {logs}")
    return run_id if state == "success" else None


def _code_sample(stack: Stack) -> int:
    if (run_id := _run_sample(stack.api, f"the logs in {stack.folder / 'airflow' / 'logs'}")) is None:
        return 1
    report = path_from_uri(stack.api.xcom(run_id, "report"))
    lines = report.with_suffix(".md").read_text().splitlines()
    print("\n" + "\n".join(line for line in lines if line.startswith("- ")))
    _print_results(stack.warehouse)
    print(f"\nReport       {report}")
    print(f"Warehouse    {stack.warehouse} (DuckDB; tables in schema coding)")
    print("Airflow UI   make up")
    return 0


def _print_results(warehouse: Path) -> None:
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
