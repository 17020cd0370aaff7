"""The control routes: their effects, and that they refuse unknown names and values."""

import pytest

from tests.local_service.conftest import make_input


def test_the_journal_has_every_request_without_its_query(caller):
    operation_id = caller.submit(make_input(3))
    status = caller.wait_for(operation_id)
    size = len(caller.session.get(status["responseDownloadUrl"]).content)
    entries = caller.journal()
    assert [entry["sequence"] for entry in entries] == list(range(1, len(entries) + 1))
    assert [(entry["method"], entry["path"]) for entry in (*entries[:3], entries[-1])] == [
        ("POST", "/oauth2/token"),
        ("POST", "/v1/topics/osca/batch-code"),
        ("PUT", f"/local-coding-service/input/{operation_id}.jsonl"),
        ("GET", f"/local-coding-service/output/{operation_id}.jsonl"),
    ]
    assert {entry["operation_id"] for entry in entries[1:]} == {operation_id}
    assert {entry["client_id"] for entry in entries} == {"local-client", None}
    assert entries[2]["bytes_received"] == len(make_input(3))
    assert entries[-1]["bytes_sent"] == size
    assert {entry["status"] for entry in entries} == {200}
    assert "X-Amz" not in str(entries)


def test_the_journal_can_be_read_after_a_sequence_number(caller):
    for _ in range(3):
        caller.get("topics")
    assert [entry["sequence"] for entry in caller.journal(since=2)] == [3, 4]


def test_the_journal_includes_refusals_but_no_secrets(caller):
    caller.session.get(f"{caller.url}/v1/topics", headers={"Authorization": "stolen"})
    entry = caller.journal()[-1]
    assert (entry["status"], entry["client_id"]) == (403, None)
    assert "stolen" not in str(entry)


@pytest.mark.parametrize("ending", ["upload", "head"])
def test_a_response_without_a_body_is_in_the_journal_when_it_arrives(caller, ending):
    grant, methods = caller.create(), []
    for _ in range(20):
        if ending == "upload":
            caller.upload(grant, make_input(1))
        else:
            caller.session.head(f"{caller.url}/v1/topics")
        methods.append(caller.journal()[-1]["method"])
    assert set(methods) == {"PUT" if ending == "upload" else "HEAD"}


def test_operations_are_listed_in_their_actual_state(start):
    caller = start(progression="by_polls", polls=1000)
    operation_id = caller.submit(make_input(3))
    caller.wait_until(lambda: caller.knob("GET", "operations")["operations"][0]["state"] == "complete")
    assert caller.status(operation_id) == {"operationStatus": "in_progress"}
    listing = caller.knob("GET", "operations")["operations"][0]
    assert listing["operation_id"] == operation_id
    assert listing["client_id"] == "local-client"
    assert listing["records"] == 3


def test_the_progression_can_be_changed_while_running(start):
    caller = start(progression="by_polls", polls=1000)
    operation_id = caller.submit(make_input(1))
    assert caller.status(operation_id) == {"operationStatus": "in_progress"}
    caller.knob("POST", "progression", {"progression": "immediate"})
    caller.wait_for(operation_id)


def test_a_reset_deletes_all_state(caller):
    caller.fault("server_error", skip=100)
    caller.jump(5000)
    operation_id = caller.submit(make_input(3))
    link = caller.wait_for(operation_id)["responseDownloadUrl"]
    caller.knob("POST", "reset")
    assert caller.get("topics").status_code == 403
    assert caller.session.get(link).status_code == 403
    caller.token = None
    assert caller.get(f"topics/osca/batch-code/operations/{operation_id}").status_code == 404
    assert caller.knob("GET", "operations") == {"operations": []}
    assert caller.knob("GET", "faults") == {"faults": []}
    assert caller.journal()[0]["sequence"] == 1
    caller.wait_until(lambda: caller.files("complete") == [])
    caller.wait_for(caller.submit(make_input(3)))


@pytest.mark.parametrize(
    ("method", "name", "body"),
    [
        ("GET", "nothing", None),
        ("POST", "nothing", {}),
        ("DELETE", "journal", None),
        ("GET", "journal?until=3", None),
        ("GET", "journal?since=x", None),
        ("GET", f"journal?since={'9' * 5000}", None),
        ("POST", "clock", {}),
        ("POST", "clock", {"jump_seconds": -1}),
        ("POST", "clock", {"jump_seconds": "60"}),
        ("POST", "clock", {"jump_seconds": 60, "by": "me"}),
        ("POST", "clock", {"jump_seconds": 1e12}),
        ("POST", "clock", {"jump_seconds": 10**400}),
        ("POST", "progression", {"progression": "slow"}),
        ("POST", "progression", {"progression": "by_polls", "polls": 1.5}),
        ("POST", "progression", {"progression": "by_time", "second": 5}),
        ("POST", "progression", {"progression": "by_time", "seconds": 1e12}),
        ("POST", "faults", {}),
        ("POST", "faults", {"name": "server_eror"}),
        ("POST", "faults", {"name": ["server_error"]}),
        ("POST", "faults", {"name": "server_error", "times": 3}),
        ("POST", "faults", {"name": "server_error", "count": 0}),
        ("POST", "faults", {"name": "server_error", "count": "3"}),
        ("POST", "faults", {"name": "server_error", "skip": -1}),
        ("POST", "faults", {"name": "server_error", "after": 3}),
        ("POST", "faults", {"name": "server_error", "method": "post"}),
        ("POST", "faults", {"name": "reset_upload", "after": True}),
        ("POST", "faults", {"name": "operation_fails", "error": 3}),
        ("POST", "faults", {"name": "operation_fails", "error": "\ud800"}),
        ("POST", "faults", ["server_error"]),
        ("POST", "reset", {"hard": True}),
    ],
)
def test_an_unknown_name_or_value_is_refused_with_a_list_of_the_known_ones(caller, method, name, body):
    response = caller.session.request(method, f"{caller.url}/_local/{name}", json=body)
    assert response.status_code == 400
    assert set(response.json()) == {"message", "known"}
    assert caller.knob("GET", "faults") == {"faults": []}


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000, b'{"jump_seconds": NaN}'])
def test_a_body_that_is_not_json_is_refused(caller, body):
    response = caller.session.post(f"{caller.url}/_local/clock", data=body)
    assert (response.status_code, response.json()["known"]) == (400, ["a JSON object"])


def test_a_refusal_lists_the_names_of_all_faults(caller):
    response = caller.session.post(f"{caller.url}/_local/faults", json={"name": "x"}).json()
    assert set(response["known"]) == {
        "server_error", "too_many_requests", "limit_exceeded", "reset_upload", "cut_download", "expired_link",
        "expired_upload", "operation_fails", "operation_times_out", "short_output", "garbage_line",
        "missing_line", "access_denied", "duplicate_line", "shuffled_lines", "late_status", "new_latest_model",
        "lost_create", "no_models", "hidden_operation", "missing_links", "spelled_status", "unknown_status",
        "other_field_names", "storage_error", "abrupt_refusal", "chunked_download", "closed_download",
        "gzip_download", "changed_input", "changed_metadata",
    }  # fmt: skip
