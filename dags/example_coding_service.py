"""
An example to copy: code a JSONL file with the operators alone, without the warehouse and the pipeline.

It is paused until you switch it on, and runs when it is started by hand. The same file is coded in two ways, in two
operations of the service: `code` is one task; `create`, `upload`, `poll` and `download` are the same as four tasks.
Each line of the output has the `recordId` of a line of the input.

## If a task fails

Clear it: it resumes its operation, and sends nothing twice.

| Error | What to do |
|---|---|
| `SettingsError`, `AuthorizationError` | Correct the connection `coding_service_default`. |
| `InputFileError` | Correct the file that it names. |
| `OperationFailedError`, `OutputExpiredError` | Clear the task that opened the operation, to code the file again. |

[Help](/occupation-coding/help) on the Coding page has all errors, where this project is installed as a whole.
"""

from __future__ import annotations

import json
import logging
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


@task(
    doc_md="Writes made-up answers to the input file. If it fails, correct the rights of the folder, then clear it.",
    multiple_outputs=False, show_return_value_in_logs=False,
)  # fmt: skip
def write_texts(path: str) -> str:
    """Write the input file, and return its path."""
    records: list[dict[str, Any]] = [
        {"recordId": f"text-{number}", "occp_text": title, "tasks_text": tasks}
        for number, (title, tasks) in enumerate(TEXTS)
    ]
    Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    logging.getLogger(__name__).info("Wrote %d made-up answers to %s", len(records), path)
    return path


with DAG(
    "example_coding_service",
    dag_display_name="Example: the operators alone (example_coding_service)",
    description="An example to copy: codes a JSONL file on demand, in one task and in four.",
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
        task_id="code",
        doc_md="Codes the file in one task: opens an operation, uploads, waits, downloads. If it fails, clear it: it"
        " resumes the operation.",
        input_file=input_file,
        output_file=f"{FOLDER}/one_task.jsonl",
        deferrable=True,
    )

    # Four tasks: each can have its own pool, retries and time limit.
    create = CodingServiceCreateOperator(
        task_id="create", doc_md="Opens an operation. If it fails, correct the connection, then clear it."
    )
    upload = CodingServiceUploadOperator(
        task_id="upload",
        doc_md="Sends the file once. If it fails, clear it: it asks first whether the file has arrived.",
        input_file=input_file,
        operation_id=create.output,
    )
    poll = BatchCodeSensor(
        task_id="poll",
        doc_md="Waits until the operation ends. If it fails and the operation may still end, clear it.",
        operation_id=upload.output,
    )
    download = CodingServiceDownloadOperator(
        task_id="download",
        doc_md="Downloads the output, which is kept for 24 hours at most. If it fails, clear it within that time.",
        operation_id=upload.output,
        output_file=f"{FOLDER}/four_tasks.jsonl",
        metadata_file=f"{FOLDER}/four_tasks_metadata.json",
    )
    input_file >> create
    poll >> download
