"""``python -m include.local_service serve``: run the service and say how to reach it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from include.local_service.catalogue import Catalogue, ImportedTopicError, Topic
from include.local_service.progress import LOG
from include.local_service.server import listen, make_server, open_service, url_of
from include.local_service.service import CodingService
from include.local_service.settings import (
    DEFAULT_CLIENT_ID,
    DEFAULT_CLIENT_SECRET,
    CoderKind,
    Progression,
    Settings,
)

DEFAULT_DATA = Path(".run/service")
"""Where `make run` and `make up` keep the service's data as well."""

EXAMPLE = """\
curl -s {url}/v1/topics/osca/code -H 'Content-Type: application/json' \\
    -H "Authorization: $(curl -s -u {client}:{secret} -d grant_type=client_credentials {url}/oauth2/token \\
        | sed 's/.*"access_token":"\\([^"]*\\)".*/\\1/')" \\
    -d '{{"record": {{"occp_text": "aged care worker", "tasks_text": "looks after residents"}}}}'"""


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``serve``."""
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8070, help="port to listen on; 0 takes any free one")
    add("--data", type=Path, default=DEFAULT_DATA, metavar="DIR", help="folder that holds all state")
    add("--client-id", default=DEFAULT_CLIENT_ID, metavar="ID", help="client id that the token endpoint takes")
    add("--client-secret", default=DEFAULT_CLIENT_SECRET, metavar="SECRET", help="its secret")
    add("--progression", choices=list(map(str, Progression)), default=str(Settings.progression),
        help="when a finished operation is shown as finished")  # fmt: skip
    add("--polls", type=int, default=Settings.polls, metavar="N",
        help="by_polls: status calls that still show in_progress")  # fmt: skip
    add("--seconds", type=float, default=Settings.seconds, metavar="S",
        help="by_time: seconds that still show in_progress")  # fmt: skip
    add("--throttle", action="store_true", help="hold every client to 1 request a second and 10,000 a day")
    add("--coder", choices=list(map(str, CoderKind)), default=str(Settings.coder),
        help="svm reads the texts, stub goes by a hash of them (for load tests)")  # fmt: skip


def serve_command(chosen: argparse.Namespace) -> int:
    """Run the service until it is told to stop; return the exit status."""
    _log_to_stderr()
    try:
        bound = listen(chosen.host, chosen.port)
    except OSError as error:
        sys.exit(f"cannot listen on {chosen.host}:{chosen.port}: {os.strerror(error.errno or 0)}")
    try:
        with bound, open_service(chosen.data, _settings(chosen)) as service:
            told = greeting(service, url_of(bound), chosen.data, reveal=sys.stdout.isatty())
            make_server(service, lambda: print(told, flush=True)).run(sockets=[bound])
    except BlockingIOError:
        sys.exit(f"another local coding service uses {chosen.data}")
    except ImportedTopicError as error:
        sys.exit(str(error))
    return 0


def _settings(chosen: argparse.Namespace) -> Settings:
    names = ("client_id", "client_secret", "progression", "polls", "seconds", "throttle", "coder")
    return Settings(**{name: getattr(chosen, name) for name in names})


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)


def greeting(service: CodingService, url: str, data: Path, *, reveal: bool) -> str:
    """Return what the service says when it listens.

    :param reveal: whether to show the client secret; a log is no place for it.
    """
    settings = service.settings
    secret = settings.client_secret if reveal else "$CLIENT_SECRET"
    lines = [
        f"local coding service listening on {url}",
        *_describe_topics(service),
        f"  client id    {settings.client_id}",
        f"  secret       {secret if reveal else 'not shown in a log; the default is in --help'}",
        f"  data         {data}",
        f"  coder        {settings.coder}, shows results {_describe_pace(service)}"
        f"{', throttled' if settings.throttle else ''}",
        "",
        EXAMPLE.format(url=url, client=settings.client_id, secret=secret),
    ]
    return "\n".join(lines)


def _describe_topics(service: CodingService) -> list[str]:
    return [line for topic in service.catalogue.topics for line in _describe_topic(topic, service.catalogue)]


def _describe_topic(topic: Topic, catalogue: Catalogue) -> list[str]:
    models = [f"    model {model.version}    {model.model_id}" for model in catalogue.models(topic)]
    return [f"  topic        {topic.uri_name}: {topic.full_name}, version {topic.version!r}", *models]


def _describe_pace(service: CodingService) -> str:
    pace = service.pace
    told = {
        Progression.IMMEDIATE: "at once",
        Progression.BY_POLLS: f"after {pace.polls} status calls",
        Progression.BY_TIME: f"{pace.seconds:g} s after the upload",
    }
    return told[pace.progression]
