"""The commands in processes of their own: output and exit status."""

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.local_service.conftest import Caller, make_input

ROOT = Path(__file__).parents[2]
COMMANDS = ("serve", "status", "import", "train", "evaluate", "code")
STUB = ("--coder", "stub", "--port", "0")


def run(*arguments):
    command = [sys.executable, "-m", "include.local_service", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@contextmanager
def run_service(*arguments, stdout=subprocess.PIPE):
    command = [sys.executable, "-m", "include.local_service", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def read_greeting(stream):
    """Return the lines of the greeting, its example command included."""
    lines = []
    while not lines or "residents" not in lines[-1]:
        lines.append(stream.readline().rstrip("\r\n"))
        assert len(lines) < 40, lines
    return lines


@pytest.fixture
def terminal():
    """A pseudo-terminal: the descriptor for the service's output, and a stream to read it."""
    reader, writer = os.openpty()
    with os.fdopen(reader) as stream:
        yield writer, stream


def test_the_help_names_every_command():
    process = run("--help")
    assert process.returncode == 0
    assert all(re.search(rf"^    {name} ", process.stdout, re.MULTILINE) for name in COMMANDS)


@pytest.mark.parametrize("arguments", [("frobnicate",), ("serve", "--coder", "real"), ("status", "--port", "1")])
def test_unknown_arguments_are_refused_with_usage(arguments):
    process = run(*arguments)
    assert (process.returncode, process.stdout) == (2, "")
    assert "usage: python -m include.local_service" in process.stderr


@pytest.mark.parametrize("command", [(), ("serve",)])
def test_serve_prints_its_address_topics_and_models(tmp_path, command, session):
    with run_service(*command, *STUB, "--data", str(tmp_path / "data")) as process:
        first, *others = read_greeting(process.stdout)
        url = first.removeprefix("local coding service listening on ")
        state = session.get(f"{url}/_local/state").json()
        greeting = "\n".join(others)
        for name, topic in state["topics"].items():
            assert f"{name}: {topic['fullName']}" in greeting
            assert all(model["modelId"] in greeting for model in topic["models"])
        assert "client id    local-client" in greeting
        assert str(tmp_path / "data") in greeting


def test_the_client_secret_is_shown_on_a_terminal_only(tmp_path, terminal):
    writer, stream = terminal
    with run_service(*STUB, "--data", str(tmp_path / "data")) as process:
        assert "local-secret" not in "\n".join(read_greeting(process.stdout))
    with run_service(*STUB, "--data", str(tmp_path / "data"), stdout=writer):
        assert "  secret       local-secret" in read_greeting(stream)


def test_the_client_secret_can_be_read_from_a_file_so_that_no_command_line_shows_it(tmp_path, session):
    (tmp_path / "secret").write_text("kept-in-a-file\n")
    with run_service(
        *STUB, "--data", str(tmp_path / "data"), "--client-secret-file", str(tmp_path / "secret")
    ) as process:
        url = read_greeting(process.stdout)[0].removeprefix("local coding service listening on ")
        assert [
            session.post(
                f"{url}/oauth2/token", auth=("local-client", secret), data={"grant_type": "client_credentials"}
            ).status_code
            for secret in ("kept-in-a-file", "local-secret")
        ] == [200, 400]
    process = run("serve", "--client-secret-file", str(tmp_path / "missing"), "--data", str(tmp_path / "data"))
    assert process.returncode == 1
    assert "cannot read the client secret" in process.stderr


def test_the_example_command_in_the_greeting_works(tmp_path, terminal):
    writer, stream = terminal
    with run_service(*STUB, "--data", str(tmp_path / "data"), stdout=writer):
        lines = read_greeting(stream)
        example = "\n".join(lines[lines.index("") + 1 :])
        process = subprocess.run(["bash", "-c", example], capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(process.stdout)["input"]["occp_text"] == "aged care worker"


def test_a_port_in_use_ends_the_start_with_a_message(tmp_path, caller):
    port = caller.url.rpartition(":")[2]
    process = run("--port", port, "--data", str(tmp_path))
    assert (process.returncode, process.stderr) == (1, f"cannot listen on 127.0.0.1:{port}: Address already in use\n")


def test_status_shows_topics_models_and_operations_by_state(caller):
    caller.wait_for(caller.submit(make_input(3)))
    caller.create()
    models = caller.get("topics/osca/models").json()
    caller.fault("server_error", count=2)
    process = run("status", "--url", caller.url)
    assert process.returncode == 0
    assert "osca         Local sample classification" in process.stdout
    assert all(model["modelId"] in process.stdout for model in models)
    assert "operations   1 awaiting_input, 1 complete" in process.stdout
    assert "faults       server_error x2" in process.stdout


def test_status_without_a_service_ends_with_a_message():
    process = run("status", "--url", "http://127.0.0.1:9")
    assert (process.returncode, process.stdout) == (1, "")
    assert "no local coding service responds at http://127.0.0.1:9: " in process.stderr


def test_the_log_has_a_line_for_each_operation_that_was_coded(tmp_path, session):
    with run_service(*STUB, "--progression", "immediate", "--data", str(tmp_path / "data")) as process:
        url = read_greeting(process.stdout)[0].rpartition(" ")[2]
        caller = Caller(url, session)
        good, bad = caller.submit(make_input(3)), caller.submit("nonsense\n")
        caller.wait_for(good)
        caller.wait_for(bad, "failed")
        process.terminate()
        log_lines = process.stderr.read().splitlines()
    assert re.fullmatch(rf"\d\d:\d\d:\d\d operation {good}: coded 3 records in 0\.\d s, [\d,]+/s", log_lines[0])
    assert log_lines[1].endswith(
        f"operation {bad}: failed: Malformed record found in input file: line 1: not a JSON object"
    )
    assert len(log_lines) == 2


def test_one_text_can_be_coded_without_a_service(coder, data_dir_with_model):
    process = run("code", "aged care worker", "--tasks", "looks after residents", "--data", str(data_dir_with_model))
    assert (process.returncode, process.stderr) == (0, "")  # no progress of a training: the model file exists
    assert re.match(r"\d{6} +Aged care worker", process.stdout), process.stdout
