"""The steps of a batch coding operation as tasks: create, upload, download."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from airflow.sdk import BaseOperator, XComArg
from airflow.sdk.crypto import get_fernet
from cryptography.fernet import InvalidToken

from coding_service.errors import GrantExpiredError, NotFoundError, SettingsError
from coding_service.hooks import CONN_ID, CodingServiceHook
from coding_service.models import DownloadResult, Fingerprint, InputPart, Operation, OperationStatus, UploadGrant
from coding_service.retry import CodingServiceRetryPolicy
from coding_service.storage import FilePath, storage_path

#: XCom key of the create step's encrypted upload grant.
UPLOAD_GRANT_KEY = "upload_grant"
#: Key in the task state store of the operation that this task opened: its id, its fingerprint, its encrypted grant.
OPERATION_STATE_KEY = "operation"


class CodingServiceOperator(BaseOperator):
    """Base of the steps: one part of the input, coded by one operation of the service.

    :param part: the part to code, with the fields of :class:`coding_service.models.InputPart`
    :param coding_service_conn_id: Airflow connection of the service
    :param storage_conn_id: Airflow connection (aws) for `s3://`; None: the credentials that AWS finds on the machine
    """

    template_fields: Sequence[str] = ("part", "coding_service_conn_id", "storage_conn_id")
    ui_color = "#e3eefa"

    def __init__(
        self,
        *,
        part: Mapping[str, Any] | XComArg,
        coding_service_conn_id: str = CONN_ID,
        storage_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("retry_policy", CodingServiceRetryPolicy())
        super().__init__(**kwargs)
        self.part: Any = part
        self.coding_service_conn_id = coding_service_conn_id
        self.storage_conn_id = storage_conn_id

    @cached_property
    def hook(self) -> CodingServiceHook:
        return CodingServiceHook(self.coding_service_conn_id)

    @cached_property
    def input_part(self) -> InputPart:
        """The part, once its template is rendered."""
        return InputPart.from_dict(self.part)

    def _open_operation(self, store: Any) -> UploadGrant:
        """Open a new operation and store its id at once, because the service cannot list operations."""
        cipher = get_fernet()
        if not cipher.is_encrypted:
            raise SettingsError(
                "Airflow has no Fernet key, and an upload URL must not be stored unencrypted: set [core] fernet_key"
                " (AIRFLOW__CORE__FERNET_KEY) to what `python -c 'from cryptography.fernet import Fernet;"
                " print(Fernet.generate_key().decode())'` prints"
            )
        part = self.input_part
        grant = self.hook.create_operation(part.topic, part.model_id)
        state = {"operation_id": grant.operation_id, "fingerprint": part.fingerprint.to_dict()}
        store.set(OPERATION_STATE_KEY, {**state, "grant": encrypt_grant(grant)})
        self.log.info("Opened operation %s for %s", grant.operation_id, part.input_uri)
        return grant

    def _resumable_state(self, store: Any) -> dict[str, Any] | None:
        """Return the state that an earlier attempt stored for the same part, if its operation can still be used."""
        part, state = self.input_part, store.get(OPERATION_STATE_KEY)
        if state is None or part.force_new or Fingerprint.from_dict(state["fingerprint"]) != part.fingerprint:
            return None
        operation = self._find_operation(state["operation_id"])
        return state if operation is not None and operation.is_usable else None

    def _find_operation(self, operation_id: str) -> Operation | None:
        try:
            return self.hook.operation(self.input_part.topic, operation_id)
        except NotFoundError:
            return None

    def _path(self, uri: str) -> FilePath:
        return storage_path(uri, self.storage_conn_id)


class CodingServiceCreateOperator(CodingServiceOperator):
    """Opens an operation for a part, or resumes the one that an earlier attempt opened.

    Returns the operation id. The upload grant goes to the upload step encrypted with Airflow's Fernet key.

    :raises SettingsError: Airflow has no Fernet key
    """

    def execute(self, context: Any) -> str:
        store = context["task_state_store"]
        if state := self._resumable_state(store):
            self.log.info("Resuming operation %s from an earlier attempt", state["operation_id"])
        else:
            self._open_operation(store)
            state = store.get(OPERATION_STATE_KEY)
        context["ti"].xcom_push(key=UPLOAD_GRANT_KEY, value=state["grant"])
        return str(state["operation_id"])


class CodingServiceUploadOperator(CodingServiceOperator):
    """Uploads the input file of a part once, and returns the id of the operation that received it.

    The status is checked first, so an operation that already has its input is not sent another. If the grant has
    expired, a new operation is opened. The returned id can therefore differ from `operation_id`: pass it to the wait
    and the download.

    :param operation_id: GUID that the create step returned
    :param grant: the encrypted grant that the create step pushed
    :raises GrantExpiredError: the grant of a new operation is refused as well
    """

    template_fields: Sequence[str] = (*CodingServiceOperator.template_fields, "operation_id", "grant")

    def __init__(self, *, operation_id: str | XComArg, grant: str | XComArg, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.operation_id: Any = operation_id
        self.grant: Any = grant

    def execute(self, context: Any) -> str:
        store = context["task_state_store"]
        for grant in self._candidate_grants(store):
            operation = self._find_operation(grant.operation_id)
            if operation is None or operation.status is OperationStatus.TIMED_OUT:
                continue
            if operation.status is not OperationStatus.AWAITING_INPUT:
                self.log.info("Operation %s is %s: it has its input", grant.operation_id, operation.status)
                return grant.operation_id
            try:
                return self._upload(grant)
            except GrantExpiredError as error:
                self.log.warning("%s: opening a new operation", error)
        return self._upload(self._open_operation(store))

    def _candidate_grants(self, store: Any) -> Iterator[UploadGrant]:
        """Yield the grant of the operation that an earlier attempt opened here, if any, then the create step's."""
        state = self._resumable_state(store)
        if state is not None and state["operation_id"] != self.operation_id:
            yield decrypt_grant(state["grant"])
        yield decrypt_grant(self.grant)

    def _upload(self, grant: UploadGrant) -> str:
        part = self.input_part
        size = self.hook.upload(grant, self._path(part.input_uri), part.sha256)
        self.log.info("Uploaded %s (%d bytes) to operation %s", part.input_uri, size, grant.operation_id)
        return grant.operation_id


class CodingServiceDownloadOperator(CodingServiceOperator):
    """Downloads output and metadata file of a complete operation to a folder beside the input file of the part.

    Returns a :class:`coding_service.models.DownloadResult` as a dict.

    :param operation_id: GUID that the upload step returned
    :raises OutputExpiredError: the files have been deleted; the next run codes the texts of the part again
    """

    template_fields: Sequence[str] = (*CodingServiceOperator.template_fields, "operation_id")

    def __init__(self, *, operation_id: str | XComArg, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.operation_id: Any = operation_id

    def execute(self, context: Any) -> dict[str, Any]:
        part = self.input_part
        folder = f"{part.input_uri.rpartition('/')[0]}/{self.operation_id}"
        output_uri, metadata_uri = f"{folder}/output.jsonl", f"{folder}/metadata.json"
        paths = self._path(output_uri), self._path(metadata_uri)
        output, metadata = self.hook.download(part.topic, self.operation_id, *paths)
        self.log.info("Operation %s: %d lines, %d bytes", self.operation_id, output.lines, output.bytes)
        return DownloadResult(
            operation_id=self.operation_id,
            input_uri=part.input_uri,
            output_uri=output_uri,
            metadata_uri=metadata_uri if metadata else None,
            bytes=output.bytes,
            sha256=output.sha256,
            records=output.lines,
            fingerprint=part.fingerprint,
        ).to_dict()


def encrypt_grant(grant: UploadGrant) -> str:
    """Encrypt a grant with Airflow's Fernet key."""
    return get_fernet().encrypt(json.dumps(grant.to_dict()).encode()).decode()


def decrypt_grant(token: str) -> UploadGrant:
    """Decrypt a grant that :func:`encrypt_grant` encrypted.

    :raises SettingsError: it was encrypted with another key
    """
    try:
        return UploadGrant.from_dict(json.loads(get_fernet().decrypt(token)))
    except InvalidToken:
        raise SettingsError(
            "the upload grant was encrypted with another Fernet key than this worker has: give all Airflow processes"
            " the same [core] fernet_key, then clear the create step"
        ) from None
