"""The command ``serve``: runs the service and prints how to reach it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from include.local_service.core.catalogue import Catalogue, ImportedTopicError
from include.local_service.core.progress import LOG
from include.local_service.core.service import CodingService
from include.local_service.core.settings import DEFAULT_DATA_DIR, CoderKind, Progression, Settings
from include.local_service.http.certificates import SERVER_FILE, make_certificates
from include.local_service.http.server import TLS_FOLDER, listen, make_server, open_service, socket_url

EXAMPLE = """\
curl -s {url}/v1/topics/osca/code -H 'Content-Type: application/json' \\
    -H "Authorization: $(curl -s -u {client}:{secret} -d grant_type=client_credentials {url}/oauth2/token \\
        | sed 's/.*"access_token":"\\([^"]*\\)".*/\\1/')" \\
    -d '{{"record": {{"occp_text": "aged care worker", "tasks_text": "looks after residents"}}}}'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``serve``."""
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8070, help="port to listen on; 0 means any free port")
    add("--data", type=Path, default=DEFAULT_DATA_DIR, metavar="DIR", help="data folder; stores all state")
    add("--client-id", default=Settings.client_id, metavar="ID", help="client id that the token endpoint accepts")
    add("--client-secret", default=Settings.client_secret, metavar="SECRET",
        help="its secret; all users of the machine can see it on the command line")  # fmt: skip
    add("--client-secret-file", type=Path, metavar="FILE", help="file with its secret, in place of --client-secret")
    add("--progression", choices=list(map(str, Progression)), default=str(Settings.progression),
        help="when status calls show that an operation has ended")  # fmt: skip
    add("--polls", type=int, default=Settings.polls, metavar="N",
        help="for by_polls: number of status calls that still show in_progress")  # fmt: skip
    add("--seconds", type=float, default=Settings.seconds, metavar="S",
        help="for by_time: seconds after the upload that still show in_progress")  # fmt: skip
    add("--throttle", action="store_true", help="limit every client to 1 request a second and 10,000 a day")
    add("--tls", action="store_true", help="listen with TLS (https); the greeting names the CA file to trust")
    add("--coder", choices=list(map(str, CoderKind)), default=str(Settings.coder),
        help="svm codes by meaning, stub by a hash of the text (for load tests)")  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Run the service until it gets a signal to stop; return the exit status."""
    _log_to_stderr()
    try:
        server_socket = listen(options.host, options.port)
    except OSError as error:
        sys.exit(f"cannot listen on {options.host}:{options.port}: {os.strerror(error.errno or 0)}")
    try:
        with server_socket, open_service(options.data, _make_settings(options)) as service:
            url, ca_file, certificate = socket_url(server_socket, tls=options.tls), None, None
            if options.tls:
                ca_file = make_certificates(options.data / TLS_FOLDER, options.host)
                certificate = ca_file.with_name(SERVER_FILE)
            greeting = make_greeting(service, url, options.data, show_secret=sys.stdout.isatty(), ca_file=ca_file)
            make_server(service, lambda: print(greeting, flush=True), certificate).run(sockets=[server_socket])
    except BlockingIOError:
        sys.exit(f"another local coding service uses {options.data}. Stop it, or choose another folder with --data.")
    except ImportedTopicError as error:
        sys.exit(str(error))
    return 0


def _make_settings(options: argparse.Namespace) -> Settings:
    names = ("client_id", "progression", "polls", "seconds", "throttle", "tls", "coder")
    return Settings(client_secret=_read_client_secret(options), **{name: getattr(options, name) for name in names})


def _read_client_secret(options: argparse.Namespace) -> str:
    if options.client_secret_file is None:
        return str(options.client_secret)
    try:
        return str(options.client_secret_file.read_text(encoding="utf-8").strip())
    except OSError as error:
        sys.exit(f"cannot read the client secret from {options.client_secret_file}: {os.strerror(error.errno or 0)}")


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)


def make_greeting(
    service: CodingService, url: str, data: Path, *, show_secret: bool, ca_file: Path | None = None
) -> str:
    """Return the text that the service prints when it listens.

    :param show_secret: False for a log, where the client secret does not belong.
    :param ca_file: what clients have to trust, if the service listens with TLS.
    """
    settings = service.settings
    secret = settings.client_secret if show_secret else "$CLIENT_SECRET"
    lines = [
        f"local coding service listening on {url}",
        *_describe_topics(service.catalogue),
        f"  client id    {settings.client_id}",
        f"  secret       {secret if show_secret else 'shown on a terminal only; the default is in --help'}",
        f"  data         {data}",
        *([f"  CA file      {ca_file}: for curl --cacert, and `verify` of the connection"] if ca_file else []),
        f"  coder        {settings.coder}, shows results {_describe_delay(service)}"
        f"{', throttled' if settings.throttle else ''}",
        "",
        EXAMPLE.format(url=url, client=settings.client_id, secret=secret),
    ]
    return "\n".join(lines)


def _describe_topics(catalogue: Catalogue) -> Iterator[str]:
    for topic in catalogue.topics:
        yield f"  topic        {topic.uri_name}: {topic.full_name}, version {topic.version!r}"
        yield from (f"    model {model.version}    {model.model_id}" for model in catalogue.models(topic))


def _describe_delay(service: CodingService) -> str:
    delay = service.status_delay
    descriptions = {
        Progression.IMMEDIATE: "at once",
        Progression.BY_POLLS: f"after {delay.polls} status calls",
        Progression.BY_TIME: f"{delay.seconds:g} s after the upload",
    }
    return descriptions[delay.progression]
