"""Measure how long the import of the DAG file takes in addition to Airflow's own import, in fresh processes."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

from bench.measure import ROOT

ROUNDS = 7
PROBE = """
import sys, time
start = time.perf_counter()
import airflow.sdk
middle = time.perf_counter()
import recode_occupations
print(middle - start, time.perf_counter() - middle)
"""


def main() -> None:
    path = os.pathsep.join(str(ROOT / folder) for folder in ("", "plugins", "dags"))
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "PYTHONPATH": path, "AIRFLOW_HOME": home}
        command = [sys.executable, "-c", PROBE]
        lines = [subprocess.check_output(command, env=environment, text=True) for _ in range(ROUNDS + 1)][1:]
    airflow, dag = (
        statistics.median(column) for column in zip(*(map(float, line.split()) for line in lines), strict=True)
    )
    print(f"Importing Airflow takes {airflow:.2f} s, the DAG file a further {dag:.2f} s (medians of {ROUNDS})")


if __name__ == "__main__":
    main()
