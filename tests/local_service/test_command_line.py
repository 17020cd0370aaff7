"""The commands, as a person types them: what they print and how they end."""

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
def serving(*arguments, stdout=subprocess.PIPE):
    command = [sys.executable, "-m", "include.local_service", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def read_greeting(stream):
    """Return the greeting up to the end of its example."""
    lines = []
    while not lines or "residents" not in lines[-1]:
        lines.append(stream.readline().rstrip("\r\n"))
        assert len(lines) < 40, lines
    return lines


@pytest.fixture
def terminal():
    """A pseudo-terminal: the end that the service writes to, and a stream of what it wrote."""
    ours, theirs = os.openpty()
    with os.fdopen(ours) as stream:
        yield theirs, stream


def test_the_help_names_every_command():
    done = run("--help")
    assert done.returncode == 0
    assert all(re.search(rf"^    {name} ", done.stdout, re.MULTILINE) for name in COMMANDS)


@pytest.mark.parametrize("arguments", [("frobnicate",), ("serve", "--coder", "real"), ("status", "--port", "1")])
def test_what_is_not_known_is_refused_with_usage(arguments):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: python -m include.local_service" in done.stderr


@pytest.mark.parametrize("command", [(), ("serve",)])
def test_a_start_says_where_it_listens_and_what_it_offers(tmp_path, command, session):
    with serving(*command, *STUB, "--data", str(tmp_path / "data")) as process:
        first, *others = read_greeting(process.stdout)
        url = first.removeprefix("local coding service listening on ")
        state = session.get(f"{url}/_local/state").json()
        told = "\n".join(others)
        for name, topic in state["topics"].items():
            assert f"{name}: {topic['fullName']}" in told
            assert all(model["modelId"] in told for model in topic["models"])
        assert "client id    local-client" in told
        assert str(tmp_path / "data") in told


def test_the_client_secret_is_shown_on_a_terminal_only(tmp_path, terminal):
    written, stream = terminal
    with serving(*STUB, "--data", str(tmp_path / "data")) as process:
        assert "local-secret" not in "\n".join(read_greeting(process.stdout))
    with serving(*STUB, "--data", str(tmp_path / "data"), stdout=written):
        assert "  secret       local-secret" in read_greeting(stream)


def test_the_example_of_the_start_does_what_it_says(tmp_path, terminal):
    written, stream = terminal
    with serving(*STUB, "--data", str(tmp_path / "data"), stdout=written):
        lines = read_greeting(stream)
        example = "\n".join(lines[lines.index("") + 1 :])
        done = subprocess.run(["bash", "-c", example], capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(done.stdout)["input"]["occp_text"] == "aged care worker"


def test_a_port_that_is_taken_ends_the_start_with_a_word(tmp_path, caller):
    port = caller.url.rpartition(":")[2]
    done = run("--port", port, "--data", str(tmp_path))
    assert (done.returncode, done.stderr) == (1, f"cannot listen on 127.0.0.1:{port}: Address already in use\n")


def test_status_shows_topics_models_and_operations_by_state(caller):
    caller.wait_for(caller.submit(make_input(3)))
    caller.create()
    models = caller.get("topics/osca/models").json()
    caller.fault("server_error", count=2)
    done = run("status", "--url", caller.url)
    assert done.returncode == 0
    assert "osca         Local sample classification" in done.stdout
    assert all(model["modelId"] in done.stdout for model in models)
    assert "operations   1 awaiting_input, 1 complete" in done.stdout
    assert "faults       server_error x2" in done.stdout


def test_status_of_nothing_says_that_nothing_answers():
    done = run("status", "--url", "http://127.0.0.1:9")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no local coding service responds at http://127.0.0.1:9: " in done.stderr


def test_the_log_has_a_line_for_each_operation_that_was_coded(tmp_path, session):
    with serving(*STUB, "--progression", "immediate", "--data", str(tmp_path / "data")) as process:
        url = read_greeting(process.stdout)[0].rpartition(" ")[2]
        caller = Caller(url, session)
        good, bad = caller.submit(make_input(3)), caller.submit("nonsense\n")
        caller.wait_for(good)
        caller.wait_for(bad, "failed")
        process.terminate()
        told = process.stderr.read().splitlines()
    assert re.fullmatch(rf"\d\d:\d\d:\d\d operation {good}: coded 3 records in 0\.\d s, [\d,]+/s", told[0])
    assert told[1].endswith(
        f"operation {bad}: failed: Malformed record found in input file: line 1: not a JSON object"
    )
    assert len(told) == 2


def test_one_text_can_be_coded_without_a_service(tmp_path):
    done = run("code", "aged care worker", "--tasks", "looks after residents", "--data", str(tmp_path))
    assert done.returncode == 0
    assert re.match(r"\d{6} +Aged care worker", done.stdout), done.stdout
