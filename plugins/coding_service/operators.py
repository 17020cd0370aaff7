"""A batch coding operation as one task, and its steps as tasks: create, upload, download."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import XComArg

from coding_service.errors import InputFileError
from coding_service.hooks import CONN_ID, CodingServiceHook
from coding_service.input_file import read_input_file
from coding_service.lineage import OperationLineageMixin
from coding_service.links import OperationLink, check_operation_link, push_operation_link
from coding_service.models import InputPart, check_file, check_guid, check_model, check_topic, finite_number
from coding_service.part_operation import OPERATION_STATE_KEY, PartOperation
from coding_service.retry import CodingServiceRetryPolicy
from coding_service.sensors import airflow_timeout, end_wait, log_deferral, read_deferrable
from coding_service.storage import check_output_path, storage_path
from coding_service.triggers import BatchCodeTrigger
from coding_service.upstream import UpstreamResultsMixin

#: XCom key of the create step's encrypted upload grant.
UPLOAD_GRANT_KEY = "upload_grant"
#: XCom key under which the single operator shows the id of its operation while it waits.
OPERATION_ID_KEY = "operation_id"


class CodingServiceOperator(OperationLineageMixin, UpstreamResultsMixin):
    """Codes a JSONL file in one operation of the service: opens it, uploads, waits, and downloads the output.

    Every line of the input file is a JSON object with the texts `recordId`, `occp_text` and `tasks_text`. The file is
    checked before an operation is opened. Whatever dies, the next attempt of the task resumes the operation, and
    never sends the file twice. A file that has changed since is coded by a new operation.

    Returns a :class:`coding_service.models.DownloadResult` as a dict, with the number of lines of the input file as
    `input_records`. While it waits, the XCom `operation_id` names the operation; how the operation ended is the XCom
    `operation` (:class:`coding_service.models.OperationOutcome`).

    The steps of an operation as tasks of their own are subclasses, and :class:`coding_service.BatchCodeSensor`.

    :param topic: uriName of the topic, such as `osca`
    :param input_file: the file to code, as an absolute path, a `file://` or an `s3://` URI
    :param output_file: the file for the output, in the same forms. It appears once it is complete, for its owner only
    :param metadata_file: the file for what the service says about the model; None: it is not downloaded
    :param model: GUID of a model; None or `latest`: the latest one
    :param part: the part to code with the fields of :class:`coding_service.models.InputPart`, in place of topic,
        model and files. The output is written to a folder beside its input file
    :param coding_service_conn_id: Airflow connection of the service
    :param storage_conn_id: Airflow connection (aws) for `s3://`; None: the credentials that AWS finds on the machine
    :param operation_link: path of a page on an operation below the root of Airflow's UI, to which the task then has a
        link: `/operations?run={run_id}#{operation_id}`. It can contain {dag_id}, {run_id} and {operation_id}, which
        are quoted. None: no link
    :param record_operations: whether each operation that is opened for a part is recorded with the id of the run in a
        file beside the input file, `operation-<id>.json`
    :param timeout: maximum wait, in seconds or as timedelta; the service states none (docs/service-contract.md 5)
    :param poll_interval: seconds between the first two status calls; later intervals grow from it. None: the value in
        the connection
    :param deferrable: whether to wait in the triggerer; False: in the worker, which is occupied meanwhile. None: as
        Airflow's `[operators] default_deferrable` says
    :raises SettingsError: Airflow has no Fernet key
    :raises InputFileError: the input file is missing or empty, or has lines that the service cannot be sent
    :raises OperationFailedError: the operation failed, timed out, or did not end before the timeout
    :raises OutputExpiredError: the output has been deleted; clear the task to code the file again
    """

    template_fields: Sequence[str] = (
        *("part", "topic", "model", "input_file", "output_file", "metadata_file"),
        *("coding_service_conn_id", "storage_conn_id"),
    )
    required_fields: Sequence[str] = ("part", "topic", "input_file", "output_file")
    #: What a task needs if it has no part.
    needed_arguments: Sequence[str] = ("topic", "input_file", "output_file")
    operator_extra_links = (OperationLink(),)
    ui_color = "#e3eefa"

    def __init__(
        self,
        *,
        topic: str | XComArg | None = None,
        input_file: str | XComArg | None = None,
        output_file: str | XComArg | None = None,
        metadata_file: str | XComArg | None = None,
        model: str | XComArg | None = None,
        part: Mapping[str, Any] | XComArg | None = None,
        coding_service_conn_id: str = CONN_ID,
        storage_conn_id: str | None = None,
        operation_link: str | None = None,
        record_operations: bool = False,
        timeout: float | timedelta = timedelta(hours=24),
        poll_interval: float | None = None,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("retry_policy", CodingServiceRetryPolicy())
        super().__init__(**kwargs)
        self.topic: Any = topic
        self.input_file: Any = input_file
        self.output_file: Any = output_file
        self.metadata_file: Any = metadata_file
        self.model: Any = model
        self.part: Any = part
        self.coding_service_conn_id = coding_service_conn_id
        self.storage_conn_id = storage_conn_id
        self.operation_link = check_operation_link(operation_link)
        self.record_operations = record_operations
        self.timeout = timeout if isinstance(timeout, timedelta) else timedelta(seconds=timeout)
        self.poll_interval = poll_interval
        self.deferrable = read_deferrable(deferrable)
        for name in ("model", "input_file", "output_file", "metadata_file"):
            if name not in self.template_fields:  # the DAG's default_args can set it for other tasks
                setattr(self, name, None)
        missing = [name for name in self.needed_arguments if getattr(self, name) is None]
        if part is None and missing:
            raise TypeError(f"{type(self).__name__} {self.task_id!r} needs {' and '.join(missing)}")

    def execute(self, context: Any) -> dict[str, Any]:
        self._check_output_files()  # before anything is paid for
        part = self._read_part()
        operation = self._operation(context, part)
        operation_id = operation.upload(*operation.open())
        context["ti"].xcom_push(key=OPERATION_ID_KEY, value=operation_id)
        push_operation_link(context["ti"], self.operation_link, operation_id)
        now, seconds = time.time(), self.timeout.total_seconds()
        trigger = BatchCodeTrigger(
            topic=part.topic,
            operation_id=operation_id,
            coding_service_conn_id=self.coding_service_conn_id,
            deadline=now + seconds,
            poll_interval=self.poll_interval,
            started=now,
        )
        if self.deferrable:
            log_deferral(trigger)
            self.defer(trigger=trigger, method_name="resume", timeout=airflow_timeout(seconds))
        return self.resume(context, trigger.run_in_worker())

    def resume(self, context: Any, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Handle the trigger's event: download the output, or fail unless the operation is complete."""
        state = context["task_state_store"].get(OPERATION_STATE_KEY) or {}
        self.remember_for_lineage(state.get("operation_id"))
        end_wait(context["ti"], state.get("operation_id"), event)
        part = self._describe_part()
        if self.part is None:
            part = replace(part, sha256=state["fingerprint"]["input_sha256"], records=state.get("records"))
        result = self._operation(context, part).download(state["operation_id"], None, *self._check_output_files())
        if part.records not in (None, result.records):
            self.log.warning("The output has %s lines for %s records", f"{result.records:,}", f"{part.records:,}")
        files = {**result.to_dict(), "input_records": part.records}
        self.remember_for_lineage(result.operation_id, files)
        return files

    def _describe_part(self) -> InputPart:
        """Return what is coded, from the part or the other arguments, once their templates are rendered.

        :raises ProtocolError: an argument is not what it has to be
        """
        if self.part is not None:
            return InputPart.from_dict(self.part)
        input_uri = "" if self.input_file is None else check_file(self.input_file, "the input file")
        return InputPart(check_topic(self.topic), check_model(self.model), input_uri)

    def _read_part(self) -> InputPart:
        """Return what is coded, with the hash and the number of records of its input file.

        :raises InputFileError: the input file is missing or empty, or has lines that the service cannot be sent
        """
        part = self._describe_part()
        if part.sha256 is not None:
            return part
        summary = read_input_file(storage_path(part.input_uri, self.storage_conn_id))
        self.log.info("The input file %s has %s records", part.input_uri, f"{summary.records:,}")
        return replace(part, sha256=summary.sha256, records=summary.records)

    def _check_output_files(self) -> tuple[str | None, str | None]:
        """Return the URIs of output and metadata file, None for those that the task does not name.

        :raises ProtocolError: one is not the URI or the path of a file
        :raises InputFileError: one cannot be written, or would replace another file of this task
        """
        names = {"input_file": self.input_file, "output_file": self.output_file, "metadata_file": self.metadata_file}
        uris = {name: check_file(value, name) for name, value in names.items() if value is not None}
        paths = {name: storage_path(uri, self.storage_conn_id) for name, uri in uris.items()}
        files = {path.resolve() if isinstance(path, Path) else uris[name] for name, path in paths.items()}
        if len(files) < len(paths):
            raise InputFileError(f"{' and '.join(paths)} have to be different files: change one of them")
        for name in ("output_file", "metadata_file"):
            if name in paths:
                check_output_path(paths[name])
        return uris.get("output_file"), uris.get("metadata_file")

    def _operation(self, context: Any, part: InputPart) -> PartOperation:
        """Return the operation that codes the part."""
        labels = {"run_id": context["run_id"], "part": self.part["part"]} if self.record_operations else None
        hook, store = CodingServiceHook(self.coding_service_conn_id), context["task_state_store"]
        return PartOperation(hook, part, store, self.storage_conn_id, labels=labels)


class CodingServiceCreateOperator(CodingServiceOperator):
    """Opens an operation, or resumes the one that an earlier attempt opened for the same topic, model and part.

    Returns the operation id. The upload grant goes to the upload step encrypted with Airflow's Fernet key.

    :param topic, model, part: as for :class:`CodingServiceOperator`; the topic is enough
    :raises SettingsError: Airflow has no Fernet key
    """

    template_fields: Sequence[str] = ("part", "topic", "model", "coding_service_conn_id", "storage_conn_id")
    required_fields: Sequence[str] = ("part", "topic")
    needed_arguments: Sequence[str] = ("topic",)

    def execute(self, context: Any) -> Any:
        operation_id, grant = self._operation(context, self._describe_part()).open()
        self.remember_for_lineage(operation_id)
        context["ti"].xcom_push(key=UPLOAD_GRANT_KEY, value=grant)
        push_operation_link(context["ti"], self.operation_link, operation_id)
        return operation_id


class CodingServiceUploadOperator(CodingServiceOperator):
    """Uploads an input file once, and returns the id of the operation that received it.

    That can be a new operation, if the grant of the first one has expired: pass the returned id to the wait and the
    download.

    :param topic, input_file, part: as for :class:`CodingServiceOperator`; the model is that of the create step
    :param operation_id: GUID that the create step returned
    :param grant: the encrypted grant that the create step pushed; None: it is taken from the task whose output
        `operation_id` is
    :raises GrantExpiredError: the grant of a new operation is refused as well
    """

    template_fields: Sequence[str] = (
        *("part", "topic", "input_file", "coding_service_conn_id", "storage_conn_id"),
        *("operation_id", "grant"),
    )
    required_fields: Sequence[str] = ("part", "topic", "input_file", "operation_id", "grant")
    needed_arguments: Sequence[str] = ("topic", "input_file")

    def __init__(self, *, operation_id: str | XComArg, grant: str | XComArg | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.operation_id: Any = operation_id
        self.grant: Any = _find_grant(operation_id) if grant is None else grant

    def execute(self, context: Any) -> Any:
        operation_id = check_guid(self.operation_id, "the operation id from the create step")
        self.remember_for_lineage(operation_id)
        push_operation_link(context["ti"], self.operation_link, operation_id)
        uploaded_id = self._operation(context, self._read_part()).upload(operation_id, str(self.grant))
        if uploaded_id != operation_id:  # a new one, because the first could not have the file
            self.remember_for_lineage(uploaded_id)
            push_operation_link(context["ti"], self.operation_link, uploaded_id)
        return uploaded_id


def _find_grant(operation_id: Any) -> XComArg:
    """Return the grant that the task pushed whose output is the operation id.

    :raises TypeError: the operation id is not the output of a task
    """
    if not isinstance(operation_id, XComArg):
        raise TypeError(
            "an upload needs the grant of its operation: set `operation_id` to the output of the create step, or"
            f" `grant` to its XCom {UPLOAD_GRANT_KEY!r}"
        )
    task, _ = next(operation_id.iter_references())
    return XComArg(task, key=UPLOAD_GRANT_KEY)


class CodingServiceDownloadOperator(CodingServiceOperator):
    """Downloads output and metadata file of a complete operation.

    Returns a :class:`coding_service.models.DownloadResult` as a dict.

    :param topic, output_file, metadata_file, part: as for :class:`CodingServiceOperator`
    :param operation_id: GUID that the upload step returned
    :param outcome: the XCom `operation` of the wait (:class:`coding_service.models.OperationOutcome`); its time shows
        until when missing files cannot have been deleted. None: the time is that of the first attempt
    :raises OutputNotReadyError: links or files are missing, but cannot have been deleted yet; retryable
    :raises OutputExpiredError: the files have been deleted; the next run codes the texts of the part again
    """

    template_fields: Sequence[str] = (
        *("part", "topic", "output_file", "metadata_file", "coding_service_conn_id", "storage_conn_id"),
        *("operation_id", "outcome"),
    )
    required_fields: Sequence[str] = ("part", "topic", "output_file", "operation_id")
    optional_fields: Sequence[str] = ("outcome",)
    needed_arguments: Sequence[str] = ("topic", "output_file")

    def __init__(
        self,
        *,
        operation_id: str | XComArg,
        outcome: Mapping[str, Any] | XComArg | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.operation_id: Any = operation_id
        self.outcome: Any = outcome

    def execute(self, context: Any) -> dict[str, Any]:
        operation_id = check_guid(self.operation_id, "the operation id from the upload step")
        self.remember_for_lineage(operation_id)
        push_operation_link(context["ti"], self.operation_link, operation_id)
        ended_at = finite_number(self.outcome.get("ended_at")) if isinstance(self.outcome, Mapping) else None
        files = self._check_output_files()
        result = self._operation(context, self._describe_part()).download(operation_id, ended_at, *files).to_dict()
        self.remember_for_lineage(operation_id, result)
        return result
