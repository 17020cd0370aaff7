"""
An example to copy: code a JSONL file with the operators alone, without the warehouse and the pipeline.

It is paused until you switch it on, and runs when it is started by hand. The same file is coded in two ways, in two
operations of the service: `code` is one task; `create`, `upload`, `poll` and `download` are the same as four tasks.
Each line of the output has the `recordId` of a line of the input.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pendulum
from airflow.sdk import DAG, task

from coding_service import (
    BatchCodeSensor,
    CodingServiceCreateOperator,
    CodingServiceDownloadOperator,
    CodingServiceOperator,
    CodingServiceUploadOperator,
)

HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
#: Folder of the files of a run, which all workers have to share. The operators also take `s3://` URIs, with the
#: argument `storage_conn_id`. The files contain people's texts.
FOLDER = str(HOME / "staging" / "example_coding_service" / "{{ run_id }}")
INPUT_FILE = f"{FOLDER}/texts.jsonl"

#: Job title and tasks of made-up answers. One of the two can be empty.
TEXTS = [
    ("Sparky", "wires new houses"),
    ("Looks after kids at a day care", ""),
    ("Trainee animal doctor", "treats cats and dogs"),
]


@task
def write_texts(path: str) -> str:
    """Write the input file, and return its path."""
    records: list[dict[str, Any]] = [
        {"recordId": f"text-{number}", "occp_text": title, "tasks_text": tasks}
        for number, (title, tasks) in enumerate(TEXTS)
    ]
    Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


with DAG(
    "example_coding_service",
    doc_md=__doc__,
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="Australia/Sydney"),
    is_paused_upon_creation=True,
    # A retry resumes the operation that exists, and sends nothing twice. The time limit is for one attempt, and for
    # the wait as well if the task waits in the worker.
    default_args={"topic": "osca", "retries": 3, "execution_timeout": timedelta(days=1)},
    tags=["occupation", "example"],
) as dag:
    input_file = write_texts(INPUT_FILE)

    # One task. It waits in the triggerer; without `deferrable`, Airflow's [operators] default_deferrable decides.
    CodingServiceOperator(
        task_id="code", input_file=input_file, output_file=f"{FOLDER}/one_task.jsonl", deferrable=True
    )

    # Four tasks: each can have its own pool, retries and time limit.
    create = CodingServiceCreateOperator(task_id="create")
    upload = CodingServiceUploadOperator(task_id="upload", input_file=input_file, operation_id=create.output)
    poll = BatchCodeSensor(task_id="poll", operation_id=upload.output)
    download = CodingServiceDownloadOperator(
        task_id="download",
        operation_id=upload.output,
        output_file=f"{FOLDER}/four_tasks.jsonl",
        metadata_file=f"{FOLDER}/four_tasks_metadata.json",
    )
    input_file >> create
    poll >> download
