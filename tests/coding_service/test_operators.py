"""The steps as tasks: despite crashes, an operation is opened once, uploaded to once and downloaded completely."""

import hashlib
import json

import pytest
from cryptography.fernet import Fernet

from coding_service import (
    CodingServiceCreateOperator,
    CodingServiceDownloadOperator,
    CodingServiceHook,
    CodingServiceRetryPolicy,
    CodingServiceUploadOperator,
)
from coding_service.errors import (
    CodingServiceError,
    GrantExpiredError,
    InputFileError,
    OperationFailedError,
    OutputExpiredError,
    OutputNotReadyError,
    RetryableError,
    ServiceUnavailableError,
    SettingsError,
    TransferError,
)
from coding_service.models import UploadGrant
from coding_service.operators import UPLOAD_GRANT_KEY
from coding_service.part_operation import OPERATION_STATE_KEY, decrypt_grant, encrypt_grant
from coding_service.storage import storage_path


@pytest.fixture
def part(connected, encrypted, input_file, clock):
    """A part of the input, as the preceding tasks pass it on."""
    return {
        "topic": "osca",
        "model_id": CodingServiceHook().latest_model("osca").model_id,
        "input_uri": input_file.as_uri(),
        "sha256": hashlib.sha256(input_file.read_bytes()).hexdigest(),
        "force_new": False,
    }


@pytest.fixture
def create(part, run):
    """Return a function that runs the create step; changes of the part as keywords."""

    def run_step(context, **changes):
        return run(CodingServiceCreateOperator(task_id="create", part={**part, **changes}), context)

    return run_step


@pytest.fixture
def upload(part, run):
    """Return a function that runs the upload step with the results of the create step in the first context."""

    def run_step(create_context, context, **changes):
        operator = CodingServiceUploadOperator(
            task_id="upload",
            part={**part, **changes},
            operation_id=create_context["task_state_store"].get(OPERATION_STATE_KEY)["operation_id"],
            grant=create_context["ti"].xcoms[UPLOAD_GRANT_KEY],
        )
        return run(operator, context)

    return run_step


@pytest.fixture
def download(part, run):
    """Return a function that runs the download step."""

    def run_step(operation_id, context):
        return run(CodingServiceDownloadOperator(task_id="download", part=part, operation_id=operation_id), context)

    return run_step


def attempts_until_success(step, clock):
    """Repeat a step as Airflow does, after the wait of its error; return its result and the errors."""
    errors = []
    while len(errors) < 10:
        try:
            return step(), errors
        except RetryableError as error:
            errors.append(error)
            clock.jump(error.retry_after or 30)
    raise AssertionError(errors)


def count_creations(remote):
    return len(remote.journal("POST", "/batch-code"))


def uploaded_operations(remote):
    return [entry["operation_id"] for entry in remote.journal("PUT") if entry["status"] == 200]


def wait_for(operation_id, state="complete"):
    while CodingServiceHook().operation("osca", operation_id).status != state:
        pass


# ---- create ------------------------------------------------------------------------------------------------------


def test_create_opens_an_operation_for_the_model_and_returns_its_id(connected, create, context, part):
    operation_id = create(context)
    [operation] = connected.operations()
    assert (operation["operation_id"], operation["model_id"]) == (operation_id, part["model_id"])
    assert context["task_state_store"].get(OPERATION_STATE_KEY)["operation_id"] == operation_id


def test_the_grant_is_pushed_and_stored_only_in_encrypted_form(create, context):
    operation_id = create(context)
    stored = context["task_state_store"].values[OPERATION_STATE_KEY]
    pushed = json.dumps(context["ti"].xcoms)
    for text in (stored, pushed):
        assert "http" not in text
        assert "arn:aws" not in text
        assert "X-Amz" not in text
    assert list(context["ti"].xcoms) == [UPLOAD_GRANT_KEY]
    grant = decrypt_grant(context["ti"].xcoms[UPLOAD_GRANT_KEY])
    assert grant.operation_id == operation_id
    assert grant.url.startswith("http")


def test_a_grant_is_encrypted_with_the_fernet_key_of_airflow(encrypted):
    grant = UploadGrant(
        "00000000-0000-4000-8000-000000000001", "https://s3/in?X-Amz-Signature=5ec4e7", "arn:aws:kms:x:1:key/k"
    )
    assert decrypt_grant(encrypt_grant(grant)) == grant
    assert "Signature" not in encrypt_grant(grant)


def test_without_a_fernet_key_no_operation_is_opened_and_the_error_says_how_to_set_one(
    connected, create, context, fernet_key
):
    fernet_key("")
    with pytest.raises(SettingsError, match=r"no Fernet key.*AIRFLOW__CORE__FERNET_KEY.*generate_key"):
        create(context)
    assert count_creations(connected) == 0


@pytest.mark.parametrize("progress", ["created", "uploaded", "complete"])
def test_a_retry_resumes_the_operation_of_an_earlier_attempt(
    connected, create, upload, new_context, context, progress
):
    operation_id = create(context)
    if progress != "created":
        upload(context, new_context())
    if progress == "complete":
        wait_for(operation_id)
    pushed = context["ti"].xcoms.pop(UPLOAD_GRANT_KEY)
    assert create(context) == operation_id
    assert context["ti"].xcoms[UPLOAD_GRANT_KEY] == pushed
    assert count_creations(connected) == 1


def test_an_operation_that_version_0_1_stored_is_resumed(connected, create, context, part):
    operation_id, store = create(context), context["task_state_store"]
    fingerprint = f"{part['topic']}/{part['model_id']}/{part['sha256']}"
    store.set(OPERATION_STATE_KEY, {**store.get(OPERATION_STATE_KEY), "fingerprint": fingerprint})
    assert create(context) == operation_id
    assert create(context, sha256="0" * 64) != operation_id
    assert count_creations(connected) == 2


def test_force_new_opens_a_new_operation_each_time(connected, create, context):
    assert create(context) != create(context, force_new=True)
    assert count_creations(connected) == 2


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"topic": "anzsco"}, {"model_id": "older"}])
def test_an_operation_for_another_file_topic_or_model_is_not_resumed(connected, create, context, change):
    if "topic" in change:
        change = {**change, "model_id": CodingServiceHook().latest_model("anzsco").model_id}
    elif "model_id" in change:
        change = {"model_id": CodingServiceHook().models("osca")[0].model_id}
    first = create(context)
    assert create(context, **change) != first
    assert count_creations(connected) == 2


def test_a_failed_operation_is_not_resumed(connected, create, upload, context, new_context):
    connected.fault("operation_fails")
    first = create(context)
    upload(context, new_context())
    wait_for(first, "failed")
    assert create(context) != first


def test_an_operation_that_timed_out_is_not_resumed(connected, create, context):
    first = create(context)
    connected.jump(3601)
    assert create(context) != first


def test_an_operation_whose_output_is_deleted_is_not_resumed(connected, create, upload, context, new_context, clock):
    first = create(context)
    upload(context, new_context())
    wait_for(first)
    connected.jump(86_401)
    clock.jump(86_401)
    second, errors = attempts_until_success(lambda: create(context), clock)
    assert second != first
    assert len(errors) == 2


def test_a_complete_operation_without_links_is_resumed_while_its_output_cannot_have_been_deleted(
    connected, create, upload, context, new_context
):
    first = create(context)
    upload(context, new_context())
    wait_for(first)
    connected.fault("missing_links", count=100)
    assert create(context) == first
    assert count_creations(connected) == 1


def test_an_operation_that_is_not_found_for_minutes_is_not_resumed(connected, create, context, clock):
    first = create(context)
    connected.knob("POST", "reset")
    second, errors = attempts_until_success(lambda: create(context), clock)
    assert second != first
    assert [type(error) for error in errors] == [ServiceUnavailableError] * 2
    assert count_creations(connected) == 1


@pytest.mark.parametrize("count", [1, 3, 7])
def test_an_operation_that_is_not_found_for_a_while_is_resumed_and_no_other_is_opened(
    connected, create, context, clock, count
):
    first = create(context)
    connected.fault("hidden_operation", count=count)
    second, errors = attempts_until_success(lambda: create(context), clock)
    assert (second, count_creations(connected)) == (first, 1)
    assert all("is not visible yet" in str(error) for error in errors)
    assert len(errors) == count // 4


def test_an_attempt_holds_its_worker_for_less_than_a_minute(connected, create, context, clock):
    create(context)
    connected.fault("hidden_operation", count=100)
    with pytest.raises(ServiceUnavailableError, match=r"not visible yet: 4 status calls .* over 35 s") as caught:
        create(context)
    assert (clock.pauses, caught.value.retry_after) == ([5.0, 10.0, 20.0], 120.0)


def test_answers_that_find_an_operation_now_and_then_never_add_up_to_its_absence(connected, create, context, clock):
    first = create(context)
    for _ in range(8):
        connected.fault("hidden_operation", count=3)
        assert create(context) == first
        clock.jump(100)
    assert count_creations(connected) == 1


def test_a_failed_status_call_does_not_open_a_second_operation(connected, create, context):
    create(context)
    connected.fault("server_error", path_contains="/operations/")
    with pytest.raises(ServiceUnavailableError):
        create(context)
    assert count_creations(connected) == 1


def test_a_new_operation_replaces_the_stored_one(create, context):
    create(context)
    second = create(context, force_new=True)
    assert context["task_state_store"].get(OPERATION_STATE_KEY)["operation_id"] == second
    assert decrypt_grant(context["ti"].xcoms[UPLOAD_GRANT_KEY]).operation_id == second


# ---- upload ------------------------------------------------------------------------------------------------------


def test_upload_sends_the_file_and_returns_its_operation(connected, create, upload, context, new_context):
    operation_id = create(context)
    assert upload(context, new_context()) == operation_id
    assert uploaded_operations(connected) == [operation_id]
    wait_for(operation_id)


def test_upload_checks_the_status_before_it_sends(connected, create, upload, context, new_context):
    operation_id = create(context)
    upload(context, new_context())
    methods = [entry["method"] for entry in connected.journal() if operation_id in entry["path"]]
    assert methods == ["GET", "PUT"]


@pytest.mark.parametrize("state", ["in_progress", "complete", "failed"])
def test_a_file_that_has_arrived_is_not_sent_again_after_a_crash(
    connected, create, upload, context, new_context, input_file, state
):
    if state == "in_progress":
        connected.progression("by_polls", polls=50)
    if state == "failed":
        connected.fault("operation_fails")
    operation_id = create(context)
    CodingServiceHook().upload(decrypt_grant(context["ti"].xcoms[UPLOAD_GRANT_KEY]), input_file)
    wait_for(operation_id, state)
    assert upload(context, new_context()) == operation_id
    assert uploaded_operations(connected) == [operation_id]
    assert count_creations(connected) == 1


def test_an_interrupted_upload_is_repeated_for_the_same_operation(connected, create, upload, context, new_context):
    connected.fault("reset_upload")
    operation_id, upload_context = create(context), new_context()
    with pytest.raises(TransferError):
        upload(context, upload_context)
    assert upload(context, upload_context) == operation_id
    assert uploaded_operations(connected) == [operation_id]
    assert count_creations(connected) == 1


def test_an_expired_grant_opens_a_new_operation_and_uploads_to_it(connected, create, upload, context, new_context):
    connected.fault("expired_upload")
    first, upload_context = create(context), new_context()
    second = upload(context, upload_context)
    assert second != first
    assert uploaded_operations(connected) == [second]
    state = upload_context["task_state_store"].get(OPERATION_STATE_KEY)
    assert state["operation_id"] == second
    assert "http" not in json.dumps(state)
    assert upload_context["ti"].xcoms == {}


def test_a_grant_that_expired_while_the_task_waited_opens_a_new_operation(
    connected, create, upload, context, new_context
):
    first = create(context)
    connected.jump(16 * 60)
    second = upload(context, new_context())
    assert second != first
    assert uploaded_operations(connected) == [second]


def test_an_operation_that_timed_out_before_the_upload_is_replaced(connected, create, upload, context, new_context):
    first = create(context)
    connected.jump(3601)
    second = upload(context, new_context())
    assert second != first
    assert uploaded_operations(connected) == [second]


def test_the_next_attempt_resumes_the_replacement_operation(connected, create, upload, context, new_context):
    connected.fault("expired_upload")
    connected.fault("reset_upload")
    create(context)
    upload_context = new_context()
    with pytest.raises(TransferError):  # the upload to the second operation is interrupted
        upload(context, upload_context)
    second = upload_context["task_state_store"].get(OPERATION_STATE_KEY)["operation_id"]
    assert upload(context, upload_context) == second
    assert upload(context, upload_context) == second
    assert uploaded_operations(connected) == [second]
    assert count_creations(connected) == 2


def test_a_usable_replacement_is_resumed_when_all_tasks_of_the_part_are_cleared(
    connected, create, upload, context, new_context
):
    connected.fault("expired_upload")
    upload_context = new_context()
    create(context)
    replacement = upload(context, upload_context)
    connected.jump(3601)  # the replaced operation has timed out by now, so create opens another
    assert create(context) != replacement
    assert upload(context, upload_context) == replacement
    assert uploaded_operations(connected) == [replacement]


def test_force_new_also_ignores_the_replacement_operation_of_the_upload(
    connected, create, upload, context, new_context
):
    connected.fault("expired_upload")
    upload_context = new_context()
    create(context)
    replacement = upload(context, upload_context)
    later = create(context, force_new=True)
    assert upload(context, upload_context, force_new=True) == later
    assert uploaded_operations(connected) == [replacement, later]


def test_a_grant_encrypted_with_another_fernet_key_is_refused_with_instructions(
    create, upload, context, new_context, fernet_key
):
    create(context)
    fernet_key(Fernet.generate_key().decode())
    with pytest.raises(SettingsError, match=r"another Fernet key.*same \[core\] fernet_key"):
        upload(context, new_context())


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x", lambda data: data.swapcase()])
def test_a_file_that_changed_since_it_was_prepared_is_not_sent(
    connected, create, upload, context, new_context, input_file, change
):
    operation_id = create(context)
    input_file.write_bytes(change(input_file.read_bytes()))
    with pytest.raises(InputFileError, match=r"part-0.jsonl has changed since it was prepared; prepare it again"):
        upload(context, new_context())
    assert uploaded_operations(connected) == []
    assert CodingServiceHook().operation("osca", operation_id).status == "awaiting_input"


def test_a_second_expired_grant_fails_the_task(connected, create, upload, context, new_context):
    connected.fault("expired_upload", count=2)
    create(context)
    with pytest.raises(GrantExpiredError):
        upload(context, new_context())
    assert count_creations(connected) == 2


def test_an_operation_that_is_not_found_for_minutes_is_replaced(
    connected, create, upload, context, new_context, clock
):
    first, upload_context = create(context), new_context()
    connected.knob("POST", "reset")
    second, errors = attempts_until_success(lambda: upload(context, upload_context), clock)
    assert second != first
    assert len(errors) == 2
    assert uploaded_operations(connected) == [second]


def test_a_new_operation_that_is_not_found_at_first_receives_the_file(
    connected, create, upload, context, new_context
):
    first = create(context)
    connected.fault("hidden_operation", count=3)
    assert upload(context, new_context()) == first
    assert uploaded_operations(connected) == [first]
    assert count_creations(connected) == 1


def test_a_file_that_may_have_arrived_is_sent_to_no_other_operation_while_the_first_is_not_found(
    connected, create, upload, context, new_context, clock, input_file
):
    first, upload_context = create(context), new_context()
    CodingServiceHook().upload(decrypt_grant(context["ti"].xcoms[UPLOAD_GRANT_KEY]), input_file)
    connected.fault("hidden_operation", count=6)
    result, errors = attempts_until_success(lambda: upload(context, upload_context), clock)
    assert (result, len(errors)) == (first, 1)
    assert uploaded_operations(connected) == [first]
    assert count_creations(connected) == 1


# ---- refused and interrupted uploads (docs/service-contract.md 10.3 to 10.5) --------------------------------------


@pytest.mark.parametrize("code", ["ExpiredToken", "TokenRefreshRequired", "InvalidToken", "RequestExpired"])
def test_a_grant_whose_signer_has_gone_is_replaced(connected, create, upload, context, new_context, code):
    connected.fault("storage_error", code=code, method="PUT")
    first = create(context)
    second = upload(context, new_context())
    assert second != first
    assert uploaded_operations(connected) == [second]
    assert count_creations(connected) == 2


@pytest.mark.parametrize(
    "code",
    [
        *["RequestTimeout", "OperationAborted", "SlowDown", "InternalError", "BadDigest", "IncompleteBody"],
        *["ServiceUnavailable", "RequestTimeTooSkewed", "ThrottlingException"],
    ],
)
def test_a_refusal_that_passes_is_repeated_for_the_same_operation(
    connected, create, upload, context, new_context, clock, code
):
    connected.fault("storage_error", code=code, method="PUT", count=3)
    first, upload_context = create(context), new_context()
    result, errors = attempts_until_success(lambda: upload(context, upload_context), clock)
    assert (result, len(errors)) == (first, 3)
    assert uploaded_operations(connected) == [first]
    assert count_creations(connected) == 1


def test_a_grant_that_has_expired_by_its_own_date_is_replaced_without_an_upload(
    connected, create, upload, context, new_context, clock
):
    first = create(context)
    clock.jump(15 * 60)
    second = upload(context, new_context())
    assert second != first
    assert [entry["operation_id"] for entry in connected.journal("PUT")] == [second]


def test_uploads_that_break_off_replace_the_grant_once(connected, create, upload, context, new_context, clock):
    connected.fault("reset_upload", count=5, after=0)
    first, upload_context = create(context), new_context()
    second, errors = attempts_until_success(lambda: upload(context, upload_context), clock)
    attempts = [entry["operation_id"] for entry in connected.journal("PUT")]
    assert attempts == [first] * 2 + [second] * 4
    assert uploaded_operations(connected) == [second]
    assert count_creations(connected) == 2
    assert sum("its input may have arrived" in str(error) for error in errors) == 1


def test_a_file_that_arrived_although_the_connection_broke_is_sent_to_no_other_operation(
    connected, create, upload, context, new_context, clock, input_file
):
    """The status shows the input only after minutes, and the grant has expired by then."""
    connected.fault("late_status", polls=1)
    connected.fault("reset_upload", count=1)
    first, upload_context = create(context), new_context()
    with pytest.raises(TransferError):
        upload(context, upload_context)
    CodingServiceHook().upload(decrypt_grant(context["ti"].xcoms[UPLOAD_GRANT_KEY]), input_file)
    connected.fault("expired_upload", count=100)
    result, errors = attempts_until_success(lambda: upload(context, upload_context), clock)
    assert result == first
    assert {type(error) for error in errors} == {TransferError}
    assert uploaded_operations(connected) == [first]
    assert count_creations(connected) == 1


def test_a_storage_that_cannot_be_reached_replaces_no_grant(
    connected, create, upload, context, new_context, clock, serve
):
    server = serve(lambda request, reply: reply(200))
    server.stop()
    create(context)
    grant = decrypt_grant(context["ti"].xcoms[UPLOAD_GRANT_KEY])
    unreachable = UploadGrant(grant.operation_id, f"{server.url}/in?{grant.url.partition('?')[2]}", grant.kms_key_arn)
    context["ti"].xcoms[UPLOAD_GRANT_KEY] = encrypt_grant(unreachable)
    upload_context = new_context()
    for _ in range(4):
        with pytest.raises(TransferError, match="was interrupted: ConnectionError"):
            upload(context, upload_context)
    assert count_creations(connected) == 1


def test_a_missing_file_is_not_sent(connected, create, upload, context, new_context, input_file):
    create(context)
    input_file.unlink()
    with pytest.raises(InputFileError, match=r"part-0.jsonl does not exist"):
        upload(context, new_context())
    assert count_creations(connected) == 1


# ---- download ----------------------------------------------------------------------------------------------------


@pytest.fixture
def complete(connected, create, upload, context, new_context):
    """The id of a complete operation."""
    create(context)
    operation_id = upload(context, new_context())
    wait_for(operation_id)
    return operation_id


def test_download_writes_both_files_to_a_folder_beside_the_part(complete, download, context, input_file):
    result = download(complete, context)
    output, metadata = storage_path(result["output_uri"]), storage_path(result["metadata_uri"])
    assert output == input_file.parent / complete / "output.jsonl"
    assert (result["operation_id"], result["records"], result["bytes"]) == (complete, 3, output.stat().st_size)
    assert result["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    assert json.loads(metadata.read_text())["records"] == 3
    assert json.loads(json.dumps(result)) == result
    assert "X-Amz" not in json.dumps(result)


def test_an_interrupted_download_is_resumed_by_the_next_attempt(connected, complete, download, context):
    connected.fault("cut_download", path_contains=".jsonl", after=100)
    connected.fault("server_error", path_contains="/operations/", skip=1)
    with pytest.raises(
        ServiceUnavailableError
    ):  # the interrupted download requests a fresh link, which the service refuses
        download(complete, context)
    assert download(complete, context)["records"] == 3
    sent = connected.journal("GET", "/output/")
    assert [one["status"] for one in sent if one["path"].endswith(".jsonl")] == [200, 206]


def test_a_download_can_be_repeated(complete, download, context):
    assert download(complete, context) == download(complete, context)


def test_output_without_metadata_is_downloaded(connected, complete, download, context):
    connected.fault("expired_link", path_contains="metadata", count=3)
    result = download(complete, context)
    assert (result["metadata_uri"], result["records"]) == (None, 3)


@pytest.fixture
def ended(part, run, clock):
    """Return a function that runs the download step with the time at which the wait saw the end."""

    def run_step(operation_id, context, seconds_ago):
        outcome = {"operation_id": operation_id, "ended_at": clock.now() - seconds_ago}
        operator = CodingServiceDownloadOperator(
            task_id="download", part=part, operation_id=operation_id, outcome=outcome
        )
        return run(operator, context)

    return run_step


def test_a_deleted_output_raises_its_own_error_a_day_after_the_wait_saw_the_end(connected, complete, ended, context):
    connected.jump(86_401)
    with pytest.raises(OutputNotReadyError, match="cannot have been deleted before"):
        ended(complete, context, 80_000)
    with pytest.raises(OutputExpiredError, match=f"output of operation '{complete}' was deleted"):
        ended(complete, context, 86_401)


def test_without_that_time_an_output_counts_as_deleted_a_day_after_the_first_attempt(
    connected, complete, download, context, clock
):
    connected.jump(86_401)
    waits = []
    for pause in (60, 120, 600, 3600):
        with pytest.raises(OutputNotReadyError) as caught:
            download(complete, context)
        waits.append(caught.value.retry_after)
        clock.jump(pause)
    assert (waits[0], waits[-1], waits == sorted(waits)) == (60, pytest.approx(885, abs=20), True)
    clock.jump(82_100)
    with pytest.raises(OutputExpiredError):
        download(complete, context)


@pytest.mark.parametrize("count", [1, 3, 9])
def test_links_that_are_missing_at_first_are_asked_for_again(connected, complete, download, context, clock, count):
    connected.fault("missing_links", count=count)
    result, errors = attempts_until_success(lambda: download(complete, context), clock)
    assert (result["records"], len(errors)) == (3, count // 4)
    assert max(clock.pauses) <= 20
    assert [one["status"] for one in connected.journal("GET", "/output/")] == [200, 200]


@pytest.mark.parametrize("code", ["NoSuchKey", "ExpiredToken", "SlowDown", "AccessDenied"])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_fresh_link_that_does_not_work_yet_is_replaced_for_hours(
    connected, complete, download, context, clock, code, count
):
    connected.fault("storage_error", code=code, method="GET", path_contains=".jsonl", count=count)
    result, errors = attempts_until_success(lambda: download(complete, context), clock)
    assert (result["records"], len(errors)) == (3, count // 3)
    assert count_creations(connected) == 1


@pytest.mark.parametrize("count", [1, 5])
def test_a_complete_operation_that_is_not_found_for_a_while_is_downloaded(
    connected, complete, download, context, clock, count
):
    connected.fault("hidden_operation", count=count)
    result, errors = attempts_until_success(lambda: download(complete, context), clock)
    assert (result["records"], len(errors)) == (3, count)


@pytest.mark.parametrize("fault", ["chunked_download", "closed_download", "gzip_download"])
def test_an_output_without_a_length_or_compressed_is_downloaded(
    connected, complete, download, new_context, input_file, fault
):
    plain = download(complete, new_context())
    connected.fault(fault, count=2)
    assert download(complete, new_context()) == plain


def test_an_output_that_lacks_lines_without_any_sign_is_downloaded_again(connected, complete, part, run, new_context):
    step = CodingServiceDownloadOperator(task_id="download", part={**part, "records": 3}, operation_id=complete)
    plain = run(step, new_context())
    content = storage_path(plain["output_uri"]).read_bytes()
    connected.fault("closed_download", after=content.index(b"\n") + 1)
    assert run(step, new_context()) == plain
    assert storage_path(plain["output_uri"]).read_bytes() == content


def test_an_operation_that_is_not_complete_yet_is_downloaded_later(create, download, context):
    with pytest.raises(ServiceUnavailableError, match="'awaiting_input': it has no output yet"):
        download(create(context), context)


def test_an_operation_without_output_fails_the_download(connected, create, download, context):
    operation_id = create(context)
    connected.jump(3601)
    with pytest.raises(OperationFailedError, match="'timed_out': it has no output"):
        download(operation_id, context)


# ---- all steps ---------------------------------------------------------------------------------------------------


def test_every_step_has_our_retry_policy_by_default():
    part = {"topic": "osca"}
    steps = [
        CodingServiceCreateOperator(task_id="create", part=part),
        CodingServiceUploadOperator(
            task_id="upload", part=part, operation_id="00000000-0000-4000-8000-000000000001", grant="x"
        ),
        CodingServiceDownloadOperator(
            task_id="download", part=part, operation_id="00000000-0000-4000-8000-000000000001"
        ),
    ]
    assert all(isinstance(step.retry_policy, CodingServiceRetryPolicy) for step in steps)
    for step in steps:
        assert {"part", "coding_service_conn_id"} <= set(step.template_fields)
    other = CodingServiceRetryPolicy(final=(ValueError,))
    assert CodingServiceCreateOperator(task_id="create", part=part, retry_policy=other).retry_policy is other


def test_another_connection_can_be_used(remote, connect, encrypted, part, run, context, monkeypatch):
    monkeypatch.delenv("AIRFLOW_CONN_CODING_SERVICE_DEFAULT")
    connect(remote.url, conn_id="other_coding")
    run(CodingServiceCreateOperator(task_id="create", part=part, coding_service_conn_id="other_coding"), context)
    assert count_creations(remote) == 1


def test_no_error_of_any_step_contains_a_link(connected, create, upload, download, context, new_context):
    connected.fault("expired_upload", count=2)
    operation_id = create(context)
    messages = []
    for step in (lambda: upload(context, new_context()), lambda: download(operation_id, new_context())):
        with pytest.raises(CodingServiceError) as caught:
            step()
        messages.append(f"{caught.value} {caught.value!r}")
    assert "X-Amz" not in " ".join(messages)
