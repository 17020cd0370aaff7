"""Restarts after a stop or a kill: every response remains true."""

import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from include.local_service.http.server import LocalService
from tests.local_service.conftest import SSE, SSE_KEY, Caller, make_input, read_lines

ROOT = Path(__file__).parents[2]


class Process:
    """The service in a process, always on the same port."""

    def __init__(self, data_dir):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.data_dir = data_dir
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self, *options):
        command = [sys.executable, "-m", "include.local_service", "--port", str(self.port)]
        command += ["--data", str(self.data_dir), "--coder", "stub", "--progression", "immediate", *options]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line == f"local coding service listening on {self.url}\n"

    def kill(self, signal_number=signal.SIGKILL):
        self.process.send_signal(signal_number)
        self.process.wait()
        self.process.stdout.close()

    def restart(self, *options):
        self.kill()
        self.start(*options)

    def peak_memory_mb(self):
        """Return the peak resident size in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024


@pytest.fixture
def process(tmp_path):
    process = Process(tmp_path / "data")
    process.start()
    yield process
    if process.process.poll() is None:
        process.kill()


@pytest.fixture
def remote(process, session):
    return Caller(process.url, session)


def test_a_termination_signal_stops_it_cleanly(process, remote):
    remote.get("topics")
    process.kill(signal.SIGTERM)
    assert process.process.returncode in {0, -signal.SIGTERM}


def test_a_second_service_on_the_same_folder_is_refused(process, tmp_path):
    command = [sys.executable, "-m", "include.local_service", "--port", "0", "--data", str(tmp_path / "data")]
    second = subprocess.run([*command, "--coder", "stub"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert "another local coding service uses" in second.stderr


def test_tokens_grants_and_links_survive_a_kill(process, remote):
    grant = remote.create()
    process.restart()
    assert remote.status(grant["operationId"]) == {"operationStatus": "awaiting_input"}
    assert remote.upload(grant, make_input(10)).status_code == 200
    status = remote.wait_for(grant["operationId"])
    output = remote.session.get(status["responseDownloadUrl"]).content
    process.restart()
    assert remote.session.get(status["responseDownloadUrl"]).content == output
    assert remote.session.get(status["metadataDownloadUrl"]).json()["records"] == 10
    assert [entry["status"] for entry in remote.journal()].count(200) == len(remote.journal())


def test_an_upload_interrupted_by_a_kill_has_no_effect(process, remote):
    grant = remote.create()
    place = urlsplit(grant["requestUploadUrl"])
    head = (
        f"PUT {place.path}?{place.query} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: 5000000\r\n"
        f"{SSE}: aws:kms\r\n{SSE_KEY}: {grant['bucketKmsKeyArn']}\r\n\r\n"
    )
    incoming = process.data_dir / "objects" / "incoming"
    with socket.create_connection((place.hostname, place.port)) as connection:
        connection.sendall(head.encode() + b"x" * 4_000_000)
        remote.wait_until(lambda: any(path.stat().st_size for path in incoming.iterdir()))
        process.restart()
    assert list(incoming.iterdir()) == []
    assert remote.status(grant["operationId"]) == {"operationStatus": "awaiting_input"}
    assert remote.upload(grant, make_input(1)).status_code == 200


def test_an_operation_in_progress_is_coded_again_after_a_kill(process, remote):
    operation_id = remote.submit(make_input(120_000))
    remote.wait_until(lambda: any((process.data_dir / "objects" / "incoming").iterdir()))
    process.kill()
    process.start("--progression", "by_polls", "--polls", "0")
    assert remote.status(operation_id)["operationStatus"] == "in_progress"
    lines = read_lines(remote.output(operation_id))
    assert [line["recordId"] for line in lines] == [f"r{n}" for n in range(120_000)]


def test_the_clock_does_not_go_back_at_a_restart(process, remote):
    grant = remote.create()
    remote.jump(3600)
    process.restart()
    remote.token = None
    assert remote.status(grant["operationId"]) == {"operationStatus": "timed_out"}


def test_every_response_before_a_kill_still_holds_afterwards(process, session):
    grants, uploads = [], []

    def work():
        with requests.Session() as thread_session:
            caller = Caller(process.url, thread_session)
            try:
                while True:
                    grants.append(caller.create())
                    assert caller.upload(grants[-1], make_input(3, f"nr {len(grants)}")).status_code == 200
                    uploads.append((len(grants), grants[-1]["operationId"]))
            except requests.RequestException:
                return

    caller = Caller(process.url, session)
    for target in (3, 7, 20):
        thread = threading.Thread(target=work)
        goal = len(uploads) + target
        thread.start()
        caller.wait_until(lambda goal=goal: len(uploads) >= goal)
        process.kill()
        thread.join()
        process.start()
    caller.token = None
    operations = {one["operation_id"]: one for one in caller.knob("GET", "operations")["operations"]}
    assert {grant["operationId"] for grant in grants} <= set(operations)
    for number, operation_id in uploads:
        lines = read_lines(caller.output(operation_id))
        assert [line["input"]["occp_text"] for line in lines] == [f"nr {number} {n}" for n in range(3)]
    in_use = sum(1 for one in operations.values() if one["input_file"]) + 2 * len(uploads)
    assert len(list((process.data_dir / "objects" / "complete").iterdir())) >= in_use


def test_pending_faults_survive_a_kill_with_their_remaining_counts(process, remote):
    remote.fault("server_error", count=3)
    remote.fault("operation_fails", skip=1, error="out of memory")
    assert remote.get("topics").status_code == 500
    pending = remote.knob("GET", "faults")
    process.restart()
    assert remote.knob("GET", "faults") == pending
    assert [remote.get("topics").status_code for _ in range(3)] == [500, 500, 200]
    first, second = remote.submit(make_input(1)), remote.submit(make_input(1))
    remote.wait_for(first)
    process.restart()
    assert remote.wait_for(second, "failed")["error"] == "out of memory"
    assert remote.knob("GET", "faults") == {"faults": []}


def test_the_progression_set_by_a_knob_survives_a_kill_until_a_reset(process, remote):
    remote.knob("POST", "progression", {"progression": "by_polls", "polls": 1})
    process.restart()
    operation_id = remote.submit(make_input(1))
    assert remote.status(operation_id) == {"operationStatus": "in_progress"}
    remote.wait_for(operation_id)
    remote.knob("POST", "reset")
    assert remote.knob("GET", "state")["progression"] == "immediate"


def test_a_restart_does_not_reset_the_call_limits(tmp_path, session):
    def calls(count):
        with LocalService(tmp_path / "data", coder="stub", throttle=True, requests_per_day=3) as service:
            caller = Caller(service.url, session)
            for _ in range(count):
                caller.jump(1)
                yield caller.get("topics").status_code

    assert list(calls(2)) == [200, 200]
    assert list(calls(2)) == [200, 429]


def test_released_models_survive_a_kill(process, remote):
    remote.fault("new_latest_model")
    latest = remote.get("topics/osca/models/latest").json()
    process.restart()
    assert remote.get("topics/osca/models/latest").json() == latest
    assert latest["modelVersion"] == 3


@pytest.fixture(scope="session")
def gigabyte(tmp_path_factory):
    """A sparse file of a gigabyte: it has only zeros and uses no disk space."""
    path = tmp_path_factory.mktemp("large") / "zeros"
    with path.open("wb") as handle:
        handle.truncate(1_000_000_000)
    return path


def test_an_upload_of_a_gigabyte_takes_little_memory(process, remote, gigabyte):
    grant = remote.create()
    before = process.peak_memory_mb()
    with gigabyte.open("rb") as body:
        assert remote.upload(grant, body).status_code == 200
    assert "line 1: longer than 65536 bytes" in remote.wait_for(grant["operationId"], "failed")["error"]
    assert process.peak_memory_mb() - before < 60


def test_coding_and_download_of_a_large_file_take_little_memory(process, remote):
    body, size, before = make_input(300_000), 0, process.peak_memory_mb()
    operation_id = remote.submit(body)
    with remote.session.get(remote.wait_for(operation_id)["responseDownloadUrl"], stream=True) as response:
        for block in response.iter_content(1 << 20):
            size += len(block)
    assert size > 50_000_000
    assert process.peak_memory_mb() - before < 60
