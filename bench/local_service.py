"""What the local coding service carries, beside bare servers that do nothing else in the same run: `make bench`."""

from __future__ import annotations

import argparse
import asyncio
import functools
import http.client
import http.server
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from include.local_service.coder.stub import StubCoder  # noqa: E402

GIGABYTE = 1_000_000_000
MIB = 1 << 20
RECORDS = 300_000
CALLS = 1_000
ROUNDS = 3
BATCH = 1000
SSE = "x-amz-server-side-encryption"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def main(gigabytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "data") as service:
        zeros = Path(folder) / "zeros"
        with zeros.open("wb") as handle:
            handle.truncate(gigabytes * GIGABYTE)
        compare_uploads(service, zeros)
        compare_downloads(service, Path(folder))
        count_status_calls(service)
    count_stub_records()


class Service:
    """A running service, its credentials and its process."""

    def __init__(self, url: str, pid: int, data: Path) -> None:
        self.pid, self.data = pid, data
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc)
        form = {
            "Authorization": f"Basic {b64encode(b'local-client:local-secret').decode()}",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        token = self._send("POST", "/oauth2/token", b"grant_type=client_credentials", form)["access_token"]
        self._headers = {"Authorization": token, "Content-Type": "application/json"}

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Any:
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        content = json.loads(answer.read())
        assert answer.status == 200, content
        return content

    def create(self) -> dict[str, str]:
        self._connection.close()  # the service has closed it after seconds without a call
        grant: dict[str, str] = self._send("POST", "/v1/topics/osca/batch-code", None, self._headers)
        return grant

    def status(self, operation_id: str) -> dict[str, str]:
        path = f"/v1/topics/osca/batch-code/operations/{operation_id}"
        status: dict[str, str] = self._send("GET", path, None, self._headers)
        return status

    def wait_for(self, operation_id: str) -> dict[str, str]:
        while (status := self.status(operation_id))["operationStatus"] == "in_progress":
            time.sleep(0.05)
        return status

    def most_memory(self) -> int:
        """The largest resident size so far, in MiB."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+)", text)
        assert found
        return int(found[1]) // 1024


@contextmanager
def serving(data: Path) -> Iterator[Service]:
    """Run the service in a process of its own."""
    command = [sys.executable, "-m", "include.local_service", "--port", "0", "--data", str(data)]
    options = ["--coder", "stub", "--progression", "immediate"]
    with subprocess.Popen(
        [*command, *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        try:
            yield Service(url, process.pid, data)
        finally:
            process.terminate()


def compare_uploads(service: Service, zeros: Path) -> None:
    """A large file into the service and into a sink that throws it away."""
    size = zeros.stat().st_size
    with bare_sink() as sink:
        bare = best(lambda: put(f"{sink}/zeros", zeros, {}))
    before = service.most_memory()
    own = best(lambda: upload(service, zeros))
    after = service.most_memory()
    print(
        f"Upload of {size // GIGABYTE} GB: {speed(own, size)}, a bare asyncio sink {speed(bare, size)}:"
        f" ratio {bare / own:.2f} (best of {ROUNDS}); memory of the service {before} -> {after} MiB"
    )


def upload(service: Service, path: Path) -> None:
    grant = service.create()
    headers = {SSE: "aws:kms", f"{SSE}-aws-kms-key-id": grant["bucketKmsKeyArn"]}
    put(grant["requestUploadUrl"], path, headers)


def put(url: str, path: Path, headers: dict[str, str]) -> None:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.netloc, blocksize=MIB)
    with path.open("rb") as body:
        length = {"Content-Length": str(path.stat().st_size)}
        connection.request("PUT", f"{place.path}?{place.query}", body, {**headers, **length})
        assert connection.getresponse().status == 200
    connection.close()


@contextmanager
def bare_sink() -> Iterator[str]:
    """A server in a process of its own that reads bodies, does nothing with them and says 200."""
    command = [sys.executable, __file__, "sink"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


async def sink() -> None:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        left = int(head.lower().partition(b"content-length: ")[2].split()[0])
        while left:
            left -= len(await reader.read(min(left, MIB)))
        writer.write(OK)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0, limit=MIB)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def compare_downloads(service: Service, folder: Path) -> None:
    """The output of an operation from the service, and the same file from the standard library's server."""
    source = folder / "input.jsonl"
    line = '{{"recordId":"r{0}","occp_text":"worker {0}","tasks_text":"does the work"}}\n'
    source.write_text("".join(map(line.format, range(RECORDS))))
    grant = service.create()
    headers = {SSE: "aws:kms", f"{SSE}-aws-kms-key-id": grant["bucketKmsKeyArn"]}
    put(grant["requestUploadUrl"], source, headers)
    taken = seconds(lambda: service.wait_for(grant["operationId"]))
    print(f"Coding by the stub, from input file to output file: {RECORDS / taken:,.0f} records/s")
    link = service.status(grant["operationId"])["responseDownloadUrl"]
    copy = folder / "output.jsonl"
    size = get(link, copy)
    own = best(lambda: get(link))
    with plain_server(folder) as url:
        bare = best(lambda: get(f"{url}/{copy.name}"))
    print(
        f"Download of {size / MIB:.0f} MiB: {speed(own, size)}, a bare http.server {speed(bare, size)}:"
        f" ratio {bare / own:.2f} (best of {ROUNDS})"
    )


def get(url: str, target: Path = Path("/dev/null")) -> int:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.netloc)
    connection.request("GET", f"{place.path}?{place.query}")
    with target.open("wb") as handle:
        shutil.copyfileobj(connection.getresponse(), handle, MIB)
        size = handle.tell() if target.is_file() else 0
    connection.close()
    return size


@contextmanager
def plain_server(folder: Path) -> Iterator[str]:
    """The standard library's server in a process of its own."""
    command = [sys.executable, __file__, "files", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def serve_files(folder: str) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


def count_status_calls(service: Service) -> None:
    """Status calls one after the other on one connection, each with its state on disk."""
    operation_id = service.create()["operationId"]
    taken = seconds(lambda: [service.status(operation_id) for _ in range(CALLS)])
    print(f"Status calls, one after the other: {CALLS / taken:,.0f}/s")


def count_stub_records() -> None:
    """The stub alone, in batches as the service gives them to it."""
    batches = [
        [(f"worker {n}", "does the work") for n in range(start, start + BATCH)] for start in range(0, RECORDS, BATCH)
    ]
    coder = StubCoder()
    taken = best(lambda: [len(coder.code(batch)) for batch in batches])
    print(f"The stub coder alone: {RECORDS / taken:,.0f} records/s")


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def best(work: Callable[[], object]) -> float:
    return min(seconds(work) for _ in range(ROUNDS))


def speed(taken: float, size: int) -> str:
    return f"{size / MIB / taken:,.0f} MiB/s"


if __name__ == "__main__":
    if sys.argv[1:2] == ["sink"]:
        asyncio.run(sink())
    elif sys.argv[1:2] == ["files"]:
        serve_files(sys.argv[2])
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        told = f"size of the upload, of which {ROUNDS} stay on disk until the end"
        parser.add_argument("--gigabytes", type=int, choices=range(1, 6), default=1, help=told)
        main(parser.parse_args().gigabytes)
