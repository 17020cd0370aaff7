"""What Airflow learns of the provider: valid for its schemas, true for the code, and free of imports."""

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from airflow._shared.providers_discovery.providers_discovery import (
    _create_customized_form_field_behaviours_schema_validator,
    _create_provider_info_schema_validator,
)

from coding_service import CodingServiceHook
from coding_service.provider_info import PARTNER_API_URL, PARTNER_AUTH_URL, get_provider_info
from coding_service.settings import HTTP_EXTRAS, OWN_EXTRAS, ServiceSettings
from tests.coding_service.test_settings import FakeConnection

ROOT = Path(__file__).parents[2]
(CONNECTION_TYPE,) = get_provider_info()["connection-types"]
FIELDS = CONNECTION_TYPE["conn-fields"]


def test_the_description_is_valid_for_airflow():
    behaviour = {name.replace("-", "_"): value for name, value in CONNECTION_TYPE["ui-field-behaviour"].items()}
    assert list(_create_provider_info_schema_validator().iter_errors(get_provider_info())) == []
    assert list(_create_customized_form_field_behaviours_schema_validator().iter_errors(behaviour)) == []


def test_the_distribution_is_named_as_in_the_description_and_declares_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == get_provider_info()["package-name"]
    (entry_point,) = project["entry-points"]["apache_airflow_provider"].values()
    module, _, name = entry_point.partition(":")
    assert getattr(import_module(module), name) is get_provider_info


def test_hook_and_modules_of_the_description_exist():
    module, _, name = CONNECTION_TYPE["hook-class-name"].rpartition(".")
    assert getattr(import_module(module), name) is CodingServiceHook
    assert CONNECTION_TYPE["connection-type"] == CodingServiceHook.conn_type
    assert CONNECTION_TYPE["hook-name"] == CodingServiceHook.hook_name
    for kind in ("hooks", "operators", "sensors", "triggers"):
        for entry in get_provider_info()[kind]:
            assert [import_module(module) for module in entry["python-modules"]]


def test_airflow_can_read_the_description_before_it_can_import_hooks_and_operators():
    program = (
        "import sys; from coding_service.provider_info import get_provider_info; get_provider_info();"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    modules = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT / "plugins", text=True).split()
    assert "coding_service" in modules
    assert not {"airflow", "requests"} & set(modules)


def test_a_connection_with_the_defaults_of_the_form_is_one_to_the_partner_service():
    extra = {name: field["schema"]["default"] for name, field in FIELDS.items()}
    read = ServiceSettings.from_connection(FakeConnection(host=PARTNER_API_URL, port=443), extra)
    assert read == ServiceSettings(PARTNER_API_URL, PARTNER_AUTH_URL, "client1", "secret123")


def test_a_form_whose_fields_have_been_emptied_is_read_with_the_defaults():
    for empty in (None, ""):
        extra = {**dict.fromkeys(FIELDS, empty), "auth_host": PARTNER_AUTH_URL}
        read = ServiceSettings.from_connection(FakeConnection(), extra)
        assert (read.requests_per_second, read.requests_per_day, read.verify) == (1.0, 10_000, True)
        assert read.budget_conn_id is None


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_an_extra_of_the_connection_with_a_label_and_a_description(name):
    assert name in OWN_EXTRAS | HTTP_EXTRAS
    assert FIELDS[name]["label"]
    assert FIELDS[name]["description"].endswith(".")
    assert "null" in FIELDS[name]["schema"]["type"], "a form stores null for an empty field"


def test_only_fields_that_have_no_meaning_are_hidden():
    behaviour = CONNECTION_TYPE["ui-field-behaviour"]
    assert behaviour["hidden-fields"] == ["schema"]
    assert behaviour["relabeling"] == {"host": "API URL", "login": "Client id", "password": "Client secret"}
    assert set(behaviour["placeholders"]) == {"host", "port", "login", "password"}
