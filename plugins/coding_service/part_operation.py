"""The operation that codes one part: opened or resumed, given its input file once, and downloaded.

Whatever dies, the next attempt resumes the operation, because its id is stored as soon as it is opened.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

from airflow.sdk.crypto import get_fernet
from cryptography.fernet import InvalidToken

from coding_service.errors import GrantExpiredError, NotFoundError, SettingsError
from coding_service.hooks import CodingServiceHook
from coding_service.models import DownloadResult, Fingerprint, InputPart, Operation, OperationStatus, UploadGrant
from coding_service.storage import FilePath, storage_path

#: Default key in the store of the operation that was opened: its id, its fingerprint, its encrypted grant.
OPERATION_STATE_KEY = "operation"

log = logging.getLogger(__name__)


class PartOperation:
    """The operation that codes one part of the input.

    :param hook: calls the service
    :param part: the part to code
    :param store: keeps the operation for later attempts: Airflow's task state store, or anything with its `get` and
        `set`
    :param storage_conn_id: Airflow connection (aws) for `s3://`; None: the credentials that AWS finds on the machine
    :param state_key: key of the operation in the store
    """

    def __init__(
        self,
        hook: CodingServiceHook,
        part: InputPart,
        store: Any,
        storage_conn_id: str | None = None,
        state_key: str = OPERATION_STATE_KEY,
    ) -> None:
        self._hook, self._part, self._store = hook, part, store
        self._storage_conn_id, self._state_key = storage_conn_id, state_key

    def find_ended(self) -> str | None:
        """Return the id of the operation that an earlier attempt opened, if it has ended, whether or not it failed;
        None if there is none, or it has not ended. :meth:`open` would replace one that failed."""
        state = self._store.get(self._state_key)
        operation = None if state is None else self._find(state["operation_id"])
        return operation.operation_id if operation is not None and operation.status.is_terminal else None

    def open(self) -> tuple[str, str]:
        """Open an operation, or resume the one that an earlier attempt opened for the same part.

        :return: the id of the operation, and its upload grant, encrypted with Airflow's Fernet key
        :raises SettingsError: Airflow has no Fernet key
        """
        state = self._resumable_state()
        if state is not None:
            log.info("Resuming operation %s from an earlier attempt", state["operation_id"])
        else:
            self._open_new()
            state = self._store.get(self._state_key)
        return str(state["operation_id"]), str(state["grant"])

    def upload(self, operation_id: str, grant: str) -> str:
        """Send the input file once, and return the id of the operation that has it.

        The status is checked first, so an operation that already has its input is not sent another. If the grant has
        expired, a new operation is opened; the returned id can therefore differ from `operation_id`.

        :param operation_id, grant: what :meth:`open` returned, possibly in another task
        :raises GrantExpiredError: the grant of a new operation is refused as well
        """
        for candidate in self._candidate_grants(operation_id, grant):
            operation = self._find(candidate.operation_id)
            if operation is None or operation.status is OperationStatus.TIMED_OUT:
                continue
            if operation.status is not OperationStatus.AWAITING_INPUT:
                log.info("Operation %s is %s: it has its input", operation.operation_id, operation.status)
                return operation.operation_id
            try:
                return self._send_input(candidate)
            except GrantExpiredError as error:
                log.warning("%s: opening a new operation", error)
        return self._send_input(self._open_new())

    def download(self, operation_id: str) -> DownloadResult:
        """Download output and metadata file of a complete operation to a folder beside the input file of the part.

        :raises OutputExpiredError: the files have been deleted; the next run codes the texts of the part again
        """
        part = self._part
        folder = f"{part.input_uri.rpartition('/')[0]}/{operation_id}"
        output_uri, metadata_uri = f"{folder}/output.jsonl", f"{folder}/metadata.json"
        paths = self._path(output_uri), self._path(metadata_uri)
        output, metadata = self._hook.download(part.topic, operation_id, *paths)
        log.info("Operation %s: %d lines, %d bytes", operation_id, output.lines, output.bytes)
        return DownloadResult(
            operation_id=operation_id,
            input_uri=part.input_uri,
            output_uri=output_uri,
            metadata_uri=metadata_uri if metadata else None,
            bytes=output.bytes,
            sha256=output.sha256,
            records=output.lines,
            fingerprint=part.fingerprint,
        )

    def _open_new(self) -> UploadGrant:
        """Open a new operation and store its id at once, because the service cannot list operations."""
        cipher = get_fernet()
        if not cipher.is_encrypted:
            raise SettingsError(
                "Airflow has no Fernet key, and an upload URL must not be stored unencrypted: set [core] fernet_key"
                " (AIRFLOW__CORE__FERNET_KEY) to what `python -c 'from cryptography.fernet import Fernet;"
                " print(Fernet.generate_key().decode())'` prints"
            )
        part = self._part
        grant = self._hook.create_operation(part.topic, part.model_id)
        state = {"operation_id": grant.operation_id, "fingerprint": part.fingerprint.to_dict()}
        self._store.set(self._state_key, {**state, "grant": encrypt_grant(grant)})
        log.info("Opened operation %s for %s", grant.operation_id, part.input_uri)
        return grant

    def _resumable_state(self) -> dict[str, Any] | None:
        """Return the state that an earlier attempt stored for the same part, if its operation can still be used."""
        part, state = self._part, self._store.get(self._state_key)
        if state is None or part.force_new or Fingerprint.from_dict(state["fingerprint"]) != part.fingerprint:
            return None
        operation = self._find(state["operation_id"])
        return state if operation is not None and operation.is_usable else None

    def _candidate_grants(self, operation_id: str, grant: str) -> Iterator[UploadGrant]:
        """Yield the grant of the operation that an earlier upload opened, if any, then the given one."""
        state = self._resumable_state()
        if state is not None and state["operation_id"] != operation_id:
            yield decrypt_grant(state["grant"])
        yield decrypt_grant(grant)

    def _send_input(self, grant: UploadGrant) -> str:
        part = self._part
        size = self._hook.upload(grant, self._path(part.input_uri), part.sha256)
        log.info("Uploaded %s (%d bytes) to operation %s", part.input_uri, size, grant.operation_id)
        return grant.operation_id

    def _find(self, operation_id: str) -> Operation | None:
        try:
            return self._hook.operation(self._part.topic, operation_id)
        except NotFoundError:
            return None

    def _path(self, uri: str) -> FilePath:
        return storage_path(uri, self._storage_conn_id)


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
