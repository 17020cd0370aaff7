"""The steps of a batch coding operation as tasks: create, upload, download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import XComArg

from coding_service.hooks import CONN_ID, CodingServiceHook
from coding_service.models import InputPart, check_guid, finite_number
from coding_service.part_operation import PartOperation
from coding_service.retry import CodingServiceRetryPolicy
from coding_service.upstream import UpstreamResultsMixin

#: XCom key of the create step's encrypted upload grant.
UPLOAD_GRANT_KEY = "upload_grant"


class CodingServiceOperator(UpstreamResultsMixin):
    """Base of the steps: one part of the input, coded by one operation of the service.

    :param part: the part to code, with the fields of :class:`coding_service.models.InputPart`
    :param coding_service_conn_id: Airflow connection of the service
    :param storage_conn_id: Airflow connection (aws) for `s3://`; None: the credentials that AWS finds on the machine
    :param record_operations: whether each operation that is opened is recorded with the id of the run in a file
        beside the input file, `operation-<id>.json`
    """

    template_fields: Sequence[str] = ("part", "coding_service_conn_id", "storage_conn_id")
    required_fields: Sequence[str] = ("part",)
    ui_color = "#e3eefa"

    def __init__(
        self,
        *,
        part: Mapping[str, Any] | XComArg,
        coding_service_conn_id: str = CONN_ID,
        storage_conn_id: str | None = None,
        record_operations: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("retry_policy", CodingServiceRetryPolicy())
        super().__init__(**kwargs)
        self.part: Any = part
        self.coding_service_conn_id = coding_service_conn_id
        self.storage_conn_id = storage_conn_id
        self.record_operations = record_operations

    def _operation(self, context: Any) -> PartOperation:
        """Return the operation of the part, once its template is rendered."""
        hook, part = CodingServiceHook(self.coding_service_conn_id), InputPart.from_dict(self.part)
        labels = {"run_id": context["run_id"], "part": self.part["part"]} if self.record_operations else None
        return PartOperation(hook, part, context["task_state_store"], self.storage_conn_id, labels=labels)


class CodingServiceCreateOperator(CodingServiceOperator):
    """Opens an operation for a part, or resumes the one that an earlier attempt opened.

    Returns the operation id. The upload grant goes to the upload step encrypted with Airflow's Fernet key.

    :raises SettingsError: Airflow has no Fernet key
    """

    def execute(self, context: Any) -> str:
        operation_id, grant = self._operation(context).open()
        context["ti"].xcom_push(key=UPLOAD_GRANT_KEY, value=grant)
        return operation_id


class CodingServiceUploadOperator(CodingServiceOperator):
    """Uploads the input file of a part once, and returns the id of the operation that received it.

    That can be a new operation, if the grant of the first one has expired: pass the returned id to the wait and the
    download.

    :param operation_id: GUID that the create step returned
    :param grant: the encrypted grant that the create step pushed
    :raises GrantExpiredError: the grant of a new operation is refused as well
    """

    template_fields: Sequence[str] = (*CodingServiceOperator.template_fields, "operation_id", "grant")
    required_fields: Sequence[str] = ("part", "operation_id", "grant")

    def __init__(self, *, operation_id: str | XComArg, grant: str | XComArg, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.operation_id: Any = operation_id
        self.grant: Any = grant

    def execute(self, context: Any) -> str:
        operation_id = check_guid(self.operation_id, "the operation id from the create step")
        return self._operation(context).upload(operation_id, str(self.grant))


class CodingServiceDownloadOperator(CodingServiceOperator):
    """Downloads output and metadata file of a complete operation to a folder beside the input file of the part.

    Returns a :class:`coding_service.models.DownloadResult` as a dict.

    :param operation_id: GUID that the upload step returned
    :param outcome: the XCom `operation` of the wait (:class:`coding_service.models.OperationOutcome`); its time shows
        until when missing files cannot have been deleted. None: the time is that of the first attempt
    :raises OutputNotReadyError: links or files are missing, but cannot have been deleted yet; retryable
    :raises OutputExpiredError: the files have been deleted; the next run codes the texts of the part again
    """

    template_fields: Sequence[str] = (*CodingServiceOperator.template_fields, "operation_id", "outcome")
    required_fields: Sequence[str] = ("part", "operation_id")
    optional_fields: Sequence[str] = ("outcome",)

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
        ended_at = finite_number(self.outcome.get("ended_at")) if isinstance(self.outcome, Mapping) else None
        return self._operation(context).download(operation_id, ended_at).to_dict()
