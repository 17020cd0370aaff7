"""The names that users import."""

import inspect
import re
from pathlib import Path

import pytest
from airflow.providers.http.hooks.http import HttpAsyncHook, HttpHook
from airflow.sdk import DAG, BaseOperator, BaseSensorOperator
from airflow.triggers.base import BaseTrigger

import coding_service

BASES = {
    "CodingServiceOperator": BaseOperator,
    "CodingServiceCreateOperator": coding_service.CodingServiceOperator,
    "CodingServiceUploadOperator": coding_service.CodingServiceOperator,
    "CodingServiceDownloadOperator": coding_service.CodingServiceOperator,
    "BatchCodeSensor": BaseSensorOperator,
    "BatchCodeTrigger": BaseTrigger,
    "CodingServiceHook": HttpHook,
    "CodingServiceAsyncHook": HttpAsyncHook,
}


@pytest.mark.parametrize("name", coding_service.__all__)
def test_every_public_name_exists_and_has_a_docstring(name):
    assert inspect.getdoc(getattr(coding_service, name))


@pytest.mark.parametrize("name", BASES)
def test_the_documented_names_are_public_and_have_their_base_class(name):
    assert name in coding_service.__all__
    assert issubclass(getattr(coding_service, name), BASES[name])


def test_the_list_of_public_names_is_sorted_and_has_no_duplicates():
    assert coding_service.__all__ == sorted(set(coding_service.__all__))


def test_the_connection_type_is_the_documented_one():
    for hook in (coding_service.CodingServiceHook, coding_service.CodingServiceAsyncHook):
        assert (hook.conn_type, hook.default_conn_name) == ("coding_service", "coding_service_default")


PAGE = (Path(__file__).parents[2] / "docs" / "operators.md").read_text(encoding="utf-8")
OPERATORS = [name for name in BASES if name.endswith(("Operator", "Sensor"))]


@pytest.mark.parametrize("name", OPERATORS)
def test_every_argument_of_an_operator_is_documented(name):
    arguments = inspect.signature(getattr(coding_service, name).__init__).parameters
    names = [argument for argument in arguments if argument not in ("self", "kwargs")]
    assert [argument for argument in names if f"`{argument}`" not in PAGE] == []


@pytest.mark.parametrize("program", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_an_example_of_the_documentation_defines_tasks(program):
    with DAG("documented", schedule=None) as dag:
        exec(program, {})
    assert dag.task_ids in (["code"], ["create", "upload", "poll", "download"])
    assert len(dag.roots) == 1
