"""Runs the DAG once with the OpenLineage settings of the environment, in a process of its own: Airflow reads them when
it is imported. Writes what the run did to FOLDER/outcome.json.

    python -m tests.support.run_with_lineage FOLDER
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from airflow.utils.db import initdb

from include.local_service.http.server import LocalService
from tests.support.dag_runner import open_runner


def main(folder: Path) -> None:
    initdb()
    with (
        LocalService(folder / "service", coder="stub", progression="immediate") as service,
        open_runner(service, folder) as runner,
    ):
        outcome = runner.run(parts=2)
        (folder / "outcome.json").write_text(json.dumps({**dataclasses.asdict(outcome), "url": service.url}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
