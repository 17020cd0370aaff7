"""The operators in somebody else's DAG: one task that codes a file, or four that need only what their step needs."""

import asyncio
import hashlib
import json
from pathlib import Path

import pytest
from airflow.sdk import DAG, XComArg, task
from airflow.sdk.exceptions import TaskDeferred

from coding_service import (
    BatchCodeSensor,
    BatchCodeTrigger,
    CodingServiceCreateOperator,
    CodingServiceDownloadOperator,
    CodingServiceHook,
    CodingServiceOperator,
    CodingServiceUploadOperator,
)
from coding_service.errors import (
    CodingServiceError,
    InputFileError,
    OperationFailedError,
    ProtocolError,
    RetryableError,
)
from coding_service.operators import UPLOAD_GRANT_KEY
from coding_service.part_operation import OPERATION_STATE_KEY
from coding_service.sensors import OPERATION_KEY

OPERATION = "00000000-0000-4000-8000-000000000001"
LATEST = "/v1/topics/osca/batch-code"


@pytest.fixture
def output_file(tmp_path):
    return tmp_path / "results" / "out.jsonl"


@pytest.fixture
def make_task(connected, encrypted, input_file, output_file):
    """Return a function that makes the single operator for the input file; its arguments as keywords."""

    def make(**arguments):
        files = {"input_file": str(input_file), "output_file": str(output_file)}
        options = {"topic": "osca", "poll_interval": 0.01, "deferrable": False}
        return CodingServiceOperator(task_id="code", **{**files, **options, **arguments})

    return make


@pytest.fixture
def code(make_task, run, context):
    """Return a function that runs an attempt of the single operator, always with the same task state store."""
    return lambda **arguments: run(make_task(**arguments), context)


def count_creations(remote):
    return len(remote.journal("POST", "/batch-code"))


def uploaded_operations(remote):
    return [entry["operation_id"] for entry in remote.journal("PUT") if entry["status"] == 200]


def read_ids(path):
    return [json.loads(line)["recordId"] for line in path.read_text().splitlines()]


# ---- one task ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_uri", [False, True])
def test_one_task_codes_a_file_with_a_topic_and_two_files_only(
    connected, code, context, input_file, output_file, as_uri
):
    files = {"input_file": input_file.as_uri(), "output_file": output_file.as_uri()} if as_uri else {}
    result = code(**files)
    [operation] = connected.operations()
    assert read_ids(output_file) == ["r0", "r1", "r2"]
    assert result == {
        "operation_id": operation["operation_id"],
        "input_uri": input_file.as_uri(),
        "output_uri": output_file.as_uri(),
        "metadata_uri": None,
        "bytes": output_file.stat().st_size,
        "sha256": hashlib.sha256(output_file.read_bytes()).hexdigest(),
        "records": 3,
        "input_records": 3,
        "fingerprint": {
            "topic": "osca",
            "model_id": None,
            "input_sha256": hashlib.sha256(input_file.read_bytes()).hexdigest(),
        },
    }
    assert json.loads(json.dumps(result)) == result
    assert context["ti"].xcoms["operation_id"] == operation["operation_id"]
    assert context["ti"].xcoms[OPERATION_KEY]["state"] == "complete"


@pytest.mark.parametrize("model", [None, "latest"])
def test_without_a_model_the_latest_one_is_used_by_the_first_form_of_the_contract(connected, code, model):
    code(model=model)
    [operation] = connected.operations()
    assert [entry["path"] for entry in connected.journal("POST", "/batch-code")] == [LATEST]
    assert operation["model_id"] == CodingServiceHook().latest_model("osca").model_id
    assert len(connected.journal("GET", "/models")) == 1, "only the test asks for the models"


def test_a_model_can_be_named(connected, code):
    older = CodingServiceHook().models("osca")[0].model_id
    assert code(model=older)["fingerprint"]["model_id"] == older
    [operation] = connected.operations()
    assert operation["model_id"] == older


def test_the_output_is_for_its_owner_only_and_nothing_else_is_left_beside_it(code, output_file):
    code()
    assert [path.name for path in output_file.parent.iterdir()] == ["out.jsonl"]
    assert (output_file.stat().st_mode & 0o777, output_file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_an_output_of_an_earlier_run_is_replaced(code, output_file):
    output_file.parent.mkdir()
    output_file.write_text("old")
    code()
    assert read_ids(output_file) == ["r0", "r1", "r2"]


def test_the_metadata_file_is_downloaded_if_it_is_named(code, output_file):
    metadata_file = output_file.with_name("metadata.json")
    assert code(metadata_file=str(metadata_file))["metadata_uri"] == metadata_file.as_uri()
    assert json.loads(metadata_file.read_text())["records"] == 3
    assert metadata_file.stat().st_mode & 0o777 == 0o600


def test_files_can_be_in_object_storage(s3, connected, code, monkeypatch, input_file):
    monkeypatch.setenv("AIRFLOW_CONN_OPERATOR_FILES", s3.connection())
    bucket = s3.create_bucket()
    s3.client.put_object(Bucket=bucket, Key="in.jsonl", Body=input_file.read_bytes())
    files = {name: f"s3://{bucket}/{name}" for name in ("in.jsonl", "out.jsonl", "metadata.json")}
    result = code(
        input_file=files["in.jsonl"], output_file=files["out.jsonl"], metadata_file=files["metadata.json"],
        storage_conn_id="operator_files",
    )  # fmt: skip
    assert (result["input_records"], result["output_uri"]) == (3, files["out.jsonl"])
    assert result["sha256"] == hashlib.sha256(s3.read(bucket, "out.jsonl")).hexdigest()
    assert s3.keys(bucket) == ["in.jsonl", "metadata.json", "out.jsonl"]
    assert len(uploaded_operations(connected)) == 1


def test_a_deferrable_task_waits_in_the_triggerer_and_continues_in_another_process(
    connected, make_task, run, context, output_file
):
    connected.progression("by_polls", polls=2)
    with pytest.raises(TaskDeferred) as caught:
        run(make_task(deferrable=True), context)
    deferral = caught.value
    assert (deferral.method_name, deferral.kwargs) == ("resume", None), "arguments are lost in `airflow dags test`"
    operation_id = context["task_state_store"].get(OPERATION_STATE_KEY)["operation_id"]
    arguments = deferral.trigger.serialize()[1]
    assert (arguments["topic"], arguments["operation_id"]) == ("osca", operation_id)
    assert not output_file.exists()

    async def fire():
        return [event async for event in BatchCodeTrigger(**arguments).run()]

    [event] = asyncio.run(fire())
    result = make_task(deferrable=True).resume(context, json.loads(json.dumps(event.payload)))
    assert (result["operation_id"], result["input_records"]) == (operation_id, 3)
    assert read_ids(output_file) == ["r0", "r1", "r2"]


@pytest.mark.parametrize(("setting", "is_deferrable"), [("True", True), ("False", False), (None, False)])
def test_where_it_waits_follows_the_configuration_of_airflow(make_task, monkeypatch, setting, is_deferrable):
    monkeypatch.delenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", raising=False)
    if setting is not None:
        monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", setting)
    assert make_task(deferrable=None).deferrable is is_deferrable
    assert make_task(deferrable=not is_deferrable).deferrable is not is_deferrable


def test_an_output_that_lacks_a_line_is_kept_and_both_counts_are_returned(connected, code, output_file, capsys):
    connected.fault("missing_line", part_contains="baker 1")
    result = code()
    assert (result["input_records"], result["records"]) == (3, 2)
    assert len(read_ids(output_file)) == 2
    assert "The output has 2 lines for 3 records" in capsys.readouterr().out


def test_an_operation_that_fails_fails_the_task_and_the_next_attempt_opens_another(connected, code, context):
    connected.fault("operation_fails")
    with pytest.raises(OperationFailedError, match="the service failed it"):
        code()
    assert context["ti"].xcoms[OPERATION_KEY]["state"] == "failed"
    first = context["task_state_store"].get(OPERATION_STATE_KEY)["operation_id"]
    assert code()["operation_id"] != first


def test_a_wait_that_ends_at_its_timeout_is_resumed_by_the_next_attempt(connected, code):
    connected.progression("by_polls", polls=20)
    with pytest.raises(OperationFailedError, match="did not end before its deadline"):
        code(timeout=0.0)
    connected.progression("immediate")
    assert code()["records"] == 3
    assert (count_creations(connected), len(uploaded_operations(connected))) == (1, 1)


def test_a_part_takes_the_place_of_topic_model_and_files(connected, run, context, encrypted, input_file):
    part = {
        "topic": "osca",
        "model_id": CodingServiceHook().models("osca")[0].model_id,
        "input_uri": input_file.as_uri(),
        "sha256": hashlib.sha256(input_file.read_bytes()).hexdigest(),
        "records": 3,
    }
    result = run(CodingServiceOperator(task_id="code", part=part, poll_interval=0.01, deferrable=False), context)
    folder = input_file.parent / result["operation_id"]
    assert sorted(path.name for path in folder.iterdir()) == ["metadata.json", "output.jsonl"]
    assert result["fingerprint"]["model_id"] == part["model_id"]


# ---- crashes -----------------------------------------------------------------------------------------------------


class KilledError(BaseException):
    """The worker dies."""


def kill_once(monkeypatch, owner, name, moment):
    """Let the first call of a method be the death of the worker, before or after the method has done its work."""
    original, calls = getattr(owner, name), []

    def die(self, *args, **options):
        calls.append(name)
        if len(calls) > 1:
            return original(self, *args, **options)
        if moment == "after":
            original(self, *args, **options)
        raise KilledError

    monkeypatch.setattr(owner, name, die)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (CodingServiceHook, "create_operation"),
        (CodingServiceHook, "operation"),
        (CodingServiceHook, "upload"),
        (BatchCodeTrigger, "run_in_worker"),
        (CodingServiceHook, "download"),
        (CodingServiceOperator, "resume"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_whatever_step_the_worker_dies_in_the_file_is_sent_once_and_coded(
    connected, code, output_file, monkeypatch, owner, name, moment
):
    kill_once(monkeypatch, owner, name, moment)
    with pytest.raises(KilledError):
        code()
    result = code()
    assert read_ids(output_file) == ["r0", "r1", "r2"]
    assert uploaded_operations(connected) == [result["operation_id"]]
    # only an id that was never stored is lost (docs/service-contract.md 8.34)
    is_lost = (name, moment) == ("create_operation", "after")
    assert count_creations(connected) == (2 if is_lost else 1)


def test_a_worker_that_dies_while_the_file_is_sent_does_not_send_it_to_another_operation(
    connected, code, output_file
):
    connected.fault("reset_upload")
    with pytest.raises(RetryableError):
        code()
    result = code()
    assert uploaded_operations(connected) == [result["operation_id"]]
    assert count_creations(connected) == 1
    assert read_ids(output_file) == ["r0", "r1", "r2"]


def interrupt_download(remote):
    """Let the next download break off after 100 bytes, and the attempt with it."""
    remote.fault("cut_download", path_contains=".jsonl", after=100)
    remote.fault("storage_error", code="SlowDown", method="GET", path_contains=".jsonl", count=9, skip=1)


def test_a_download_continues_where_the_attempt_before_stopped(connected, code, output_file, clock):
    interrupt_download(connected)
    with pytest.raises(RetryableError):
        code()
    assert not output_file.exists()
    [partial] = output_file.parent.glob("*.partial")
    assert partial.stat().st_mode & 0o777 == 0o600
    connected.knob("DELETE", "faults")
    code()
    assert read_ids(output_file) == ["r0", "r1", "r2"]
    assert [entry["status"] for entry in connected.journal("GET", "/output/")][-1] == 206
    assert [path.name for path in output_file.parent.iterdir()] == ["out.jsonl"]


def test_downloads_from_two_operations_to_one_file_never_mix(
    connected, make_task, run, new_context, output_file, input_file, clock
):
    contexts = new_context(), new_context()
    interrupt_download(connected)
    with pytest.raises(RetryableError):
        run(make_task(), contexts[0])
    connected.knob("DELETE", "faults")
    content = input_file.read_text()
    input_file.write_text(content.replace(': "r', ': "other-'))
    run(make_task(), contexts[1])
    assert read_ids(output_file) == ["other-0", "other-1", "other-2"]
    input_file.write_text(content)
    run(make_task(), contexts[0])
    assert read_ids(output_file) == ["r0", "r1", "r2"]
    assert [entry["status"] for entry in connected.journal("GET", "/output/")][-2:] == [200, 206]


def test_a_file_that_has_changed_is_coded_by_a_new_operation(connected, code, input_file, output_file):
    first = code()
    assert code()["operation_id"] == first["operation_id"]
    input_file.write_text(input_file.read_text().splitlines()[0] + "\n")
    second = code()
    assert second["operation_id"] != first["operation_id"]
    assert read_ids(output_file) == ["r0"]
    assert uploaded_operations(connected) == [first["operation_id"], second["operation_id"]]


def test_the_grant_is_stored_in_encrypted_form_only(code, context):
    code()
    stored = json.dumps(context["task_state_store"].values) + json.dumps(context["ti"].xcoms)
    assert "http" not in stored
    assert "X-Amz" not in stored


# ---- what is refused before an operation is opened ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("", "has 0 bytes"),
        ('{"occp_text": "baker", "tasks_text": ""}\n', "line 1 has no recordId"),
        ('{"recordId": "1", "occp_text": "' + "x" * 70_000, "line 1 has more than 65536 bytes"),
    ],
)
def test_an_input_file_that_cannot_be_sent_is_refused_before_an_operation_is_opened(
    connected, code, input_file, content, message
):
    input_file.unlink()
    if content is not None:
        input_file.write_text(content)
    with pytest.raises(InputFileError, match=message):
        code()
    assert connected.journal() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topic": "a/b"}, "the topic is"),
        ({"model": "newest"}, "the model is 'newest'; expected a GUID"),
        (
            {"input_file": "in.jsonl"},
            "input_file is 'in.jsonl'; expected an absolute path, or a file:// or s3:// URI",
        ),
        ({"input_file": "/data/../etc/passwd"}, "input_file is"),
        ({"output_file": "http://host/out.jsonl"}, "output_file is"),
        ({"output_file": 7}, "output_file is 'int'"),
        ({"metadata_file": "file:///data/%2e%2e/x"}, "metadata_file is"),
    ],
)
def test_an_argument_that_is_not_what_it_has_to_be_is_refused_before_any_call(connected, code, change, message):
    with pytest.raises(ProtocolError, match=message):
        code(**change)
    assert connected.journal() == []


def test_files_of_a_task_have_to_be_different(connected, code, input_file, output_file, tmp_path):
    (tmp_path / "link.jsonl").symlink_to(input_file)
    for name in (input_file, tmp_path / "link.jsonl"):
        with pytest.raises(InputFileError, match="input_file and output_file have to be different files"):
            code(output_file=str(name))
    with pytest.raises(InputFileError, match="and metadata_file have to be different files"):
        code(metadata_file=output_file.as_uri())
    assert connected.journal() == []


def test_an_output_file_that_cannot_be_written_is_refused_before_an_operation_is_opened(
    connected, code, input_file, tmp_path
):
    with pytest.raises(InputFileError, match="cannot be written: name a file in a folder that allows it"):
        code(output_file=str(tmp_path))
    with pytest.raises(CodingServiceError, match="cannot be written"):
        code(output_file=f"{input_file}/out.jsonl")
    assert connected.journal() == []


@pytest.mark.parametrize(
    ("operator", "arguments", "message"),
    [
        (CodingServiceOperator, {"topic": "osca"}, "needs input_file and output_file"),
        (CodingServiceOperator, {"input_file": "/in", "output_file": "/out"}, "needs topic"),
        (CodingServiceCreateOperator, {}, "CodingServiceCreateOperator 'step' needs topic"),
        (CodingServiceUploadOperator, {"topic": "osca", "operation_id": OPERATION, "grant": "x"}, "needs input_file"),
        (CodingServiceUploadOperator, {"topic": "osca", "input_file": "/in", "operation_id": OPERATION}, "the grant"),
        (CodingServiceDownloadOperator, {"topic": "osca", "operation_id": OPERATION}, "needs output_file"),
    ],
)
def test_a_task_that_lacks_an_argument_is_refused_when_it_is_defined(operator, arguments, message):
    with pytest.raises(TypeError, match=message):
        operator(task_id="step", **arguments)


def test_what_a_user_names_can_be_a_template():
    files = {"input_file", "output_file", "metadata_file"}
    common = {"part", "topic", "coding_service_conn_id", "storage_conn_id"}
    assert {*CodingServiceOperator.template_fields} == {*common, *files, "model"}
    assert {*CodingServiceCreateOperator.template_fields} == {*common, "model"}
    assert {*CodingServiceUploadOperator.template_fields} == {*common, "input_file", "operation_id", "grant"}
    download_fields = {*common, "output_file", "metadata_file", "operation_id", "outcome"}
    assert {*CodingServiceDownloadOperator.template_fields} == download_fields


# ---- four tasks --------------------------------------------------------------------------------------------------


@pytest.fixture
def create(connected, encrypted, run):
    """Return a function that runs the create step."""

    def run_step(context, **arguments):
        return run(CodingServiceCreateOperator(task_id="create", topic="osca", **arguments), context)

    return run_step


@pytest.fixture
def upload(run, input_file):
    """Return a function that runs the upload step with what the create step left in its context."""

    def run_step(create_context, context):
        operator = CodingServiceUploadOperator(
            task_id="upload",
            topic="osca",
            input_file=str(input_file),
            operation_id=create_context["task_state_store"].get(OPERATION_STATE_KEY)["operation_id"],
            grant=create_context["ti"].xcoms[UPLOAD_GRANT_KEY],
        )
        return run(operator, context)

    return run_step


def wait_for(operation_id, run, context):
    options = {"poll_interval": 0.01, "deferrable": False}
    sensor = BatchCodeSensor(task_id="poll", topic="osca", operation_id=operation_id, **options)
    while not sensor.poke(context):
        pass


def test_four_tasks_code_a_file_with_a_topic_a_file_and_an_operation_id(
    connected, create, upload, run, new_context, output_file
):
    create_context = new_context()
    assert create(create_context) == upload(create_context, new_context())
    [operation] = connected.operations()
    wait_for(operation["operation_id"], run, new_context())
    download = CodingServiceDownloadOperator(
        task_id="download", topic="osca", operation_id=operation["operation_id"], output_file=str(output_file)
    )
    result = run(download, new_context())
    assert result == run(download, new_context())
    assert read_ids(output_file) == ["r0", "r1", "r2"]
    assert [path.name for path in output_file.parent.iterdir()] == ["out.jsonl"]
    assert (result["records"], result["output_uri"], result["metadata_uri"]) == (3, output_file.as_uri(), None)
    assert [entry["path"] for entry in connected.journal("POST", "/batch-code")] == [LATEST]


def test_the_upload_takes_the_grant_from_the_task_whose_output_is_its_operation_id():
    with DAG("other_dag", schedule=None):
        create = CodingServiceCreateOperator(task_id="create", topic="osca")
        upload = CodingServiceUploadOperator(
            task_id="upload", topic="osca", input_file="/in.jsonl", operation_id=create.output
        )
    assert isinstance(upload.grant, XComArg)
    assert list(upload.grant.iter_references()) == [(create, UPLOAD_GRANT_KEY)]
    assert upload.upstream_task_ids == {"create"}


def test_default_args_of_a_dag_can_name_what_some_of_its_tasks_do_not_use():
    @task
    def write_texts():
        return "/data/in.jsonl"

    with DAG("other_dag", schedule=None):
        input_file = write_texts()
    files = {"input_file": input_file, "output_file": "/data/out.jsonl"}
    with DAG("third_dag", schedule=None, default_args={"topic": "osca", "model": "latest", **files}):
        create = CodingServiceCreateOperator(task_id="create")
        download = CodingServiceDownloadOperator(task_id="download", operation_id=OPERATION)
    assert (create.topic, create.model, create.input_file, create.output_file) == ("osca", "latest", None, None)
    assert (download.topic, download.input_file, download.output_file) == ("osca", None, "/data/out.jsonl")


@pytest.mark.parametrize("progress", ["created", "uploaded"])
def test_a_step_whose_worker_died_resumes_and_the_file_is_sent_once(
    connected, create, upload, new_context, progress, monkeypatch
):
    create_context, upload_context = new_context(), new_context()
    kill_once(monkeypatch, CodingServiceHook, "upload", "after" if progress == "uploaded" else "before")
    operation_id = create(create_context)
    with pytest.raises(KilledError):
        upload(create_context, upload_context)
    assert create(create_context) == operation_id
    assert upload(create_context, upload_context) == operation_id
    assert uploaded_operations(connected) == [operation_id]
    assert count_creations(connected) == 1


def test_a_new_operation_of_the_upload_has_the_model_of_the_first_one(connected, create, upload, new_context):
    older = CodingServiceHook().models("osca")[0].model_id
    connected.fault("expired_upload")
    create_context = new_context()
    first = create(create_context, model=older)
    second = upload(create_context, new_context())
    assert second != first
    assert {operation["model_id"] for operation in connected.operations()} == {older}


def test_an_operation_for_another_model_is_not_resumed(create, context):
    first = create(context)
    assert create(context, model=CodingServiceHook().latest_model("osca").model_id) != first


def test_a_file_that_changed_after_it_was_sent_is_sent_to_a_new_operation_when_all_steps_are_cleared(
    connected, create, upload, run, new_context, input_file
):
    create_context, upload_context = new_context(), new_context()

    def run_all():
        create(create_context)
        operation_id = upload(create_context, upload_context)
        wait_for(operation_id, run, new_context())
        return operation_id

    first = run_all()
    assert run_all() == first
    input_file.write_text(input_file.read_text().splitlines()[0] + "\n")
    second = run_all()
    assert run_all() == second
    assert uploaded_operations(connected) == [first, second]
    assert [one["records"] for one in connected.operations()] == [3, 1]


def test_the_upload_checks_the_file_before_it_is_sent(connected, create, upload, new_context, input_file):
    create_context = new_context()
    create(create_context)
    input_file.write_text('{"occp_text": "baker", "tasks_text": ""}\n')
    with pytest.raises(InputFileError, match="line 1 has no recordId"):
        upload(create_context, new_context())
    assert connected.journal("PUT") == []


def test_a_download_without_the_input_file_is_resumed_after_a_crash(
    connected, create, upload, run, new_context, output_file, clock
):
    create_context, context = new_context(), new_context()
    create(create_context)
    operation_id = upload(create_context, new_context())
    wait_for(operation_id, run, new_context())
    download = CodingServiceDownloadOperator(
        task_id="download", topic="osca", operation_id=operation_id, output_file=str(output_file)
    )
    interrupt_download(connected)
    with pytest.raises(RetryableError):
        run(download, context)
    connected.knob("DELETE", "faults")
    assert run(download, context)["records"] == 3
    assert [entry["status"] for entry in connected.journal("GET", "/output/")][-1] == 206


def test_the_package_of_the_operators_imports_nothing_of_the_project():
    folder = Path(CodingServiceOperator.__init__.__code__.co_filename).parent
    assert not [path.name for path in folder.glob("*.py") if "import include" in path.read_text()]
    assert not [path.name for path in folder.glob("*.py") if "from include" in path.read_text()]
