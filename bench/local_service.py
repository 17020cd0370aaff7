"""Measure the throughput of the local coding service, side by side with servers that do nothing else."""

from __future__ import annotations

import argparse
import asyncio
import functools
import http.client
import http.server
import json
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

from bench.measure import ROOT, read_peak_bytes
from include.local_service.coder.stub import StubCoder

GIGABYTE = 1_000_000_000
MIB = 1 << 20
RECORDS = 300_000
CALLS = 1_000
ROUNDS = 3
BATCH = 1000
SSE = "x-amz-server-side-encryption"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def main(gigabytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder, start_service(Path(folder) / "data") as service:
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
        response = self._connection.getresponse()
        content = json.loads(response.read())
        assert response.status == 200, content
        return content

    def create(self) -> dict[str, str]:
        self._connection.close()  # the service closes connections that are idle for seconds
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

    def peak_mib(self) -> int:
        """Return the peak resident size of the process in MiB."""
        return read_peak_bytes(self.pid) // MIB


@contextmanager
def start_service(data: Path) -> Iterator[Service]:
    """Yield the service, which runs in a process of its own."""
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
    """Upload a large file to the service, and to a server that discards it."""
    size = zeros.stat().st_size
    with run_server("sink") as sink_url:
        sink_seconds = best(lambda: put(f"{sink_url}/zeros", zeros, {}))
    before = service.peak_mib()
    service_seconds = best(lambda: upload(service, zeros))
    after = service.peak_mib()
    print(
        f"Upload of {size // GIGABYTE} GB: {speed(service_seconds, size)}, a server that discards it"
        f" {speed(sink_seconds, size)}: ratio {sink_seconds / service_seconds:.2f} (best of {ROUNDS});"
        f" memory of the service {before} -> {after} MiB"
    )


def upload(service: Service, path: Path) -> None:
    grant = service.create()
    headers = {SSE: "aws:kms", f"{SSE}-aws-kms-key-id": grant["bucketKmsKeyArn"]}
    put(grant["requestUploadUrl"], path, headers)


def put(url: str, path: Path, headers: dict[str, str]) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, blocksize=MIB)
    with path.open("rb") as body:
        length = {"Content-Length": str(path.stat().st_size)}
        connection.request("PUT", f"{parts.path}?{parts.query}", body, {**headers, **length})
        assert connection.getresponse().status == 200
    connection.close()


@contextmanager
def run_server(*arguments: str) -> Iterator[str]:
    """Run a server of this module in a process of its own, and yield its URL."""
    command = [sys.executable, "-m", "bench.local_service", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


async def serve_sink() -> None:
    async def discard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        remaining = int(head.lower().partition(b"content-length: ")[2].split()[0])
        while remaining:
            remaining -= len(await reader.read(min(remaining, MIB)))
        writer.write(OK)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(discard, "127.0.0.1", 0, limit=MIB)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def compare_downloads(service: Service, folder: Path) -> None:
    """Download an output file from the service, and the same file from the server of the standard library."""
    source = folder / "input.jsonl"
    line = '{{"recordId":"r{0}","occp_text":"worker {0}","tasks_text":"does the work"}}\n'
    source.write_text("".join(map(line.format, range(RECORDS))))
    grant = service.create()
    headers = {SSE: "aws:kms", f"{SSE}-aws-kms-key-id": grant["bucketKmsKeyArn"]}
    put(grant["requestUploadUrl"], source, headers)
    coding_seconds = measure_seconds(lambda: service.wait_for(grant["operationId"]))
    print(f"Coding by the stub, from input file to output file: {RECORDS / coding_seconds:,.0f} records/s")
    link = service.status(grant["operationId"])["responseDownloadUrl"]
    copy = folder / "output.jsonl"
    size = get(link, copy)
    service_seconds = best(lambda: get(link))
    with run_server("files", str(folder)) as url:
        plain_seconds = best(lambda: get(f"{url}/{copy.name}"))
    print(
        f"Download of {size / MIB:.0f} MiB: {speed(service_seconds, size)}, http.server {speed(plain_seconds, size)}:"
        f" ratio {plain_seconds / service_seconds:.2f} (best of {ROUNDS})"
    )


def get(url: str, target: Path = Path("/dev/null")) -> int:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc)
    connection.request("GET", f"{parts.path}?{parts.query}")
    with target.open("wb") as handle:
        shutil.copyfileobj(connection.getresponse(), handle, MIB)
        size = handle.tell() if target.is_file() else 0
    connection.close()
    return size


def serve_files(folder: str) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


def count_status_calls(service: Service) -> None:
    """Measure sequential status calls on one connection; the service stores its state on disk at each call."""
    operation_id = service.create()["operationId"]
    elapsed = measure_seconds(lambda: [service.status(operation_id) for _ in range(CALLS)])
    print(f"Sequential status calls: {CALLS / elapsed:,.0f}/s")


def count_stub_records() -> None:
    """Measure the stub alone, with batches as the service passes them."""
    batches = [
        [(f"worker {n}", "does the work") for n in range(start, start + BATCH)] for start in range(0, RECORDS, BATCH)
    ]
    coder = StubCoder()
    elapsed = best(lambda: [len(coder.code(batch)) for batch in batches])
    print(f"The stub coder alone: {RECORDS / elapsed:,.0f} records/s")


def measure_seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def best(work: Callable[[], object]) -> float:
    return min(measure_seconds(work) for _ in range(ROUNDS))


def speed(elapsed: float, size: int) -> str:
    return f"{size / MIB / elapsed:,.0f} MiB/s"


if __name__ == "__main__":
    if sys.argv[1:2] == ["sink"]:
        asyncio.run(serve_sink())
    elif sys.argv[1:2] == ["files"]:
        serve_files(sys.argv[2])
    else:
        parser = argparse.ArgumentParser(prog="python -m bench.local_service", description=__doc__)
        gigabytes_help = f"size of the upload; {ROUNDS} copies stay on disk until the end"
        parser.add_argument("--gigabytes", type=int, choices=range(1, 6), default=1, help=gigabytes_help)
        main(parser.parse_args().gigabytes)
