"""A runner of the whole DAG, in the process of the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from include.local_service.http.server import LocalService
from tests.support.dag_runner import DagRunner, open_runner


@pytest.fixture(scope="module")
def _metadata_database() -> None:
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture(scope="module")
def plain_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalService]:
    with LocalService(tmp_path_factory.mktemp("service"), coder="stub", progression="immediate") as service:
        yield service


@pytest.fixture
def make_runner(_metadata_database: None, tmp_path: Path) -> Iterator[Callable[..., DagRunner]]:
    """Return a function that connects the DAG to a service without any state; extra fields as keywords."""
    with ExitStack() as stack:
        yield lambda service, **extra: stack.enter_context(open_runner(service, tmp_path, **extra))


@pytest.fixture
def runner(make_runner: Callable[..., DagRunner], plain_service: LocalService) -> DagRunner:
    return make_runner(plain_service)
