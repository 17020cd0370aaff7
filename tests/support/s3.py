"""A real S3 server for tests: moto in its own process, on a free port of 127.0.0.1."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import s3fs

#: Prints its port and serves until its input is closed.
SERVE = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else it logs every request
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""
KEY, SECRET, REGION = "test-key", "s3-open-sesame", "ap-southeast-2"


class S3:
    """A running server and its buckets."""

    def __init__(self, port: int, pid: int) -> None:
        self.pid = pid
        self.url, self._numbers = f"http://127.0.0.1:{port}", itertools.count(1)
        self.client = boto3.client(
            "s3", endpoint_url=self.url, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name=REGION
        )

    def create_bucket(self) -> str:
        """Create an empty bucket and return its name."""
        name = f"bucket-{next(self._numbers)}"
        self.client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        return name

    def connection(self, **s3: Any) -> str:
        """Return an Airflow connection of type aws as JSON, with additional settings of its service `s3`."""
        extra = {"region_name": REGION, "service_config": {"s3": {"endpoint_url": self.url, **s3}}}
        return json.dumps({"conn_type": "aws", "login": KEY, "password": SECRET, "extra": extra})

    def file_system(self) -> Any:
        """Return an fsspec file system of the server."""
        return s3fs.S3FileSystem(
            key=KEY, secret=SECRET, endpoint_url=self.url, client_kwargs={"region_name": REGION},
            use_listings_cache=False, skip_instance_cache=True,
        )  # fmt: skip

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Return the keys of the objects of a bucket."""
        response = self.client.list_objects_v2(Bucket=bucket, Prefix=prefix)
        return [entry["Key"] for entry in response.get("Contents", [])]

    def read(self, bucket: str, key: str) -> bytes:
        """Return the content of an object."""
        return bytes(self.client.get_object(Bucket=bucket, Key=key)["Body"].read())

    def unfinished(self, bucket: str) -> list[str]:
        """Return the keys of multipart uploads that were neither completed nor aborted."""
        return [entry["Key"] for entry in self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


@contextmanager
def run_s3() -> Iterator[S3]:
    """Run a server."""
    command = [sys.executable, "-c", SERVE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield S3(int(process.stdout.readline()), process.pid)
