"""The steps of a batch coding operation as tasks: create, upload, download."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, XComArg
from airflow.sdk.crypto import get_fernet
from cryptography.fernet import InvalidToken

from coding_service.errors import GrantExpiredError, NotFoundError, SettingsError
from coding_service.hooks import CONN_ID, CodingServiceHook
from coding_service.models import Operation, OperationStatus, UploadGrant
from coding_service.retry import CodingServiceRetryPolicy
from coding_service.storage import STORAGE_CONN_ID, StoragePath, storage_path

#: XCom of the create step that carries the encrypted upload grant.
GRANT = "upload_grant"
#: Entry of the task state store: the operation that this task opened, and for what.
STATE = "operation"


class CodingServiceOperator(BaseOperator):
    """Base of the steps: one part of the input, one operation of the service.

    :param part: what to code: `topic`, `model_id`, `uri` of the input file (JSONL; `file://` or `s3://`), its
        `sha256` and `bytes`, and `force_new` (whether each try opens a new operation, whatever an earlier one left)
    :param coding_service_conn_id: Airflow connection of the service
    :param storage_conn_id: Airflow connection (aws) of the object storage, for an `s3://` URI
    """

    template_fields: Sequence[str] = ("part", "coding_service_conn_id", "storage_conn_id")
    ui_color = "#e3eefa"

    def __init__(
        self,
        *,
        part: Mapping[str, Any] | XComArg,
        coding_service_conn_id: str = CONN_ID,
        storage_conn_id: str | None = STORAGE_CONN_ID,
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

    @property
    def topic(self) -> str:
        return str(self.part["topic"])

    @property
    def fingerprint(self) -> str:
        """What an operation was opened for. A stored operation for anything else is not taken up."""
        return f"{self.part['topic']}/{self.part['model_id']}/{self.part['sha256']}"

    def _open(self, store: Any) -> UploadGrant:
        """Open a new operation and write it down at once: its id is the only way to it (contract 2.7)."""
        cipher = get_fernet()
        if not cipher.is_encrypted:
            raise SettingsError(
                "Airflow has no Fernet key, and an upload URL must not be stored in clear: set [core] fernet_key"
                " (AIRFLOW__CORE__FERNET_KEY) to what `python -c 'from cryptography.fernet import Fernet;"
                " print(Fernet.generate_key().decode())'` prints"
            )
        grant = self.hook.create_operation(self.topic, str(self.part["model_id"]))
        state = {"operation_id": grant.operation_id, "fingerprint": self.fingerprint, "grant": seal(grant)}
        store.set(STATE, state)
        self.log.info("Opened operation %s for %s", grant.operation_id, self.part["uri"])
        return grant

    def _stored(self, store: Any) -> dict[str, str] | None:
        """What an earlier try stored for this very part, unless the run wants none of it."""
        state = store.get(STATE)
        wanted = state and state["fingerprint"] == self.fingerprint and not self.part.get("force_new")
        return state if wanted else None

    def _at(self, uri: str) -> Path | StoragePath:
        return storage_path(uri, self.storage_conn_id)

    def _status(self, operation_id: str) -> Operation | None:
        try:
            return self.hook.operation(self.topic, operation_id)
        except NotFoundError:
            return None


class CodingServiceCreateOperator(CodingServiceOperator):
    """Opens an operation for a part, or takes up the one that an earlier try opened.

    Returns the operation id. The upload grant goes to the upload step encrypted with Airflow's Fernet key.

    :raises SettingsError: Airflow has no Fernet key
    """

    def execute(self, context: Any) -> str:
        store = context["task_state_store"]
        state = self._stored(store)
        if state is not None and self._may_take_up(state["operation_id"]):
            self.log.info("Taking up operation %s of an earlier try", state["operation_id"])
        else:
            self._open(store)
            state = store.get(STATE)
        context["ti"].xcom_push(key=GRANT, value=state["grant"])
        return str(state["operation_id"])

    def _may_take_up(self, operation_id: str) -> bool:
        operation = self._status(operation_id)
        return operation is not None and operation.is_usable


class CodingServiceUploadOperator(CodingServiceOperator):
    """Sends the input file of a part, once, and returns the id of the operation that holds it.

    The status is asked first: an operation that has its input is left alone. If the grant has died, a new operation
    is opened, so the returned id may differ from `operation_id`: poll and download follow this one.

    :param operation_id: GUID that the create step returned
    :param grant: the encrypted grant that the create step pushed
    :raises GrantExpiredError: the grant of a newly opened operation is refused as well
    """

    template_fields: Sequence[str] = (*CodingServiceOperator.template_fields, "operation_id", "grant")

    def __init__(self, *, operation_id: str | XComArg, grant: str | XComArg, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.operation_id: Any = operation_id
        self.grant: Any = grant

    def execute(self, context: Any) -> str:
        store = context["task_state_store"]
        for grant in self._grants(store):
            operation = self._status(grant.operation_id)
            if operation is None or operation.status is OperationStatus.TIMED_OUT:
                continue
            if operation.status is not OperationStatus.AWAITING_INPUT:
                self.log.info("Operation %s is %s: it has its input", grant.operation_id, operation.status)
                return grant.operation_id
            try:
                return self._send(grant)
            except GrantExpiredError as error:
                self.log.warning("%s: opening a new operation", error)
        return self._send(self._open(store))

    def _grants(self, store: Any) -> Iterator[UploadGrant]:
        """The grant by which an earlier try of this task replaced a dead one, if that can deliver; the create's."""
        state = self._stored(store)
        if state is not None and state["operation_id"] != self.operation_id:
            operation = self._status(state["operation_id"])
            if operation is not None and operation.is_usable:
                yield unseal(state["grant"])
        yield unseal(self.grant)

    def _send(self, grant: UploadGrant) -> str:
        size = self.hook.upload(grant, self._at(self.part["uri"]), self.part["sha256"])
        self.log.info("Sent %s (%d bytes) to operation %s", self.part["uri"], size, grant.operation_id)
        return grant.operation_id


class CodingServiceDownloadOperator(CodingServiceOperator):
    """Brings output and metadata of a complete operation to staging, beside the input file of the part.

    Returns `operation_id`, `output` and `metadata` (URIs; metadata may be None), `bytes`, `sha256` and `records`
    (lines) of the output, and what it is the output of: `input` (URI) and `fingerprint`.

    :param operation_id: GUID that the upload step returned
    :raises OutputExpiredError: the files are deleted; the next run codes the texts of the part again
    """

    template_fields: Sequence[str] = (*CodingServiceOperator.template_fields, "operation_id")

    def __init__(self, *, operation_id: str | XComArg, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.operation_id: Any = operation_id

    def execute(self, context: Any) -> dict[str, Any]:
        place = f"{self.part['uri'].rpartition('/')[0]}/{self.operation_id}"
        files = {"output": f"{place}/output.jsonl", "metadata": f"{place}/metadata.json"}
        output, metadata = self.hook.download(
            self.topic, self.operation_id, self._at(files["output"]), self._at(files["metadata"])
        )
        self.log.info("Operation %s: %d lines, %d bytes", self.operation_id, output.lines, output.bytes)
        return {
            "operation_id": self.operation_id,
            "output": files["output"],
            "metadata": files["metadata"] if metadata else None,
            "bytes": output.bytes,
            "sha256": output.sha256,
            "records": output.lines,
            "input": self.part["uri"],
            "fingerprint": self.fingerprint,
        }


def seal(grant: UploadGrant) -> str:
    """Encrypt a grant with Airflow's Fernet key."""
    return get_fernet().encrypt(json.dumps(grant.as_dict()).encode()).decode()


def unseal(sealed: str) -> UploadGrant:
    """Decrypt a grant that :func:`seal` encrypted.

    :raises SettingsError: it was encrypted with another key
    """
    try:
        return UploadGrant(**json.loads(get_fernet().decrypt(sealed)))
    except InvalidToken:
        raise SettingsError(
            "the upload grant was encrypted with another Fernet key than this worker's: give all Airflow processes"
            " the same [core] fernet_key, then clear the create step"
        ) from None
