"""Faults and options that produce what services and stores do in practice (docs/service-contract.md 10)."""

import gc
import gzip
import socket
import ssl
import subprocess
import sys
import warnings
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from include.local_service.core.storage_codes import STATUS
from tests.local_service.conftest import SSE, SSE_KEY, make_input, read_lines

MANY = make_input(500)


def read_code(response):
    return response.status_code, response.text.partition("<Code>")[2].partition("<")[0]


@pytest.fixture
def link(caller):
    return caller.wait_for(caller.submit(MANY))["responseDownloadUrl"]


@pytest.fixture
def content(caller, link):
    return caller.session.get(link).content


def test_an_operation_can_be_hidden_for_some_status_calls(caller):
    caller.fault("hidden_operation", count=2)
    path = f"topics/osca/batch-code/operations/{caller.create()['operationId']}"
    responses = [caller.get(path) for _ in range(3)]
    assert [response.status_code for response in responses] == [404, 404, 200]
    assert responses[0].json() == {"message": "The specified operation does not exist"}


def test_the_links_of_a_complete_operation_can_be_missing_at_first(caller):
    operation_id = caller.submit(MANY)
    caller.wait_for(operation_id)
    caller.fault("missing_links")
    assert caller.status(operation_id) == {"operationStatus": "complete"}
    assert "responseDownloadUrl" in caller.status(operation_id)


def test_missing_links_affect_no_operation_that_is_not_complete(caller):
    caller.fault("missing_links")
    caller.status(caller.create()["operationId"])
    assert len(caller.knob("GET", "faults")["faults"]) == 1


@pytest.mark.parametrize(
    ("style", "status"),
    [
        ("upper", "AWAITING_INPUT"),
        ("title", "Awaiting Input"),
        ("hyphens", "awaiting-input"),
        ("camel", "awaitingInput"),
    ],
)
def test_the_status_can_be_spelled_in_other_ways(caller, style, status):
    operation_id = caller.create()["operationId"]
    caller.fault("spelled_status", style=style)
    assert caller.status(operation_id) == {"operationStatus": status}
    assert caller.status(operation_id) == {"operationStatus": "awaiting_input"}


def test_the_status_can_be_a_word_of_no_contract(caller):
    caller.fault("unknown_status", status="validating")
    assert caller.status(caller.create()["operationId"]) == {"operationStatus": "validating"}


def test_the_field_names_of_create_and_status_can_be_in_lower_case(caller):
    caller.fault("other_field_names", count=2)
    grant = caller.create()
    assert set(grant) == {"requestuploadurl", "operationid", "bucketkmskeyarn"}
    assert caller.status(grant["operationid"]) == {"operationstatus": "awaiting_input"}


@pytest.mark.parametrize("code", sorted(STATUS))
def test_the_storage_can_return_each_of_its_errors_to_an_upload_and_to_a_download(caller, link, code):
    grant = caller.create()
    caller.fault("storage_error", code=code, method="PUT")
    caller.fault("storage_error", code=code, method="GET")
    assert read_code(caller.upload(grant, MANY)) == (STATUS[code], code)
    assert read_code(caller.session.get(link)) == (STATUS[code], code)
    assert caller.status(grant["operationId"]) == {"operationStatus": "awaiting_input"}
    assert caller.session.get(link).status_code == 200
    assert caller.upload(grant, MANY).status_code == 200


@pytest.mark.parametrize("option", [{"code": "Oops"}, {"method": "PATCH"}])
def test_an_unknown_code_or_method_is_refused(caller, option):
    response = caller.session.post(f"{caller.url}/_local/faults", json={"name": "storage_error", **option})
    assert response.status_code == 400


def test_an_unknown_style_is_refused_with_those_that_exist(caller):
    response = caller.session.post(f"{caller.url}/_local/faults", json={"name": "spelled_status", "style": "x"})
    assert (response.status_code, response.json()["known"]) == (400, ["upper", "title", "hyphens", "camel"])


def test_a_download_can_have_no_length_and_say_by_itself_that_it_is_complete(caller, link, content):
    caller.fault("chunked_download")
    response = caller.session.get(link)
    assert response.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in response.headers
    assert response.content == content


def test_the_end_of_the_connection_can_be_the_end_of_a_download(caller, link, content):
    caller.fault("closed_download")
    response = caller.session.get(link)
    assert not {"content-length", "transfer-encoding"} & {name.lower() for name in response.headers}
    assert response.content == content
    entry = caller.journal()[-1]
    assert (entry["status"], entry["bytes_sent"]) == (200, len(content))


def test_a_download_can_lack_its_end_without_any_sign(caller, link, content):
    caller.fault("closed_download", after=1000)
    assert caller.session.get(link).content == content[:1000]


def test_a_download_can_be_compressed(caller, link, content):
    caller.fault("gzip_download")
    with caller.session.get(link, stream=True) as response:
        assert response.headers["content-encoding"] == "gzip"
        assert gzip.decompress(response.raw.read(decode_content=False)) == content


def test_the_returned_input_can_differ_harmlessly(caller):
    caller.fault("changed_input")
    lines = read_lines(caller.output(caller.submit(make_input(2))))
    assert [line["recordId"] for line in lines] == ["r0", "r1"]
    assert lines[0]["input"]["occp_text"] == " WORKER 0  "
    assert lines[0]["input"]["language"] == "en"


def test_the_metadata_can_name_the_model_in_another_form(caller):
    caller.fault("changed_metadata")
    status = caller.wait_for(caller.submit(make_input(2)))
    model = caller.get("topics/osca/models/latest").json()["modelId"]
    assert caller.session.get(status["metadataDownloadUrl"]).json()["modelId"] == f"urn:uuid:{model.upper()}"


# ---- TLS ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tls_caller(start):
    caller = start(tls=True)
    session = requests.Session()
    session.trust_env, session.verify = False, str(caller.service.ca_file)
    caller.session = session
    yield caller
    session.close()


def test_the_service_can_listen_with_tls_and_all_its_links_use_it(tls_caller):
    assert tls_caller.url.startswith("https://")
    grant = tls_caller.create()
    assert grant["requestUploadUrl"].startswith(tls_caller.url)
    assert tls_caller.upload(grant, MANY).status_code == 200
    link = tls_caller.wait_for(grant["operationId"])["responseDownloadUrl"]
    assert len(tls_caller.session.get(link).text.splitlines()) == 500


def test_a_client_that_does_not_trust_the_authority_cannot_connect(tls_caller):
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{tls_caller.url}/openapi.json", timeout=10)


def test_an_upload_over_tls_can_be_refused_before_it_is_read(tls_caller):
    grant = tls_caller.create()
    tls_caller.fault("abrupt_refusal")
    place = urlsplit(grant["requestUploadUrl"])
    head = (
        f"PUT {place.path}?{place.query} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: 50000000\r\n"
        f"{SSE}: aws:kms\r\n{SSE_KEY}: {grant['bucketKmsKeyArn']}\r\n\r\n"
    )
    context = ssl.create_default_context(cafile=str(tls_caller.service.ca_file))
    with (
        socket.create_connection((place.hostname, place.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=place.hostname) as connection,
    ):
        connection.sendall(head.encode())
        with pytest.raises((ssl.SSLError, ConnectionError)):  # the service does not read the body
            connection.sendall(b"x" * 50_000_000)
    entry = tls_caller.wait_for_entry(lambda entry: entry["method"] == "PUT")
    assert entry["status"] == 403
    assert entry["bytes_received"] < 50_000_000
    assert tls_caller.status(grant["operationId"]) == {"operationStatus": "awaiting_input"}


def test_a_stopped_service_leaves_no_connection_of_an_idle_tls_client_open(tls_caller):
    tls_caller.create()  # the session keeps its connection
    tls_caller.service.stop()
    with warnings.catch_warnings(record=True) as unclosed:
        warnings.simplefilter("always", ResourceWarning)
        gc.collect()
    assert [str(warning.message) for warning in unclosed] == []


def test_the_command_line_serves_with_tls_and_names_the_authority(tmp_path):
    command = [sys.executable, "-m", "include.local_service", "--port", "0", "--data", str(tmp_path), "--tls"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            lines = [process.stdout.readline()]
            while lines[-1] and "CA file" not in lines[-1]:
                lines.append(process.stdout.readline())
        finally:
            process.terminate()
    assert lines[0].split()[-1].startswith("https://")
    assert str(tmp_path / "tls" / "ca.pem") in lines[-1]
