"""The provider alone: its wheel in an Airflow that knows neither this project nor its plugins folder.

The environment is a virtual environment of its own with nothing but the wheel; Airflow and the packages that the wheel
needs are those of the environment of the tests, so that no package index is needed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from coding_service.provider_info import PARTNER_API_URL, PARTNER_AUTH_URL
from include.local_service.http.server import LocalService
from include.stack.processes import PROJECT

pytestmark = pytest.mark.airflow

DAG_FILE = """
from airflow.sdk import DAG
from coding_service import CodingServiceOperator

with DAG("one_task", schedule=None):
    CodingServiceOperator(
        task_id="code", topic="osca", input_file="{folder}/in.jsonl", output_file="{folder}/out.jsonl", poll_interval=0.1
    )
"""
LINE = {"recordId": "1", "occp_text": "baker", "tasks_text": "bakes bread"}
#: Asks Airflow's own API in this process, and prints its answers.
CLIENT = """
import json, sys
import coding_service
from airflow.api_fastapi.app import create_app
from fastapi.testclient import TestClient

url, port = sys.argv[1].rpartition(":")[::2]
extra = {"auth_host": sys.argv[1], "requests_per_second": 100, "requests_per_day": None, "verify": "", "budget_conn_id": None}
stored = {"connection_id": "coding_service_default", "conn_type": "coding_service", "host": url, "port": int(port),
          "login": "local-client", "password": "local-secret", "extra": json.dumps(extra)}
with TestClient(create_app("core")) as client:
    client.headers["Authorization"] = "Bearer " + client.get("/auth/token").json()["access_token"]
    forms = client.get("/ui/connections/hook_meta").json()
    created = client.post("/api/v2/connections", json=stored)
    assert created.status_code == 201, created.text
    shown = client.get("/api/v2/connections/coding_service_default").json()
    # what the edit page sends: the password that it was shown
    unchanged = {name: shown[name] for name in ("connection_id", "conn_type", "host", "port", "login", "password", "extra")}
    test = lambda **fields: client.post("/api/v2/connections/test", json={**unchanged, **fields}).json()
    answers = {
        "file": coding_service.__file__,
        "form": next(form for form in forms if form["connection_type"] == "coding_service"),
        "shown": shown,
        "stored": test(),
        "wrong_secret": test(password="wr0ngSecret"),
        "wrong_port": test(port=1, password="local-secret"),
    }
print("ANSWERS" + json.dumps(answers))
"""


class Alone:
    """An Airflow in an environment with the wheel.

    :param folder: of the environment, of Airflow and of the files
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))},
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
            "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def install(self) -> None:
        """Build the wheel from a copy of the files that it is made of, and install it in a new environment."""
        source, environment = self.folder / "source", self.folder / "environment"
        (source / "plugins").mkdir(parents=True)
        for name in ("pyproject.toml", "LICENSE"):
            shutil.copy(PROJECT / name, source)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / "plugins" / "coding_service", source / "plugins" / "coding_service", ignore=ignored)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        options = ["--no-index", "--no-deps", "--no-build-isolation"]
        self._run(*pip, "wheel", *options, "--wheel-dir", str(self.folder), str(source))
        (wheel,) = self.folder.glob("*.whl")
        self._run(sys.executable, "-m", "venv", "--without-pip", str(environment))
        packages = environment / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
        self._run(*pip, "install", "--no-index", "--no-deps", "--target", str(packages), str(wheel))
        (packages / "packages_of_the_tests.pth").write_text(sysconfig.get_path("purelib"))
        shutil.rmtree(source)

    def python(self, *arguments: str) -> str:
        """Run Python in the environment, and return what it prints."""
        return self._run(str(self.folder / "environment" / "bin" / "python"), *arguments)

    def airflow(self, *arguments: str) -> str:
        """Run a command of Airflow, and return what it prints."""
        return self.python("-m", "airflow", *arguments)

    def _run(self, *command: str) -> str:
        process = subprocess.run(
            command, env=self._environment, cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert process.returncode == 0, f"{command}\n{process.stdout}\n{process.stderr}"
        return process.stdout


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalService]:
    with LocalService(tmp_path_factory.mktemp("service"), coder="stub", progression="immediate") as service:
        yield service


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    alone = Alone(tmp_path_factory.mktemp("alone"))
    alone.install()
    alone.airflow("db", "migrate")
    return alone


@pytest.fixture(scope="module")
def answers(alone: Alone, service: LocalService) -> dict[str, Any]:
    """What Airflow's API answers; it stores the connection as a side effect."""
    (line,) = [line for line in alone.python("-c", CLIENT, service.url).splitlines() if line.startswith("ANSWERS")]
    return dict(json.loads(line.removeprefix("ANSWERS")))


def test_the_package_of_the_wheel_is_the_one_that_is_imported(alone: Alone, answers: dict[str, Any]) -> None:
    assert Path(answers["file"]).is_relative_to(alone.folder / "environment")


def test_the_form_has_our_names_fields_and_the_defaults_of_the_partner_service(answers: dict[str, Any]) -> None:
    form = answers["form"]
    assert form["hook_name"] == "Occupation Coding Service"
    standard = form["standard_fields"]
    assert (standard["host"]["title"], standard["host"]["placeholder"]) == ("API URL", PARTNER_API_URL)
    assert (standard["login"]["title"], standard["password"]["title"]) == ("Client id", "Client secret")
    assert standard["url_schema"]["hidden"] is True
    assert standard["port"]["hidden"] is False
    fields = {name: (field["schema"]["title"], field["value"]) for name, field in form["extra_fields"].items()}
    assert fields == {
        "auth_host": ("Token URL", PARTNER_AUTH_URL),
        "requests_per_second": ("Calls per second", 1),
        "requests_per_day": ("Calls per day", 10_000),
        "verify": ("Verify certificates", "true"),
        "budget_conn_id": ("Connection of the call budget", None),
    }


def test_a_stored_connection_shows_its_settings_but_not_its_secret(answers: dict[str, Any]) -> None:
    assert "local-secret" not in json.dumps(answers["shown"])
    assert "***" not in answers["shown"]["extra"], "what the API masks cannot be edited"


def test_the_test_button_works_for_a_stored_connection_with_empty_fields(answers: dict[str, Any]) -> None:
    assert answers["stored"]["status"] is True
    assert answers["stored"]["message"].startswith("Connected; topics: ")


def test_the_test_button_says_what_to_do_and_does_not_show_the_secret(answers: dict[str, Any]) -> None:
    assert answers["wrong_secret"]["status"] is False
    assert answers["wrong_secret"]["message"].startswith("Wrong credentials. Enter client id and client secret")
    assert "wr0ngSecret" not in answers["wrong_secret"]["message"]
    assert answers["wrong_port"]["message"].startswith("Wrong host, or no way to it")


def test_the_provider_is_listed(alone: Alone) -> None:
    assert "airflow-provider-occupation-coding" in alone.airflow("providers", "list")


@pytest.mark.usefixtures("answers")
def test_one_task_codes_a_file(alone: Alone) -> None:
    (alone.folder / "dags").mkdir()
    (alone.folder / "dags" / "one_task.py").write_text(DAG_FILE.format(folder=alone.folder))
    (alone.folder / "in.jsonl").write_text(json.dumps(LINE) + "\n")
    alone.airflow("dags", "test", "one_task")
    assert json.loads((alone.folder / "out.jsonl").read_text())["recordId"] == "1"
