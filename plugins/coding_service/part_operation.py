"""The operation that codes one part: opened or resumed, given its input file once, and downloaded.

Whatever dies, the next attempt resumes the operation, because its id is stored as soon as it is opened.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from airflow.sdk.crypto import get_fernet
from airflow.sdk.exceptions import AirflowTaskTimeout
from cryptography.fernet import InvalidToken

from coding_service.errors import (
    CodingServiceError,
    GrantExpiredError,
    NotFoundError,
    OutputExpiredError,
    OutputNotReadyError,
    ServiceUnavailableError,
    SettingsError,
    TransferError,
    UploadInterruptedError,
    utc,
)
from coding_service.hooks import CodingServiceHook
from coding_service.models import (
    DictMixin,
    DownloadResult,
    Fingerprint,
    InputPart,
    Operation,
    OperationStatus,
    UploadGrant,
)
from coding_service.polling import MIN_NOT_FOUND_SPAN_S, is_gone
from coding_service.storage import STORAGE_ERRORS, FilePath, file_size, storage_path

#: Default key in the store of the operation that was opened: its id, its fingerprint, its encrypted grant.
OPERATION_STATE_KEY = "operation"

#: Pauses between status calls for an operation that is not found; then the attempt ends, and with it the use of a
#: worker. The next attempt begins after the wait.
NOT_FOUND_PAUSES_S, NOT_FOUND_WAIT_S = (5.0, 10.0, 20.0), 120.0
#: After this many uploads that broke off, the grant is replaced once (docs/service-contract.md 10.5).
MAX_INTERRUPTIONS = 2
#: Output files are deleted at most this time after the operation succeeded (docs/service-contract.md 2.10).
OUTPUT_LIFETIME_S = 86400.0
#: Waits until the next attempt to download from a complete operation without files grow from the one to the other.
MIN_OUTPUT_WAIT_S, MAX_OUTPUT_WAIT_S = 60.0, 900.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OperationHistory(DictMixin):
    """What the attempts of one task have seen of an operation. Times are in seconds since the epoch.

    :param not_found_count, not_found_since: number of status calls in a row that did not find it, and time of the
        first of them
    :param interruptions, interrupted_at: number of uploads to it that broke off, and time of the last of them
    :param input_sha256: hash of the input file that was sent to it, or may have been; None: none was
    :param output_missing_since: time of the first attempt that did not find its files
    """

    not_found_count: int = 0
    not_found_since: float | None = None
    interruptions: int = 0
    interrupted_at: float | None = None
    input_sha256: str | None = None
    output_missing_since: float | None = None


class PartOperation:
    """The operation that codes one part of the input.

    :param hook: calls the service
    :param part: the part to code
    :param store: keeps the operation for later attempts: Airflow's task state store, or anything with its `get` and
        `set`
    :param storage_conn_id: Airflow connection (aws) for `s3://`; None: the credentials that AWS finds on the machine
    :param state_key: key of the operation in the store
    :param labels: if there are any, each operation that is opened is recorded with them in a file beside the input
        file, `operation-<id>.json`: then it can be found even if the store is gone, since the service cannot list
        operations
    """

    def __init__(
        self,
        hook: CodingServiceHook,
        part: InputPart,
        store: Any,
        storage_conn_id: str | None = None,
        state_key: str = OPERATION_STATE_KEY,
        labels: Mapping[str, Any] | None = None,
    ) -> None:
        self._hook, self._part, self._store = hook, part, store
        self._storage_conn_id, self._state_key, self._history_key = storage_conn_id, state_key, f"{state_key}_history"
        self._clock, self._labels = hook.clock, labels

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

        The status is checked first, so an operation that already has its input is not sent another. A new operation
        is opened only when the first one cannot have the input: it has timed out or is gone, or it still awaits its
        input and its grant has expired, or uploads to it break off, or this task sent it another content of the file
        earlier. The returned id can therefore differ from `operation_id`.

        :param operation_id, grant: what :meth:`open` returned, possibly in another task
        :raises GrantExpiredError: the grant of a new operation is refused as well
        :raises TransferError: the upload failed; the next attempt asks for the status first
        :raises ServiceUnavailableError: the service does not show the operation, or not yet
        """
        replaced = None
        for candidate in self._candidate_grants(operation_id, grant):
            operation = self._find(candidate.operation_id)
            if operation is None or operation.status is OperationStatus.TIMED_OUT:
                continue
            if operation.status is not OperationStatus.AWAITING_INPUT:
                if self._has_other_input(operation.operation_id):
                    log.warning("The input file has changed since operation %s received it", operation.operation_id)
                    continue
                log.info("Operation %s is %s: it has its input", operation.operation_id, operation.status)
                return operation.operation_id
            if not self._must_replace(candidate):
                try:
                    return self._send_input(candidate)
                except GrantExpiredError as error:
                    log.warning("%s: opening a new operation", error)
            self._check_input_is_missing(candidate.operation_id)
            replaced = candidate.operation_id
        return self._send_input(self._open_new(replaced, decrypt_grant(grant).model_id))

    def download(
        self,
        operation_id: str,
        ended_at: float | None = None,
        output_uri: str | None = None,
        metadata_uri: str | None = None,
    ) -> DownloadResult:
        """Download output and metadata file of a complete operation.

        :param ended_at: when the operation was seen to be complete, in seconds since the epoch; None: at the first
            attempt of this task that does not find its files
        :param output_uri: where the output file is written; None: both files are written to a folder beside the input
            file of the part
        :param metadata_uri: where the metadata file is written; None: it is not downloaded
        :raises OutputNotReadyError: its links or files are missing, but cannot have been deleted yet
        :raises OutputExpiredError: the files have been deleted; the next run codes the texts of the part again
        """
        part = self._part
        if output_uri is None:
            folder = f"{part.input_uri.rpartition('/')[0]}/{operation_id}"
            output_uri, metadata_uri = f"{folder}/output.jsonl", f"{folder}/metadata.json"
        paths = self._path(output_uri), None if metadata_uri is None else self._path(metadata_uri)
        try:
            output, metadata = self._hook.download(
                part.topic, operation_id, *paths, part.records, self._input_bytes()
            )
        except (OutputNotReadyError, NotFoundError) as error:
            raise self._missing_output_error(operation_id, ended_at, error) from None
        sizes = f"{output.lines:,} lines, {output.bytes:,} bytes"
        log.info("Downloaded the output of operation %s: %s", operation_id, sizes)
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

    def _open_new(self, replaced: str | None = None, model_id: str | None = None) -> UploadGrant:
        """Open a new operation and store its id at once, because the service cannot list operations.

        :param replaced: the operation whose upload did not succeed, which the new one replaces
        :param model_id: the model, if the part does not name it
        """
        cipher = get_fernet()
        if not cipher.is_encrypted:
            raise SettingsError(
                "Airflow has no Fernet key, and an upload URL must not be stored unencrypted: set [core] fernet_key"
                " (AIRFLOW__CORE__FERNET_KEY) to what `python -c 'from cryptography.fernet import Fernet;"
                " print(Fernet.generate_key().decode())'` prints"
            )
        part = self._part
        grant = self._hook.create_operation(part.topic, part.model_id or model_id)
        state = {
            "operation_id": grant.operation_id,
            "fingerprint": part.fingerprint.to_dict(),
            "grant": encrypt_grant(grant),
            "records": part.records,
            "opened_at": self._clock.now(),
            "replaces": replaced,
        }
        try:
            self._store.set(self._state_key, state)
        finally:  # if Airflow stops the task here, the next attempt opens another operation
            self._write_record(grant.operation_id, is_sent=False)
        log.info("Opened operation %s for %s", grant.operation_id, part.input_uri or f"topic {part.topic}")
        return grant

    def _resumable_state(self) -> dict[str, Any] | None:
        """Return the state that an earlier attempt stored for the same part, if its operation can still be used."""
        part, state = self._part, self._store.get(self._state_key)
        if state is None or part.force_new or Fingerprint.from_dict(state["fingerprint"]) != part.fingerprint:
            return None
        age = self._clock.now() - state.get("opened_at", 0.0)
        operation = self._find(state["operation_id"], is_output_old=age >= OUTPUT_LIFETIME_S)
        if operation is None or (operation.status.is_terminal and not operation.status.is_successful):
            return None
        return cast("dict[str, Any]", state)

    def _candidate_grants(self, operation_id: str, grant: str) -> Iterator[UploadGrant]:
        """Yield the grant of the operation that an earlier upload opened, if any, then the given one."""
        state = self._resumable_state()
        if state is not None and state["operation_id"] != operation_id:
            yield decrypt_grant(state["grant"])
        yield decrypt_grant(grant)

    def _find(self, operation_id: str, *, is_output_old: bool = False) -> Operation | None:
        """Return the state of an operation that we opened; None once it is gone (docs/service-contract.md 10.1).

        :param is_output_old: whether its output can have been deleted by now. If so, a complete operation without
            links is judged like one that is not found (docs/service-contract.md 10.2)
        :raises ServiceUnavailableError: it is not found, which can be because the service's answers lag behind
        """
        pauses = iter(NOT_FOUND_PAUSES_S)
        while True:
            try:
                operation = self._hook.operation(self._part.topic, operation_id)
            except NotFoundError:
                operation = None
            history = self._history(operation_id)
            if operation is not None and not (is_output_old and operation.lacks_output):
                if history.not_found_count:
                    self._save_history(operation_id, replace(history, not_found_count=0, not_found_since=None))
                return operation
            now = self._clock.now()
            since = now if history.not_found_since is None else history.not_found_since
            history = replace(history, not_found_count=history.not_found_count + 1, not_found_since=since)
            self._save_history(operation_id, history)
            if is_gone(history.not_found_count, now - since):
                log.warning("Operation %s is gone: it was not found for %.0f s", operation_id, now - since)
                return None
            if (pause := next(pauses, None)) is None:
                raise ServiceUnavailableError(
                    f"operation {operation_id!r} is not visible yet: {history.not_found_count} status calls in a row"
                    f" did not show it, over {now - since:.0f} s; the next attempt asks again, and opens no other",
                    retry_after=NOT_FOUND_WAIT_S,
                )
            log.info("Operation %s is not found; asking again in %.0f s", operation_id, pause)
            self._clock.sleep(pause)

    def _has_other_input(self, operation_id: str) -> bool:
        """Return whether this task sent another content of the input file to an operation."""
        return self._history(operation_id).input_sha256 not in (None, self._part.sha256)

    def _must_replace(self, grant: UploadGrant) -> bool:
        """Return whether another upload with this grant would be useless (docs/service-contract.md 10.5)."""
        if grant.expiry_time is not None and self._clock.now() >= grant.expiry_time:
            log.warning("The upload grant of operation %s has expired: opening a new operation", grant.operation_id)
            return True
        if self._history(grant.operation_id).interruptions < MAX_INTERRUPTIONS:
            return False
        state = self._store.get(self._state_key) or {}
        if state.get("operation_id") == grant.operation_id and state.get("replaces"):
            return False  # a grant is replaced once: if its replacement fares no better, the grant is not the cause
        log.warning("Uploads to operation %s break off: opening a new operation, once", grant.operation_id)
        return True

    def _check_input_is_missing(self, operation_id: str) -> None:
        """Check that an operation that awaits its input cannot have received it, even if the status lags behind.

        :raises TransferError: an upload to it broke off too recently to know
        """
        interrupted_at = self._history(operation_id).interrupted_at
        if interrupted_at is None:
            return
        wait = interrupted_at + MIN_NOT_FOUND_SPAN_S - self._clock.now()
        if wait > 0:
            raise TransferError(
                f"an upload to operation {operation_id!r} broke off, and its input may have arrived: its status is"
                f" asked again in {wait:.0f} s, before another operation is opened",
                retry_after=wait,
            )

    def _send_input(self, grant: UploadGrant) -> str:
        part, history = self._part, self._history(grant.operation_id)
        if history.input_sha256 != part.sha256:
            self._save_history(grant.operation_id, replace(history, input_sha256=part.sha256))
        self._write_record(grant.operation_id, is_sent=True)
        try:
            size = self._hook.upload(grant, self._path(part.input_uri), part.sha256)
        except GrantExpiredError:
            self._write_record(grant.operation_id, is_sent=False)
            raise
        except (UploadInterruptedError, AirflowTaskTimeout):
            history = self._history(grant.operation_id)
            history = replace(history, interruptions=history.interruptions + 1, interrupted_at=self._clock.now())
            self._save_history(grant.operation_id, history)
            raise
        log.info("Uploaded %s (%s bytes) to operation %s", part.input_uri, f"{size:,}", grant.operation_id)
        return grant.operation_id

    def _write_record(self, operation_id: str, *, is_sent: bool) -> None:
        """Write the file about an operation. If that fails, the operation continues without it.

        :param is_sent: whether its input was sent, or may have been
        """
        if self._labels is None:
            return
        part = self._part
        fields = {"topic": part.topic, "model_id": part.model_id, "records": part.records, "is_sent": is_sent}
        record = json.dumps({"operation_id": operation_id, **self._labels, **fields}).encode()
        path = self._path(f"{part.input_uri.rpartition('/')[0]}/operation-{operation_id}.json")
        try:
            path.write_bytes(record) if isinstance(path, Path) else path.fs.pipe_file(path.path, record)
        except STORAGE_ERRORS as error:
            log.warning("Operation %s is not recorded in %s (%s)", operation_id, path, type(error).__name__)

    def _missing_output_error(
        self, operation_id: str, ended_at: float | None, error: CodingServiceError
    ) -> CodingServiceError:
        """Return the error for a complete operation without files: deleted, or not there yet."""
        now, history = self._clock.now(), self._history(operation_id)
        if history.output_missing_since is None:
            history = replace(history, output_missing_since=now)
            self._save_history(operation_id, history)
        since = history.output_missing_since or now
        age = now - (since if ended_at is None else ended_at)
        if age >= OUTPUT_LIFETIME_S:
            return OutputExpiredError(
                f"the output of operation {operation_id!r} was deleted ({error}): code its texts again",
                status_code=error.status_code,
            )
        wait = min(max(MIN_OUTPUT_WAIT_S, now - since), MAX_OUTPUT_WAIT_S)
        return OutputNotReadyError(
            f"{error}: the next attempt asks again, because it cannot have been deleted before"
            f" {utc(now - age + OUTPUT_LIFETIME_S)}",
            status_code=error.status_code,
            retry_after=wait,
        )

    def _history(self, operation_id: str) -> OperationHistory:
        return OperationHistory.from_dict((self._store.get(self._history_key) or {}).get(operation_id, {}))

    def _save_history(self, operation_id: str, history: OperationHistory) -> None:
        histories = self._store.get(self._history_key) or {}
        self._store.set(self._history_key, {**histories, operation_id: history.to_dict()})

    def _input_bytes(self) -> int | None:
        """Return the size of the input file; None if it cannot be read, which must not cost the output."""
        if not self._part.input_uri:
            return None
        try:
            return file_size(self._path(self._part.input_uri))
        except STORAGE_ERRORS:
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
