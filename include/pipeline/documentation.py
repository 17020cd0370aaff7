"""What Airflow's UI says about the DAGs and their tasks: names, descriptions, and documentation in Markdown.

The text is the same whenever Airflow parses a DAG file, because a new text is a new version of the DAG.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import quote

from airflow.sdk import PartitionedAssetTimetable

from coding_service.links import read_root_path
from include.coding.markdown import format_code
from include.pipeline.names import PAGE_PATH, name_coded_records

#: What to do about an error, by its class. docs/runbook.md has the same classes with more words.
ERROR_ADVICE = {
    "ServiceUnavailableError": "Retried. If it persists, check network, proxy, and `host` of the connection.",
    "BudgetError": "Retried. Check the database of the call budget.",
    "TooManyRequestsError": "Retried, more slowly. If it happens often, lower `requests_per_second`.",
    "QuotaExceededError": "Retried when calls are allowed again. Wait, or ask the service for a higher limit.",
    "AccessDeniedError": "Retried. If it lasts for hours, ask who else uses the credentials.",
    "LocalFaultError": "Retried. Free some space on the worker; check Airflow's secrets backend.",
    "TransferError": "Retried from where it stopped. If it persists, check proxy and firewall to the storage.",
    "UploadInterruptedError": "Retried, once it is clear that the input has not arrived. As for `TransferError`.",
    "OutputNotReadyError": "Retried for up to a day. If all attempts are used, clear `download`.",
    "StagingError": "Retried. Free some space, or correct the rights of `staging_default`.",
    "WarehouseError": "Retried. Look at the warehouse.",
    "WarehouseBusyError": "Retried. Look at what else uses the warehouse.",
    "NoSuchTableError": "Retried. Look at the warehouse: a table is missing.",
    "EngineError": "Retried. If it persists, report the last lines of the log.",
    "UnknownStatusError": "Retried. If it persists, report it to the service.",
    "SettingsError": "Correct the connection or the setting that it names, then clear the task.",
    "CertificateError": "Name the certificate authority in `verify` of the connection, then clear the task.",
    "AuthorizationError": "Correct client id and secret in the connection, then clear the task.",
    "NotFoundError": "Use a topic or a model that the message lists.",
    "RequestRefusedError": "Read its message, and report it to the service if it makes no sense.",
    "ProtocolError": "Clear the task that it names. If the service has changed, update the project.",
    "InputFileError": "Clear `prepare` with downstream tasks.",
    "OperationFailedError": "Start a new run of the dates, or clear `poll` if the operation may still end.",
    "GrantExpiredError": "Clear `create` of the part with downstream tasks, and check the clock of the worker.",
    "OutputExpiredError": "Start a new run of the dates: it sends these texts again.",
    "PlanError": "Correct what it names in the form, or clear the task that it names.",
    "ApprovalError": "Clear `approve` with downstream tasks when the run has ended: Airflow asks again.",
    "SourceError": "Correct the source or the setting that it names, then start again.",
    "IncompleteError": "Look at the part that it names. A new run of the dates sends what is left.",
    "AuditError": "Check the source. If it is right, run the dates with another limit.",
    "WarehouseSettingsError": "Grant the right that it names, or update the project.",
}
#: Errors of a DAG that only reads the warehouse and writes files.
WAREHOUSE_ERRORS = ("PlanError", "SourceError", "StagingError", "WarehouseError", "WarehouseSettingsError")
#: Errors of a DAG that only asks the service for its models.
SERVICE_ERRORS = (
    "ServiceUnavailableError", "BudgetError", "TooManyRequestsError", "QuotaExceededError", "AccessDeniedError",
    "LocalFaultError", "SettingsError", "CertificateError", "AuthorizationError", "NotFoundError",
    "RequestRefusedError", "ProtocolError",
)  # fmt: skip

#: Label of a mapped task of `code` in the UI. It renders whatever somebody edits in an XCom, because it must not fail
#: a task that has done its work.
PART_LABEL = (
    "part {{ ti.map_index + 1 }} of"
    " {{ (ti.xcom_pull(task_ids='prepare', key='estimate') or {}).parts | default('?') }}:"
    " {{ '{:,}'.format(task.part.records | default(0) | int) }} texts"
)
#: Label of a mapped task of `watch_models`.
TOPIC_LABEL = "{{ task.op_args | first | default('?') }}"

#: What a task of `recode_dag` does, and what to do if it fails, by its id in the DAG or its task group.
TASK_DOCS = {
    "plan": "Determines topic, model, dates and source of the run, and checks what can be checked before any work is"
    " done. If it fails, nothing was sent: correct what its message names, then clear it or start another run.",
    "prepare": "Reads and checks the records, keeps each distinct text once, and writes the texts without a code as"
    " parts. If it fails, nothing was sent: correct the source or the setting that its message names, then clear it.",
    "approve": "Asks a person if the run would send more texts than `CODING_APPROVE_ABOVE` or its form allows."
    " Answer under *Required Actions* within seven days. If it fails, clear it with downstream tasks: it asks again.",
    "create": "Opens one operation of the service for the part, or resumes the one of an earlier attempt. If it"
    " fails, see its message; the other parts go on, and `collect` codes the texts of this part again.",
    "upload": "Sends the texts of the part, once. If it fails, clear it: it asks first whether they have arrived.",
    "poll": "Waits in the triggerer until the service has coded the part. Its log says how long it has waited, how"
    " long that usually takes, and when it looks next. If it fails and the operation may still end, clear it.",
    "download": "Downloads the codes of the part, which the service keeps for 24 hours at most. If it fails, clear it"
    " within that time: it continues where it stopped.",
    "wait_for_parts": "Waits until all parts have ended, whether or not they failed. If it fails, look at the tasks"
    " before it.",
    "collect": "Keeps the results of every part, and codes again what has none. If it fails, clear it: it continues,"
    " and pays for nothing twice.",
    "land": "Checks that no record is lost and no limit is exceeded, and publishes the dates of the run, all or none."
    " If it fails, its message says which part or limit: clear that part, or run the dates with another limit.",
    "announce": "Emits an event of the asset for each date that was published, which can start other DAGs. If it"
    " fails, the codes are published all the same: clear it.",
    "export": "Writes the records with all columns of the source and their codes to the file of *Export*. Without"
    " one, it is skipped. If it fails, the codes are published all the same: correct the file, then clear it.",
    "report": "Writes the report of the run, or the estimate of a dry run. If it fails, the codes are published all"
    " the same: clear it.",
    "clean_up": "Removes the files of the run except its report, because they contain people's texts. If it fails,"
    " clear the task that its message names; the files stay until then.",
}  # fmt: skip


def name_dag(title: str, dag_id: str) -> str:
    """Return the name of a DAG in the UI. It contains the id, by which people search for it and which URLs have."""
    return f"{title} ({dag_id})"


def describe_schedule(schedule: str | PartitionedAssetTimetable | None) -> str:
    """Return when a DAG of `recode_dag` runs, in words.

    :param schedule: minute and hour of each day, as cron writes them; an asset timetable; None: on demand
    """
    if schedule is None:
        return "on demand"
    if not isinstance(schedule, str):
        return "whenever its source has a new date, and on demand"
    minute, hour = (int(field) for field in schedule.split()[:2])
    moment = "midnight" if hour == minute == 0 else f"{hour:02}:{minute:02}"
    return f"for the day before, every night at {moment} in Sydney, and on demand"


def describe_recode_dag(schedule: str | PartitionedAssetTimetable | None, source: str, topic: str) -> str:
    """Return the description of a DAG of `recode_dag` for the list of DAGs."""
    return f"Codes the occupations of {source} with {topic}: {describe_schedule(schedule)}."


def document_recode_dag(dag_id: str, description: str) -> str:
    """Return the documentation of a DAG of `recode_dag` in Markdown."""
    today, dates, runs = (f"{page_url()}/{name}?dag={quote(dag_id)}" for name in ("", "dates", "runs"))
    return f"""
{description}

Each distinct text is coded once by a model. A run replaces the rows of its topic, model and dates in `coded_records`,
or changes nothing. Each date that it publishes is an event of the asset {format_code(name_coded_records(dag_id))}.

- **What happened last night, and what needs a person?** [Coding page]({today}), with all
  [dates]({dates}) and [runs]({runs}).
- **To try it**: *Trigger* with *Dry run* switched on. It sends nothing, and reports how much a run would send.
- **To code some days**: *Trigger* with *From* and *To*.
- **To code history again**: *Backfill*, after the DAG is unpaused, because runs of a backfill wait silently while
  it is paused. Set *To* to 23:59 of the last day, because midnight in an Australian time zone leaves that day out,
  and keep the dates of the form below empty.
- Do not **pause** the DAG while the service is coding: no task continues until you unpause it, and the service
  deletes its output after a day.

{document_errors()}
"""


def document_dag(text: str, *errors: str) -> str:
    """Return the documentation of another DAG in Markdown.

    :param text: what it does
    :param errors: classes of the errors that its tasks can have
    """
    return f"{text.strip()}\n\n{document_errors(errors)}"


def document_errors(errors: Collection[str] = tuple(ERROR_ADVICE)) -> str:
    """Return a table of errors and what to do about them, with links to the Coding page, in Markdown."""
    rows = [f"| [`{name}`]({page_url()}/help#{name}) | {ERROR_ADVICE[name]} |" for name in errors]
    return "\n".join(
        [
            "## If a task fails",
            "",
            "The log of the task ends with its error: what failed, for which thing, and what to do. A failed run"
            " changes nothing that is published. Clear the task with downstream tasks to resume the run: nothing is"
            " sent twice.",
            "",
            "| Error | What to do |",
            "|---|---|",
            *rows,
            "",
            f"[Help]({page_url()}/help) says more about each.",
        ]
    )


def page_url() -> str:
    """Return the path of the Coding page on the server of Airflow, which can have a path of its own."""
    return read_root_path() + PAGE_PATH
